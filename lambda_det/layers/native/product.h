// The one inner loop: a small matrix product whose sums stay in registers.
//
//   c[r][j] (+)= sum over outer o and inner i of a[r, o, i] * b[o, i][j]
//
// The left factor is read one number at a time and broadcast; it may lie anywhere in memory. The
// right factor and the result are read and written as vectors along j.
#pragma once

#include "interface.h"

// A function of this instruction set.
#define LAMBDA_DET_JOIN(name, isa) name##_##isa
#define LAMBDA_DET_NAMED(name, isa) LAMBDA_DET_JOIN(name, isa)
#define LAMBDA_DET_NAME(name) LAMBDA_DET_NAMED(name, LAMBDA_DET_ISA)

namespace lambda_det {
namespace {  // each translation unit has its own copy, compiled for its instruction set

// LAMBDA_DET_BYTES is the width of a register: 64 (AVX-512), 32 (AVX2), 16 (SSE2, NEON).
template <class T>
struct Lanes {
  static constexpr int count = LAMBDA_DET_BYTES / sizeof(T);
  typedef T Vector __attribute__((vector_size(LAMBDA_DET_BYTES)));
  typedef T InMemory __attribute__((vector_size(LAMBDA_DET_BYTES), aligned(alignof(T)), may_alias));
};

template <class T>
using Vector = typename Lanes<T>::Vector;

template <class T>
inline Vector<T> load(const T* from) {
  return *reinterpret_cast<const typename Lanes<T>::InMemory*>(from);
}

template <class T>
inline void store(T* to, Vector<T> vector) {
  *reinterpret_cast<typename Lanes<T>::InMemory*>(to) = vector;
}

inline Index smaller(Index a, Index b) { return a < b ? a : b; }
inline Index larger(Index a, Index b) { return a > b ? a : b; }
inline Index up_to(Index number, Index multiple) {
  return (number + multiple - 1) / multiple * multiple;
}

struct Steps {
  Index a_row, a_outer, a_inner;
  Index b_outer, b_inner;
  Index c_row;
  Index outer, inner;
};

// R rows and J vectors of the result. R * J + J + 1 registers are in use.
template <int R, int J, class T>
inline __attribute__((always_inline)) void block(const Steps& s, const T* a, const T* b, T* c,
                                                 bool add) {
  constexpr int lanes = Lanes<T>::count;
  const Index a_row = s.a_row, a_inner = s.a_inner, b_inner = s.b_inner, inner = s.inner;
  Vector<T> sums[R][J] = {};
  for (Index o = s.outer; o > 0; --o, a += s.a_outer, b += s.b_outer) {
    const T* left_at = a;
    const T* right_at = b;
    for (Index i = inner; i > 0; --i, left_at += a_inner, right_at += b_inner) {
      Vector<T> right[J];
#pragma GCC unroll 8
      for (int j = 0; j < J; ++j) right[j] = load(right_at + j * lanes);
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) {
        // With + in place of -, which would change -0, the compiler would have to add.
        const Vector<T> left = left_at[r * a_row] - Vector<T>{};
#pragma GCC unroll 8
        for (int j = 0; j < J; ++j) sums[r][j] += left * right[j];
      }
    }
  }
  const Index c_row = s.c_row;
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j) {
      T* to = c + r * c_row + j * lanes;
      store(to, add ? load(to) + sums[r][j] : sums[r][j]);
    }
}

// Any number of rows: blocks of R rows, then of 4, then the rest.
template <int R, int J, class T>
inline __attribute__((always_inline)) void rows_of(const Steps& s, Index rows, const T* a,
                                                   const T* b, T* c, bool add) {
  for (; rows >= R; rows -= R, a += R * s.a_row, c += R * s.c_row)
    block<R, J>(s, a, b, c, add);
  if constexpr (R > 1)
    if (rows > 0) rows_of<(R > 4 ? 4 : R - 1), J>(s, rows, a, b, c, add);
}

// Any number of vectors, too: J at a time, then the rest.
template <int R, int J, class T>
void multiply(const Steps& s, Index rows, Index vectors, const T* a, const T* b, T* c, bool add) {
  constexpr int step = J * Lanes<T>::count;
  for (; vectors >= J; vectors -= J, b += step, c += step)
    rows_of<R, J>(s, rows, a, b, c, add);
  if constexpr (J > 1)
    if (vectors > 0) multiply<R, J - 1>(s, rows, vectors, a, b, c, add);
}

// Shapes of blocks that fill the registers: 32 with AVX-512 and on ARM, else 16.
#if LAMBDA_DET_BYTES == 64 || defined(__aarch64__)
constexpr int kTall = 12, kTallVectors = 2;  // many rows
constexpr int kColumn = 24;                  // rows of a single vector
constexpr int kWide = 4;                     // vectors of few rows
#else
constexpr int kTall = 6, kTallVectors = 2;
constexpr int kColumn = 12;
constexpr int kWide = 2;
#endif
constexpr int kFew = 4;         // rows: heads of one position, or neighbouring positions
constexpr int kFewVectors = 3;  // of a row of 23 or 24 numbers, with vectors of at most 8

}  // namespace
}  // namespace lambda_det
