// The functions that Python calls. They choose the instruction set and bring in PyTorch's threads.

#include <ATen/Parallel.h>

#include <mutex>
#include <new>
#include <vector>

#include "interface.h"

namespace lambda_det {
namespace {

struct Kernels {
  Kernel forward, backward;
};

// The kernels for the best instruction set of this processor that is at most `level`.
Kernels kernels(int level) {
#if defined(__x86_64__)
  if (level >= 2 && __builtin_cpu_supports("avx512f")) return {forward_avx512, backward_avx512};
  if (level >= 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return {forward_avx2, backward_avx2};
#endif
  (void)level;
  return {forward_baseline, backward_baseline};
}

// Worker w does the tasks w, w + workers, ...: which of them sums what does not depend on timing,
// and the rows near the edges of an image, which cost less, are spread over the workers.
void run(Index workers, Index tasks, void (*task)(void*, Index, Index), void* context) {
  at::parallel_for(0, workers, 1, [&](Index begin, Index end) {
    for (Index worker = begin; worker < end; ++worker)
      for (Index i = worker; i < tasks; i += workers) task(context, i, worker);
  });
}

// The memory of a call is kept for the next ones, up to this many bytes: to get its pages from the
// system anew costs up to a fifth of a forward pass.
constexpr std::size_t kKeptBytes = 64 << 20;
constexpr std::align_val_t kLine{64};

struct Block {
  void* memory;
  std::size_t bytes;
};
std::vector<Block> kept;  // the oldest one first
std::size_t kept_bytes = 0;
std::mutex kept_lock;

// Rounded up by at most a quarter, so that the memory serves images of other sizes, too.
std::size_t rounded(std::size_t bytes) {
  std::size_t step = 4096;
  while (8 * step < bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

void* take(std::size_t bytes) {
  bytes = rounded(bytes);
  {
    const std::lock_guard<std::mutex> lock(kept_lock);
    for (auto block = kept.begin(); block != kept.end(); ++block)
      if (block->bytes == bytes) {
        void* memory = block->memory;
        kept.erase(block);
        kept_bytes -= bytes;
        return memory;
      }
  }
  return operator new(bytes, kLine);
}

void give_back(void* memory, std::size_t bytes) noexcept {
  bytes = rounded(bytes);
  const std::lock_guard<std::mutex> lock(kept_lock);
  if (bytes > kKeptBytes / 2) return operator delete(memory, kLine);
  try {
    kept.push_back({memory, bytes});
  } catch (const std::bad_alloc&) {
    return operator delete(memory, kLine);
  }
  kept_bytes += bytes;
  while (kept_bytes > kKeptBytes) {
    operator delete(kept.front().memory, kLine);
    kept_bytes -= kept.front().bytes;
    kept.erase(kept.begin());
  }
}

int call(Kernel kernel, const Call& arguments) {
  try {
    kernel(arguments, {at::get_num_threads(), run, take, give_back});
  } catch (const std::bad_alloc&) {
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace lambda_det

// Both return 0, or 1 if there is not enough memory. The instruction set is at most `level`: 0 the
// compiler's default, 1 AVX2, 2 AVX-512.
extern "C" int lambda_det_forward(const lambda_det::Call* arguments, int level) {
  return lambda_det::call(lambda_det::kernels(level).forward, *arguments);
}

extern "C" int lambda_det_backward(const lambda_det::Call* arguments, int level) {
  return lambda_det::call(lambda_det::kernels(level).backward, *arguments);
}
