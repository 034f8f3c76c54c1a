"""A kernel that the interpreter computes right and the compiler, to this day, does not.

Run by test_ttir.py in a process of its own, where ``TRITON_INTERPRET`` is set.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def delayed(source, target, steps, SIZE: tl.constexpr):
    """target[t] = source[t - 3], and 0 before.

    Three values that the loop carries start from one tensor. Triton 3.8 then carries none of them.
    """
    lane = tl.arange(0, SIZE)
    first = tl.zeros([SIZE], tl.float32)
    second = first
    third = first
    for step in range(steps):
        tl.store(target + step * SIZE + lane, third)
        third = second
        second = first
        first = tl.load(source + step * SIZE + lane)


def arguments() -> tuple[dict, torch.Tensor]:
    """Arguments of the kernel, and the target as it should be."""
    source = torch.arange(80.0).view(5, 16) + 1
    right = torch.zeros(5, 16)
    right[3:] = source[:2]
    return {"source": source, "target": torch.full((5, 16), -1.0), "steps": 5, "SIZE": 16}, right


if __name__ == "__main__":
    given, right = arguments()
    delayed[(1,)](**given)
    print("right" if torch.equal(given["target"], right) else "wrong")
