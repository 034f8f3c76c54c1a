// The kernels without Python and PyTorch, for sanitizers: odd sizes, tensors that end where their
// memory ends, three workers, against the sums as written in double.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <thread>
#include <vector>

#include "interface.h"

using namespace lambda_det;

namespace {

void run(Index workers, Index tasks, void (*task)(void*, Index, Index), void* context) {
  std::vector<std::thread> threads;
  for (Index w = 0; w < workers; ++w)
    threads.emplace_back([=] {
      for (Index i = w; i < tasks; i += workers) task(context, i, w);
    });
  for (std::thread& thread : threads) thread.join();
}

void* take(std::size_t bytes) { return operator new(bytes, std::align_val_t(64)); }
void give_back(void* memory, std::size_t) { operator delete(memory, std::align_val_t(64)); }

// A tensor of five axes that owns its memory; `last` puts the second and third axis last.
template <class T>
struct Owned {
  std::vector<T> data;
  Index size[5];
  Tensor tensor;

  Owned(Index a, Index b, Index c, Index d, Index e, bool last)
      : data(a * b * c * d * e), size{a, b, c, d, e} {
    const int type = sizeof(T) == 4 ? kFloat32 : kFloat64;
    tensor = {data.data(), {b * c * d * e, c * d * e, d * e, e, 1}, type};
    if (last) tensor = {data.data(), {b * c * d * e, c, 1, e * b * c, b * c}, type};
    for (T& number : data) number = T(std::rand() % 2001 - 1000) / T(1000);
  }
  T& at(Index a, Index b, Index c, Index d, Index e) {
    const Index* s = tensor.strides;
    return data[a * s[0] + b * s[1] + c * s[2] + d * s[3] + e * s[4]];
  }
};

template <class T>
double largest_difference(Owned<T>& found, Owned<double>& wanted) {
  double largest = 0;
  const Index* size = found.size;
  for (Index a = 0; a < size[0]; ++a)
    for (Index b = 0; b < size[1]; ++b)
      for (Index c = 0; c < size[2]; ++c)
        for (Index d = 0; d < size[3]; ++d)
          for (Index e = 0; e < size[4]; ++e) {
            const double difference = found.at(a, b, c, d, e) - wanted.at(a, b, c, d, e);
            largest = std::fmax(largest, std::fabs(difference));
          }
  return largest;
}

template <class T>
double largest_error(const Sizes& s, bool last, Kernel forward, Kernel backward) {
  const Index n = s.images, h = s.heads, k = s.depth, u = s.sets, v = s.channels;
  const Index y = s.height, x = s.width;
  Owned<T> query(n, h, k, y, x, last), query_gradient(n, h, k, y, x, last);
  Owned<T> value(n, u, v, y, x, last), value_gradient(n, u, v, y, x, last);
  Owned<T> output(n, h, v, y, x, last), output_gradient(n, h, v, y, x, last);
  Owned<T> embedding(k, u, s.rows, s.columns, 1, false);
  Owned<T> embedding_gradient(k, u, s.rows, s.columns, 1, false);
  const Call call = {s, query.tensor, value.tensor, embedding.tensor, output.tensor,
                     query_gradient.tensor, value_gradient.tensor, embedding_gradient.tensor,
                     output_gradient.tensor, query.tensor.type};
  const Machine machine = {3, run, take, give_back};
  forward(call, machine);
  backward(call, machine);

  Owned<double> o(n, h, v, y, x, false), dq(n, h, k, y, x, false), dv(n, u, v, y, x, false);
  Owned<double> de(k, u, s.rows, s.columns, 1, false);
  for (Owned<double>* sum : {&o, &dq, &dv, &de})
    for (double& number : sum->data) number = 0;
  for (Index in = 0; in < n; ++in)
    for (Index iy = 0; iy < y; ++iy)
      for (Index ix = 0; ix < x; ++ix)
        for (Index r = 0; r < s.rows; ++r)
          for (Index c = 0; c < s.columns; ++c) {
            const Index vy = iy + r - s.rows / 2, vx = ix + c - s.columns / 2;
            if (vy < 0 || vy >= y || vx < 0 || vx >= x) continue;
            for (Index ih = 0; ih < h; ++ih)
              for (Index iu = 0; iu < u; ++iu)
                for (Index ik = 0; ik < k; ++ik) {
                  const double q = query.at(in, ih, ik, iy, ix), e = embedding.at(ik, iu, r, c, 0);
                  for (Index iv = 0; iv < v; ++iv) {
                    const double g = output_gradient.at(in, ih, iv, iy, ix);
                    const double w = value.at(in, iu, iv, vy, vx);
                    o.at(in, ih, iv, iy, ix) += q * e * w;
                    dq.at(in, ih, ik, iy, ix) += g * e * w;
                    dv.at(in, iu, iv, vy, vx) += g * q * e;
                    de.at(ik, iu, r, c, 0) += g * q * w;
                  }
                }
          }
  const double first = largest_difference(output, o);
  const double second = largest_difference(query_gradient, dq);
  const double third = largest_difference(value_gradient, dv);
  const double fourth = largest_difference(embedding_gradient, de);
  return std::fmax(std::fmax(first, second), std::fmax(third, fourth));
}

int check(const char* name, Kernel forward, Kernel backward) {
  // N, h, k, u, v, H, W, rh, rw
  const Sizes cases[] = {
      {1, 1, 1, 1, 1, 1, 1, 1, 1},    {2, 5, 3, 2, 17, 5, 9, 3, 7},
      {1, 4, 16, 1, 64, 3, 13, 5, 23}, {1, 3, 2, 1, 66, 4, 5, 9, 1},
      {1, 2, 17, 1, 6, 7, 3, 1, 5},   {1, 49, 1, 1, 2, 2, 3, 3, 3},
      {2, 1, 5, 3, 33, 6, 18, 11, 35},
  };
  int wrong = 0;
  for (const Sizes& sizes : cases)
    for (bool last : {false, true}) {
      const double single = largest_error<float>(sizes, last, forward, backward);
      const double twice = largest_error<double>(sizes, last, forward, backward);
      std::printf("%s h %td last %d: %.1e %.1e\n", name, sizes.heads, last, single, twice);
      wrong += !(single < 1e-3 && twice < 1e-11);
    }
  return wrong;
}

}  // namespace

int main() {
  int wrong = check("baseline", forward_baseline, backward_baseline);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    wrong += check("avx2", forward_avx2, backward_avx2);
  if (__builtin_cpu_supports("avx512f"))
    wrong += check("avx512", forward_avx512, backward_avx512);
#endif
  return wrong;
}
