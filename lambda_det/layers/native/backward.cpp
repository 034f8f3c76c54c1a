// The gradients of queries, values and embedding from that of the output.
//
// Each task owns what it writes: in the first part rows of the values' gradient, in the second part
// rows of the queries' gradient. For the embedding's gradient each worker has a sum. These are
// added in the order of the workers, so that the result depends on nothing but their number.

#include "packed.h"

namespace lambda_det {
namespace {

// value_gradient[u, v, x] = sum_h,d weights[x - d, h, u, d] output_gradient[x - d, h, v]
//
// The gradients of kFew neighbouring positions x are summed at once, over all queries whose windows
// reach one of them. Zeros beside each row of the weights stand for offsets outside of the window.
template <class T>
class ValueGradient {
 public:
  ValueGradient(const Call& call, const ByPosition<T>& queries, const ByPosition<T>& gradients,
                const Machine& machine)
      : call_(call), s_(call.sizes), queries_(queries), gradients_(gradients),
        table_(call.embedding, s_, s_.columns + kMargin, kMargin, machine),
        most_rows_(smaller(s_.rows, smaller(8, larger(1, kTaps / table_.pitch)))),
        weights_row_(spread<T>(kMargin + most_rows_ * table_.pitch)),
        sums_row_(s_.width * gradients_.channels) {}

  void run(const Machine& machine) const {
    const Index weights = s_.width * s_.heads * weights_row_;
    const Index scratch = up_to(weights + most_rows_ * sums_row_, 64);
    const Buffer<T> memory(machine, machine.workers * scratch);
    const Index blocks = (s_.height + most_rows_ - 1) / most_rows_;
    in_parallel(machine, s_.images * s_.sets * blocks, [&](Index task, Index worker) {
      T* at = memory + worker * scratch;
      const Index y = task % blocks * most_rows_;
      const Rows rows = {y, smaller(y + most_rows_, s_.height)};
      block_of_rows(task / blocks / s_.sets, task / blocks % s_.sets, rows, at, at + weights);
    });
  }

 private:
  static constexpr Index kMargin = kFew - 1;
  static constexpr Index kTaps = 128;  // of a query, whose weights are computed together

  void block_of_rows(Index n, Index u, Rows rows, T* weights, T* sums) const {
    clear(sums, rows.count() * sums_row_);
    const Index reach = s_.rows / 2;
    const Index end = smaller(s_.height, rows.last + reach);
    for (Index y = larger(0, rows.first - reach); y < end; ++y) {
      const Rows window = {larger(0, rows.first - y + reach),
                           smaller(s_.rows, rows.last - y + reach)};
      embed(queries_.at(n, y), table_.at(u) + window.first * table_.pitch, window, weights);
      T* to = sums + (y + window.first - reach - rows.first) * sums_row_;
      for (Index v = 0; v < gradients_.channels;)
        v += v + kWide * Lanes<T>::count <= gradients_.channels
                 ? scatter<kWide>(gradients_.at(n, y) + v, weights, window.count(), to + v)
                 : scatter<1>(gradients_.at(n, y) + v, weights, window.count(), to + v);
    }
    for (Index y = rows.first; y < rows.last; ++y) {
      const Matrix<T> from = {sums + (y - rows.first) * sums_row_, gradients_.channels, 1};
      write(call_.value_gradient, {n, u, 0, y, 0}, 4, 2, from, s_.width, s_.channels);
    }
  }

  void embed(const T* queries, const T* table, Rows window, T* weights) const {
    Steps steps{};
    steps.a_row = queries_.group, steps.a_inner = 1;
    steps.b_inner = table_.row;
    steps.c_row = weights_row_;
    steps.outer = 1, steps.inner = s_.depth;
    multiply<kTall, kTallVectors>(steps, s_.width * s_.heads,
                                  vectors<T>(kMargin + window.count() * table_.pitch), queries,
                                  table, weights, false);
  }

  // Adds what the queries of one row give to `count` rows of values, for J vectors of channels, and
  // returns their number.
  template <int J>
  Index scatter(const T* gradients, const T* weights, Index count, T* sums) const {
    const Index reach = s_.columns / 2;
    Steps steps{};
    steps.a_row = 1, steps.a_outer = weights_row_, steps.a_inner = s_.heads * weights_row_ - 1;
    steps.b_outer = gradients_.group, steps.b_inner = gradients_.position;
    steps.c_row = gradients_.channels;
    steps.outer = s_.heads;
    for (Index d = 0; d < count; ++d, sums += sums_row_)
      for (Index x = 0; x < s_.width; x += kFew) {
        const Index rows = smaller(kFew, s_.width - x);
        const Index first = larger(0, x - reach), last = smaller(s_.width, x + rows + reach);
        steps.inner = last - first;
        const T* left = weights + first * s_.heads * weights_row_;
        rows_of<kFew, J>(steps, rows, left + kMargin + d * table_.pitch + x - (first - reach),
                         gradients + first * gradients_.position,
                         sums + x * gradients_.channels, true);
      }
    return J * Lanes<T>::count;
  }

  const Call& call_;
  const Sizes& s_;
  const ByPosition<T>&queries_, &gradients_;
  const Table<T> table_;
  const Index most_rows_, weights_row_, sums_row_;
};

// weight_gradient[x, h, u, d] = sum_v output_gradient[x, h, v] value[u, v, x + d]
// query_gradient[h, k, x]     = sum_u,d weight_gradient[x, h, u, d] embedding[k, u, d]
// embedding_gradient[k, u, d] = sum_n,x,h query[h, k, x] weight_gradient[x, h, u, d]
template <class T>
class WeightGradient {
 public:
  WeightGradient(const Call& call, const ByPosition<T>& queries, const ByPosition<T>& gradients,
                 const Machine& machine)
      : call_(call), s_(call.sizes), queries_(queries), gradients_(gradients),
        pitch_(up_to(s_.columns, kPitch)),
        value_row_(s_.width + up_to(s_.columns, 16)),
        value_rows_(s_.sets * s_.channels * value_row_),
        depth_(up_to(s_.depth, Lanes<T>::count)),
        positions_(positions_together(s_)),
        most_rows_(rows_together<T>(s_, pitch_)),
        weights_row_(spread<T>(most_rows_ * pitch_ + Lanes<T>::count)),
        sums_row_(spread<T>(s_.rows * pitch_ + Lanes<T>::count)),
        sums_size_(s_.sets * s_.depth * sums_row_),
        workers_(machine.workers),
        values_(machine, s_.images * s_.height * value_rows_),
        table_(machine, s_.sets * s_.rows * s_.columns * depth_),
        sums_(machine, workers_ * sums_size_) {
    fill_values(machine);
    fill_table();
    clear<T>(sums_, workers_ * sums_size_);
  }

  void run(const Machine& machine) const {
    const Index weights = positions_ * s_.heads * weights_row_;
    const Index scratch = up_to(weights + s_.width * s_.heads * depth_, 64);
    const Buffer<T> memory(machine, workers_ * scratch);
    in_parallel(machine, s_.images * s_.height, [&](Index task, Index worker) {
      T* at = memory + worker * scratch;
      row(task / s_.height, task % s_.height, at, at + weights, sums_ + worker * sums_size_);
    });
    in_parallel(machine, s_.sets * s_.depth, [&](Index task, Index) {
      T* sum = sums_ + task * sums_row_;
      for (Index worker = 1; worker < workers_; ++worker)
        for (Index t = 0; t < sums_row_; ++t) sum[t] += sum[worker * sums_size_ + t];
      write(call_.embedding_gradient, {task % s_.depth, task / s_.depth}, 2, 3,
            Matrix<T>{sum, pitch_, 1}, s_.rows, s_.columns);
    });
  }

 private:
  static constexpr Index kPitch = 8;      // rows of the window are multiples of this long
  static constexpr Index kChannels = 64;  // whose values stay in the first-level cache

  // Values as (N, H, u, v, W) with zeros on both sides of each row of the image.
  void fill_values(const Machine& machine) {
    in_parallel(machine, s_.images * s_.height, [&](Index task, Index) {
      T* to = values_ + task * value_rows_;
      clear(to, value_rows_);
      for (Index u = 0; u < s_.sets; ++u) {
        const Matrix<T> rows = {to + u * s_.channels * value_row_ + s_.columns / 2, value_row_, 1};
        read(rows, call_.value, {task / s_.height, u, 0, task % s_.height, 0}, 2, 4, s_.channels,
             s_.width);
      }
    });
  }

  // The embedding as (u, rh, rw, k).
  void fill_table() {
    clear<T>(table_, s_.sets * s_.rows * s_.columns * depth_);
    for (Index u = 0; u < s_.sets; ++u)
      for (Index d = 0; d < s_.rows; ++d)
        read(Matrix<T>{table_at(u, d), depth_, 1}, call_.embedding, {0, u, d}, 3, 0, s_.columns,
             s_.depth);
  }

  T* table_at(Index u, Index d) const {
    return table_ + (u * s_.rows + d) * s_.columns * depth_;
  }

  void row(Index n, Index y, T* weights, T* gradients, T* sums) const {
    for (Index x = 0; x < s_.width; x += positions_)
      tile(n, y, x, smaller(positions_, s_.width - x), weights, gradients + x * s_.heads * depth_,
           sums);
    for (Index h = 0; h < s_.heads; ++h) {
      const Matrix<T> from = {gradients + h * depth_, s_.heads * depth_, 1};
      write(call_.query_gradient, {n, h, 0, y, 0}, 4, 2, from, s_.width, s_.depth);
    }
  }

  void tile(Index n, Index y, Index x, Index count, T* weights, T* gradients, T* sums) const {
    const Rows window = inside(s_, y);
    for (Index u = 0; u < s_.sets; ++u)
      for (Index d = window.first; d < window.last; d += most_rows_) {
        const Rows rows = {d, smaller(d + most_rows_, window.last)};
        weight_gradient(n, y, x, count, u, rows, weights);
        add_to_query(weights, count, u, rows, gradients, u > 0 || d > window.first);
        add_to_embedding(weights, queries_.at(n, y) + x * queries_.position, count, rows,
                         sums + u * s_.depth * sums_row_);
      }
  }

  void weight_gradient(Index n, Index y, Index x, Index count, Index u, Rows rows,
                       T* weights) const {
    Steps steps{};
    steps.a_row = gradients_.group, steps.a_inner = 1;
    steps.b_inner = value_row_;
    steps.c_row = weights_row_;
    steps.outer = 1;
    for (Index d = rows.first; d < rows.last; ++d)
      for (Index v = 0; v < s_.channels; v += kChannels) {
        steps.inner = smaller(kChannels, s_.channels - v);
        const T* gradients = gradients_.at(n, y) + x * gradients_.position + v;
        const T* values = values_ + (n * s_.height + y + d - s_.rows / 2) * value_rows_ +
                          (u * s_.channels + v) * value_row_ + x;
        T* to = weights + (d - rows.first) * pitch_;
        for (Index i = 0; i < count; ++i)
          multiply<kFew, kFewVectors>(steps, s_.heads, vectors<T>(s_.columns),
                                      gradients + i * gradients_.position, values + i,
                                      to + i * s_.heads * weights_row_, v > 0);
      }
    // The last vector of a row may reach into the next one, which is computed after it, and that of
    // the last row into what add_to_embedding reads.
    const Index end = rows.count() * pitch_;
    for (Index q = 0; q < count * s_.heads; ++q)
      clear(weights + q * weights_row_ + end, Lanes<T>::count);
  }

  void add_to_query(const T* weights, Index count, Index u, Rows rows, T* gradients,
                    bool add) const {
    Steps steps{};
    steps.a_row = weights_row_, steps.a_outer = pitch_, steps.a_inner = 1;
    steps.b_outer = s_.columns * depth_, steps.b_inner = depth_;
    steps.c_row = depth_;
    steps.outer = rows.count(), steps.inner = s_.columns;
    multiply<kColumn, 1>(steps, count * s_.heads, depth_ / Lanes<T>::count, weights,
                         table_at(u, rows.first), gradients, add);
  }

  void add_to_embedding(const T* weights, const T* queries, Index count, Rows rows, T* sums) const {
    Steps steps{};
    steps.a_row = 1, steps.a_inner = queries_.group;
    steps.b_inner = weights_row_;
    steps.c_row = sums_row_;
    steps.outer = 1, steps.inner = count * s_.heads;
    multiply<kTall / 3 * 2, kTallVectors>(steps, s_.depth, vectors<T>(rows.count() * pitch_),
                                          queries, weights, sums + rows.first * pitch_, true);
  }

  const Call& call_;
  const Sizes& s_;
  const ByPosition<T>&queries_, &gradients_;
  const Index pitch_, value_row_, value_rows_, depth_, positions_, most_rows_, weights_row_,
      sums_row_, sums_size_, workers_;
  const Buffer<T> values_, table_, sums_;
};

template <class T>
void backward(const Call& call, const Machine& machine) {
  const Sizes& s = call.sizes;
  const ByPosition<T> queries(call.query, s, s.heads, s.depth, machine);
  const ByPosition<T> gradients(call.output_gradient, s, s.heads, s.channels, machine);
  ValueGradient<T>(call, queries, gradients, machine).run(machine);
  WeightGradient<T>(call, queries, gradients, machine).run(machine);
}

}  // namespace

void LAMBDA_DET_NAME(backward)(const Call& call, const Machine& machine) {
  if (call.computed_in == kFloat64)
    backward<double>(call, machine);
  else
    backward<float>(call, machine);
}

}  // namespace lambda_det
