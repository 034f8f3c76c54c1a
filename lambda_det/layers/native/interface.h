// What the Python side, the entry and the kernels of every instruction set share.
//
// Only plain types stand here: the kernels are compiled several times with different processor
// flags, and an inline function of a library, compiled with the flags of one, could be linked into
// all.
#pragma once

#include <cstddef>

namespace lambda_det {

using Index = std::ptrdiff_t;

enum Type : int { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2 };

// A tensor of five axes as it lies in memory; strides count elements. Axes that a tensor does not
// have are of size 1. _Tensor in native_lambda.py is the same structure.
struct Tensor {
  void* data;
  Index strides[5];
  int type;
};

// N, h, k, u, v, H, W, rh, rw of lambda_det.layers.position_lambda, in this order.
struct Sizes {
  Index images, heads, depth, sets, channels, height, width, rows, columns;
};

// What the kernels run on. `run` does task(context, i, worker) for every i < tasks; each worker <
// workers does one task at a time. `take` gives memory on a cache line or throws std::bad_alloc.
struct Machine {
  Index workers;
  void (*run)(Index workers, Index tasks, void (*task)(void*, Index, Index), void* context);
  void* (*take)(std::size_t bytes);
  void (*give_back)(void* memory, std::size_t bytes);
};

// Queries (N, h, k, H, W), values (N, u, v, H, W), embedding (k, u, rh, rw) and outputs
// (N, h, v, H, W), each with its gradient. The forward pass writes `output`; the backward pass
// reads `output_gradient` and writes the other gradients.
struct Call {
  Sizes sizes;
  Tensor query, value, embedding, output;
  Tensor query_gradient, value_gradient, embedding_gradient, output_gradient;
  int computed_in;  // kFloat32 or kFloat64
};

using Kernel = void (*)(const Call&, const Machine&);

// Each is defined by forward.cpp and backward.cpp, compiled for that instruction set.
#define LAMBDA_DET_DECLARE(isa) \
  void forward_##isa(const Call&, const Machine&); \
  void backward_##isa(const Call&, const Machine&);
LAMBDA_DET_DECLARE(baseline)
LAMBDA_DET_DECLARE(avx2)
LAMBDA_DET_DECLARE(avx512)

}  // namespace lambda_det
