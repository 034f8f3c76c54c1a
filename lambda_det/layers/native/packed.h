// The tensors as the kernels read them, and how the work is divided.
#pragma once

#include "copies.h"

namespace lambda_det {
namespace {

// Numbers that begin on a cache line; they are not initialised.
template <class T>
class Buffer {
 public:
  Buffer(const Machine& machine, Index size)
      : machine_(machine), bytes_(sizeof(T) * size), data_(static_cast<T*>(machine.take(bytes_))) {}
  ~Buffer() { machine_.give_back(data_, bytes_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  operator T*() const { return data_; }

 private:
  const Machine& machine_;
  const std::size_t bytes_;
  T* const data_;
};

template <class T>
inline void clear(T* from, Index size) {
  std::memset(from, 0, sizeof(T) * size);
}

template <class Task>
inline void in_parallel(const Machine& machine, Index tasks, Task task) {
  const auto call = [](void* context, Index i, Index worker) {
    (*static_cast<Task*>(context))(i, worker);
  };
  machine.run(machine.workers, tasks, call, &task);
}

template <class T>
constexpr int kType = sizeof(T) == sizeof(float) ? kFloat32 : kFloat64;

// A tensor (N, a, b, H, W) as rows of the image with a vector of channels b for each position:
// (N, H, W, a, b). A channels-last tensor is used where it lies, another one is copied.
template <class T>
class ByPosition {
 public:
  ByPosition(const Tensor& tensor, const Sizes& s, Index groups, Index channels,
             const Machine& machine)
      : channels(up_to(channels, Lanes<T>::count)),
        group(this->channels),
        position(groups * group),
        in_place_(tensor.type == kType<T> && channels == this->channels && tensor.strides[2] == 1 &&
                  (groups == 1 || tensor.strides[1] == group) && tensor.strides[4] == position),
        copy_(machine, in_place_ ? 0 : s.images * s.height * s.width * groups * this->channels) {
    if (in_place_) {
      data_ = static_cast<T*>(tensor.data);
      image_ = tensor.strides[0], row_ = tensor.strides[3];
      return;
    }
    data_ = copy_;
    row_ = s.width * position, image_ = s.height * row_;
    in_parallel(machine, s.images * s.height, [&](Index task, Index) {
      const Index n = task / s.height, y = task % s.height;
      T* to = at(n, y);
      if (channels != this->channels) clear(to, row_);
      for (Index g = 0; g < groups; ++g)
        read<T>({to + g * group, position, 1}, tensor, {n, g, 0, y, 0}, 4, 2, s.width, channels);
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

// The embedding as (u, k, taps). Taps are the rows of the window, `pitch` numbers apart and with
// zeros in between; before the first row are `lead` zeros.
template <class T>
class Table {
 public:
  Table(const Tensor& embedding, const Sizes& s, Index pitch, Index lead, const Machine& machine)
      : pitch(pitch),
        row(up_to(lead + s.rows * pitch, Lanes<T>::count) + 2 * Lanes<T>::count),
        depth_(s.depth),
        data_(machine, s.sets * s.depth * row) {
    clear<T>(data_, s.sets * s.depth * row);
    for (Index u = 0; u < s.sets; ++u)
      for (Index k = 0; k < s.depth; ++k)
        read<T>({at(u) + k * row + lead, pitch, 1}, embedding, {k, u}, 2, 3, s.rows, s.columns);
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

// A distance for rows of `numbers` numbers: an odd number of cache lines, so that the beginnings of
// the rows do not share a few places of a cache.
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
