// The functions that Python calls. They choose the instruction set and bring in PyTorch's threads.

#include <ATen/Parallel.h>

#include <new>

#include "interface.h"

namespace lambda_det {
namespace {

struct Kernels {
  Kernel forward, backward;
};

// The kernels for the best instruction set of this processor, or those for the worst but `level`.
Kernels kernels(int level) {
#if defined(__x86_64__)
  if (level >= 2 && __builtin_cpu_supports("avx512f")) return {forward_avx512, backward_avx512};
  if (level >= 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return {forward_avx2, backward_avx2};
#endif
  (void)level;
  return {forward_baseline, backward_baseline};
}

// Worker w does the tasks w, w + workers, ...: which of them sums what does not depend on timing, and
// the rows near the edges of an image, which cost less, are spread over the workers.
void run(Index workers, Index tasks, void (*task)(void*, Index, Index), void* context) {
  at::parallel_for(0, workers, 1, [&](Index begin, Index end) {
    for (Index worker = begin; worker < end; ++worker)
      for (Index i = worker; i < tasks; i += workers) task(context, i, worker);
  });
}

int call(Kernel kernel, const Call& arguments) {
  try {
    kernel(arguments, {at::get_num_threads(), run});
  } catch (const std::bad_alloc&) {
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace lambda_det

// Both return 0, or 1 if there was not enough memory. `level`: 0 baseline, 1 AVX2, 2 AVX-512, at most.
extern "C" int lambda_det_forward(const lambda_det::Call* arguments, int level) {
  return lambda_det::call(lambda_det::kernels(level).forward, *arguments);
}

extern "C" int lambda_det_backward(const lambda_det::Call* arguments, int level) {
  return lambda_det::call(lambda_det::kernels(level).backward, *arguments);
}
