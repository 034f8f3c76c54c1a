// The position lambda, applied to the queries.
//
//   weights[x, h, d] = sum_k query[h, k, x] embedding[k, u, d]
//   output[x, h, v]  = sum_u,d weights[x, h, d] value[u, v, x + d]
//
// The weights of a few positions at a time stay in the processor's caches.

#include "packed.h"

namespace lambda_det {
namespace {

template <class T>
class Forward {
 public:
  Forward(const Call& call, const Machine& machine)
      : call_(call), s_(call.sizes),
        queries_(call.query, s_, s_.heads, s_.depth, machine),
        values_(call.value, s_, s_.sets, s_.channels, machine),
        table_(call.embedding, s_, s_.columns, 0, machine),
        positions_(positions_together(s_)),
        most_rows_(rows_together<T>(s_, s_.columns)),
        weights_row_(spread<T>(most_rows_ * s_.columns)),
        outputs_row_(s_.heads * values_.channels) {}

  void run(const Machine& machine) const {
    const Index weights = positions_ * s_.heads * weights_row_;
    const Index scratch = up_to(weights + s_.width * outputs_row_, 64);
    const Buffer<T> memory(machine, machine.workers * scratch);
    in_parallel(machine, s_.images * s_.height, [&](Index task, Index worker) {
      T* at = memory + worker * scratch;
      row(task / s_.height, task % s_.height, at, at + weights);
    });
  }

 private:
  void row(Index n, Index y, T* weights, T* outputs) const {
    clear(outputs, s_.width * outputs_row_);
    for (Index x = 0; x < s_.width; x += positions_)
      tile(n, y, x, smaller(positions_, s_.width - x), weights, outputs + x * outputs_row_);
    for (Index h = 0; h < s_.heads; ++h) {
      const Matrix<T> from = {outputs + h * values_.channels, outputs_row_, 1};
      write(call_.output, {n, h, 0, y, 0}, 4, 2, from, s_.width, s_.channels);
    }
  }

  // The output of `count` positions from x on.
  void tile(Index n, Index y, Index x, Index count, T* weights, T* outputs) const {
    const Rows window = inside(s_, y);
    for (Index u = 0; u < s_.sets; ++u)
      for (Index d = window.first; d < window.last; d += most_rows_) {
        const Rows rows = {d, smaller(d + most_rows_, window.last)};
        embed(queries_.at(n, y) + x * queries_.position, table_.at(u) + d * table_.pitch, count,
              rows, weights);
        for (Index v = 0; v < values_.channels;)
          v += v + kWide * Lanes<T>::count <= values_.channels
                   ? gather<kWide>(n, y, x, count, u, v, rows, weights, outputs)
                   : gather<1>(n, y, x, count, u, v, rows, weights, outputs);
      }
  }

  void embed(const T* queries, const T* table, Index count, Rows rows, T* weights) const {
    Steps steps{};
    steps.a_row = queries_.group, steps.a_inner = 1;
    steps.b_inner = table_.row;
    steps.c_row = weights_row_;
    steps.outer = 1, steps.inner = s_.depth;
    multiply<kTall, kTallVectors>(steps, count * s_.heads, vectors<T>(rows.count() * s_.columns),
                                  queries, table, weights, false);
  }

  // Adds weights x values for J vectors of channels and returns their number. The positions take
  // turns at one row of values, which stays in the first-level cache.
  template <int J>
  Index gather(Index n, Index y, Index x, Index count, Index u, Index v, Rows rows,
               const T* weights, T* outputs) const {
    const Index reach = s_.columns / 2;
    Steps steps{};
    steps.a_row = weights_row_, steps.a_inner = 1;
    steps.b_inner = values_.position;
    steps.c_row = values_.channels;
    steps.outer = 1;
    for (Index d = rows.first; d < rows.last; ++d) {
      const T* values = values_.at(n, y + d - s_.rows / 2) + u * values_.group + v;
      const T* left = weights + (d - rows.first) * s_.columns;
      T* to = outputs + v;
      for (Index p = x; p < x + count; ++p) {
        const Index first = larger(0, p - reach), last = smaller(s_.width, p + reach + 1);
        steps.inner = last - first;
        rows_of<kFew, J>(steps, s_.heads, left + first - (p - reach),
                         values + first * values_.position, to, true);
        left += s_.heads * weights_row_, to += outputs_row_;
      }
    }
    return J * Lanes<T>::count;
  }

  const Call& call_;
  const Sizes& s_;
  const ByPosition<T> queries_, values_;
  const Table<T> table_;
  const Index positions_, most_rows_, weights_row_, outputs_row_;
};

}  // namespace

void LAMBDA_DET_NAME(forward)(const Call& call, const Machine& machine) {
  if (call.computed_in == kFloat64)
    Forward<double>(call, machine).run(machine);
  else
    Forward<float>(call, machine).run(machine);
}

}  // namespace lambda_det
