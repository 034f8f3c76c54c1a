// Memory of the kernels, and the copies between tensors of any layout and type and the packed rows
// that the kernels read and write.
#pragma once

#include <cstdint>
#include <cstring>
#include <new>

#include "product.h"

namespace lambda_det {
namespace {

// Numbers that begin on a cache line; they are not initialised.
template <class T>
class Buffer {
 public:
  explicit Buffer(Index size)
      : data_(static_cast<T*>(operator new(sizeof(T) * (size + 1), std::align_val_t(64)))) {}
  ~Buffer() { operator delete(data_, std::align_val_t(64)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  operator T*() const { return data_; }

 private:
  T* data_;
};

template <class T>
inline void clear(T* from, Index size) {
  std::memset(from, 0, sizeof(T) * size);
}

struct BFloat16 {
  std::uint16_t bits;
};

template <class T>
inline void assign(T& to, BFloat16 from) {
  const std::uint32_t bits = std::uint32_t(from.bits) << 16;
  float number;
  std::memcpy(&number, &bits, sizeof number);
  to = T(number);
}

template <class T>
inline void assign(BFloat16& to, T from) {  // to the nearest, ties to even
  const float number = float(from);
  std::uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  const bool is_nan = number != number;
  to.bits = std::uint16_t(is_nan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <class To, class From>
inline void assign(To& to, From from) {
  to = To(from);
}

template <class A, class B>
constexpr bool is_same = false;
template <class A>
constexpr bool is_same<A, A> = true;

// A matrix of rows x columns at `data`, with any strides.
template <class T>
struct Matrix {
  T* data;
  Index row, column;
  Matrix transposed() const { return {data, column, row}; }
};

#if defined(__clang__) || __GNUC__ >= 12
#define LAMBDA_DET_PICK(x, y, a, b, c, d) __builtin_shufflevector(x, y, a, b, c, d)
#else
#define LAMBDA_DET_PICK(x, y, a, b, c, d) __builtin_shuffle(x, y, Picks{a, b, c, d})
#endif

// Four rows of `from`, four numbers each, become four columns of `to`.
template <class T>
inline void transpose_4x4(T* to, Index to_row, const T* from, Index from_row) {
  typedef T Four __attribute__((vector_size(4 * sizeof(T))));
  typedef decltype(Four{} < Four{}) Picks [[maybe_unused]];
  Four r0, r1, r2, r3;
  std::memcpy(&r0, from, sizeof r0);
  std::memcpy(&r1, from + from_row, sizeof r1);
  std::memcpy(&r2, from + 2 * from_row, sizeof r2);
  std::memcpy(&r3, from + 3 * from_row, sizeof r3);
  const Four a = LAMBDA_DET_PICK(r0, r1, 0, 4, 1, 5), b = LAMBDA_DET_PICK(r2, r3, 0, 4, 1, 5);
  const Four c = LAMBDA_DET_PICK(r0, r1, 2, 6, 3, 7), d = LAMBDA_DET_PICK(r2, r3, 2, 6, 3, 7);
  r0 = LAMBDA_DET_PICK(a, b, 0, 1, 4, 5), r1 = LAMBDA_DET_PICK(a, b, 2, 3, 6, 7);
  r2 = LAMBDA_DET_PICK(c, d, 0, 1, 4, 5), r3 = LAMBDA_DET_PICK(c, d, 2, 3, 6, 7);
  std::memcpy(to, &r0, sizeof r0);
  std::memcpy(to + to_row, &r1, sizeof r1);
  std::memcpy(to + 2 * to_row, &r2, sizeof r2);
  std::memcpy(to + 3 * to_row, &r3, sizeof r3);
}

// Rows of `from` become columns of `to`, both contiguous along their own. Squares of whole cache lines
// on both sides take turns, because rows that are a power of two apart share few places of a cache.
template <class T>
inline void transpose(Matrix<T> to, Matrix<T> from, Index rows, Index columns) {
  constexpr Index side = 16;
  for (Index column = 0; column < columns; column += side)
    for (Index row = 0; row < rows; row += side) {
      const Index last_row = smaller(row + side, rows), last_column = smaller(column + side, columns);
      for (Index c = column; c < last_column; c += 4)
        for (Index r = row; r < last_row; r += 4) {
          T* target = to.data + r * to.row + c;
          const T* source = from.data + r + c * from.column;
          if (r + 4 <= last_row && c + 4 <= last_column)
            transpose_4x4(target, to.row, source, from.column);
          else
            for (Index i = 0; i < smaller(4, last_row - r); ++i)
              for (Index j = 0; j < smaller(4, last_column - c); ++j)
                target[i * to.row + j] = source[i + j * from.column];
        }
    }
}

// `to` and `from` have `rows` rows and `columns` columns.
template <class To, class From>
inline void copy(Matrix<To> to, Matrix<From> from, Index rows, Index columns) {
  if (to.column != 1) {
    const Index height = rows;
    rows = columns, columns = height;
    to = to.transposed(), from = from.transposed();
  }
  if constexpr (is_same<To, From>)
    if (to.column == 1 && from.column != 1 && from.row == 1) return transpose(to, from, rows, columns);
  for (Index r = 0; r < rows; ++r) {
    To* target = to.data + r * to.row;
    const From* source = from.data + r * from.row;
    if (to.column == 1 && from.column == 1)
      for (Index c = 0; c < columns; ++c) assign(target[c], source[c]);
    else
      for (Index c = 0; c < columns; ++c) assign(target[c * to.column], source[c * from.column]);
  }
}

// A place of a tensor, and the matrix that begins there and runs along two of the axes.
struct Place {
  Index index[5];
};

template <class T>
inline Matrix<T> matrix(const Tensor& tensor, const Place& place, int row_axis, int column_axis) {
  T* data = static_cast<T*>(tensor.data);
  for (int axis = 0; axis < 5; ++axis) data += place.index[axis] * tensor.strides[axis];
  return {data, tensor.strides[row_axis], tensor.strides[column_axis]};
}

template <class T>
inline void read(Matrix<T> to, const Tensor& from, const Place& place, int row_axis, int column_axis,
                 Index rows, Index columns) {
  switch (from.type) {
    case kFloat32:
      return copy(to, matrix<float>(from, place, row_axis, column_axis), rows, columns);
    case kFloat64:
      return copy(to, matrix<double>(from, place, row_axis, column_axis), rows, columns);
    default:
      return copy(to, matrix<BFloat16>(from, place, row_axis, column_axis), rows, columns);
  }
}

template <class T>
inline void write(const Tensor& to, const Place& place, int row_axis, int column_axis,
                  Matrix<T> from, Index rows, Index columns) {
  switch (to.type) {
    case kFloat32:
      return copy(matrix<float>(to, place, row_axis, column_axis), from, rows, columns);
    case kFloat64:
      return copy(matrix<double>(to, place, row_axis, column_axis), from, rows, columns);
    default:
      return copy(matrix<BFloat16>(to, place, row_axis, column_axis), from, rows, columns);
  }
}

template <class Task>
inline void in_parallel(const Workers& workers, Index tasks, Task task) {
  workers.run(
      workers.count, tasks,
      [](void* context, Index i, Index worker) { (*static_cast<Task*>(context))(i, worker); }, &task);
}

template <class T>
constexpr int kType = sizeof(T) == sizeof(float) ? kFloat32 : kFloat64;

// A tensor (N, a, b, H, W) as rows of the image with a vector of channels b for each position:
// (N, H, W, a, b). A channels-last tensor is used where it lies, another one is copied.
template <class T>
class ByPosition {
 public:
  ByPosition(const Tensor& tensor, const Sizes& s, Index groups, Index channels, const Workers& workers)
      : channels(up_to(channels, Lanes<T>::count)), group(this->channels), position(groups * group),
        in_place_(tensor.type == kType<T> && channels == this->channels && tensor.strides[2] == 1 &&
                  (groups == 1 || tensor.strides[1] == group) && tensor.strides[4] == position),
        copy_(in_place_ ? 0 : s.images * s.height * s.width * groups * this->channels) {
    if (in_place_) {
      data_ = static_cast<T*>(tensor.data);
      image_ = tensor.strides[0], row_ = tensor.strides[3];
      return;
    }
    data_ = copy_;
    row_ = s.width * position, image_ = s.height * row_;
    in_parallel(workers, s.images * s.height, [&](Index task, Index) {
      const Index n = task / s.height, y = task % s.height;
      T* to = at(n, y);
      if (channels != this->channels) clear(to, row_);
      for (Index g = 0; g < groups; ++g) {
        read<T>({to + g * group, position, 1}, tensor, {n, g, 0, y, 0}, 4, 2, s.width, channels);
      }
    });
  }

  T* at(Index n, Index y) const { return data_ + n * image_ + y * row_; }

  const Index channels;         // rounded up to whole vectors
  const Index group, position;  // distances of neighbours along a and W

 private:
  bool in_place_;
  Buffer<T> copy_;
  T* data_;
  Index image_, row_;
};

// The embedding as tables (u, k, taps): taps are the rows of the window, each `pitch` numbers apart,
// with `lead` zeros before each row and zeros after it.
template <class T>
class Table {
 public:
  Table(const Tensor& embedding, const Sizes& s, Index pitch, Index lead)
      : pitch(pitch), row(up_to(lead + s.rows * pitch, Lanes<T>::count) + 2 * Lanes<T>::count),
        depth_(s.depth), data_(s.sets * s.depth * row) {
    clear<T>(data_, s.sets * s.depth * row);
    for (Index u = 0; u < s.sets; ++u)
      for (Index k = 0; k < s.depth; ++k) {
        read<T>({at(u) + k * row + lead, pitch, 1}, embedding, {k, u}, 2, 3, s.rows, s.columns);
      }
  }

  T* at(Index u) const { return data_ + u * depth_ * row; }

  Index pitch, row;

 private:
  Index depth_;
  Buffer<T> data_;
};

template <class T>
inline Index vectors(Index numbers) {
  return (numbers + Lanes<T>::count - 1) / Lanes<T>::count;
}

// The distance of rows of at least `numbers` numbers: whole cache lines, and an odd number of them, so
// that the same place in all rows does not fall into the same few sets of a cache.
template <class T>
inline Index spread(Index numbers) {
  constexpr Index line = 64 / sizeof(T);
  const Index lines = (numbers + line - 1) / line;
  return (lines + 1 - lines % 2) * line;
}

// Rows of the window, first <= d < last, that lie inside the image for a query in row y.
struct Rows {
  Index first, last;
  Index count() const { return last - first; }
};
inline Rows inside(const Sizes& s, Index y) {
  const Index reach = s.rows / 2;
  return {larger(0, reach - y), smaller(s.rows, s.height + reach - y)};
}

// How many positions of a row, and rows of the window, are worked on together. Then the weights of
// these positions (about 48 queries) for these rows fit into the second-level cache.
inline Index positions_together(const Sizes& s) {
  return smaller(s.width, larger(1, 48 / s.heads));
}
template <class T>
inline Index rows_together(const Sizes& s, Index pitch) {
  const Index row = positions_together(s) * s.heads * pitch * sizeof(T);
  return smaller(s.rows, larger(1, 192 * 1024 / row));
}

}  // namespace
}  // namespace lambda_det
