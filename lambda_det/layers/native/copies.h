// Copies between tensors of any layout and type and rows of numbers in the type of the sums.
#pragma once

#include <cstdint>
#include <cstring>

#include "product.h"

namespace lambda_det {
namespace {

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

// `to` is contiguous along its rows, `from` along its columns. The side whose lines lie further
// apart is done line by line, because lines that are a power of two apart share few places of a
// cache.
template <class T>
inline void transpose(Matrix<T> to, Matrix<T> from, Index rows, Index columns) {
  const auto square = [&](Index r, Index c) {
    T* target = to.data + r * to.row + c;
    const T* source = from.data + r + c * from.column;
    if (r + 4 <= rows && c + 4 <= columns)
      return transpose_4x4(target, to.row, source, from.column);
    for (Index i = 0; i < smaller(4, rows - r); ++i)
      for (Index j = 0; j < smaller(4, columns - c); ++j)
        target[i * to.row + j] = source[i + j * from.column];
  };
  if (to.row > from.column)
    for (Index r = 0; r < rows; r += 4)
      for (Index c = 0; c < columns; c += 4) square(r, c);
  else
    for (Index c = 0; c < columns; c += 4)
      for (Index r = 0; r < rows; r += 4) square(r, c);
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
    if (to.column == 1 && from.column != 1 && from.row == 1)
      return transpose(to, from, rows, columns);
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
inline void read(Matrix<T> to, const Tensor& from, const Place& place, int row_axis,
                 int column_axis, Index rows, Index columns) {
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

}  // namespace
}  // namespace lambda_det
