"""Squeeze-and-excitation with the addition of the shortcut, in few passes over little memory.

At the size of res2 the arithmetic is nothing and the passes are all. torchvision's form writes two
tensors of that size that nobody needs in a forward, four in a backward, and keeps one in between.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lambda_det.layers.precision import at_least_float32
from lambda_det.layers.recording import plain_operators
from lambda_det.layers.squeeze_excitation import SqueezeExcitation, masked_mean

_PART_BYTES = {"cpu": 2**20}
"""Device -> what is multiplied and summed at once: on a CPU it stays in the cache."""
_PART_BYTES_ELSEWHERE = 2**26

_NORM_NODES = ("NativeBatchNormBackward0", "CudnnBatchNormBackward0")


class SqueezeExcite(SqueezeExcitation):
    """torchvision's, parameter names included, that also adds a residual branch to its shortcut."""

    def forward(
        self,
        x: Tensor,
        shortcut: Tensor | None = None,
        norm: Any = None,  # TorchScript has no type for a module
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Gate ``x``, and add it to ``shortcut``.

        Args:
            x: (N, C, H, W).
            shortcut: (N, C, H, W). With it ``x`` is overwritten where no gradient needs it.
            norm: the module whose output ``x`` is. Where that is a BatchNorm in training, ``x`` is
                not kept for the backward pass.
            padding_mask: (N, H, W) bool, True where a position is not part of the image.

        Returns:
            (N, C, H, W) in the type of ``x``.
        """
        if torch.jit.is_scripting():
            return self._by_operators(x, shortcut, padding_mask)
        else:
            return self._in_few_passes(x, shortcut, norm, padding_mask)

    def _by_operators(
        self, x: Tensor, shortcut: Tensor | None, padding_mask: Tensor | None
    ) -> Tensor:
        gated = x * self._scale(x if padding_mask is None else masked_mean(x, padding_mask))
        return gated if shortcut is None else gated + shortcut.to(gated.dtype)

    def _in_few_passes(
        self,
        x: Tensor,
        shortcut: Tensor | None,
        norm: nn.Module | None,
        padding_mask: Tensor | None,
    ) -> Tensor:
        if plain_operators() or torch.compiler.is_compiling():  # these see and fuse the operators
            return self._by_operators(x, shortcut, padding_mask)
        gate = self._gate(x, padding_mask)
        if shortcut is None:
            return x * gate
        gate, shortcut = gate.to(x.dtype), shortcut.to(x.dtype)
        if not (torch.is_grad_enabled() and any(t.requires_grad for t in (x, gate, shortcut))):
            return x.mul_(gate).add_(shortcut)
        return _GatedSum.apply(x, gate, shortcut, *_kept_by(norm, x))

    def _gate(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        """(N, C, 1, 1)."""
        return self.scale_activation(
            self.fc2(self.activation(self.fc1(self._mean(x, padding_mask))))
        )

    @staticmethod
    def _mean(x: Tensor, padding_mask: Tensor | None) -> Tensor:
        if padding_mask is not None:
            return masked_mean(x, padding_mask)
        # The gradient of a sum is a view of one number for each channel, that of a mean is not.
        total = x.sum(dim=(2, 3), keepdim=True, dtype=at_least_float32(x.dtype))
        return (total / (x.shape[2] * x.shape[3])).to(x.dtype)


def as_kept(tensor: Tensor) -> Tensor:
    """The unpack hook (``torch.autograd.graph.saved_tensors_hooks``) of those who only look on."""
    return tensor


def _kept_by(norm: nn.Module | None, x: Tensor) -> tuple[Tensor | float, ...]:
    """Of the BatchNorm that gave ``x``, in training: its input, weight, bias, the mean and
    1 / standard deviation that it measured, and its epsilon. Nothing for any other ``norm``, and
    where hooks keep something else than the tensors: activation checkpointing would compute the
    whole block again for each that is read."""
    if type(norm) is not nn.BatchNorm2d or not norm.affine:
        return ()
    node = x.grad_fn
    if type(node).__name__ not in _NORM_NODES or not getattr(node, "_saved_training", False):
        return ()
    raw = node._raw_saved_input, node._raw_saved_result1, node._raw_saved_result2
    if any(getattr(kept, "unpack_hook", _kept_by) not in (None, as_kept) for kept in raw):
        return ()
    given, mean, scale = (kept.data for kept in raw)
    return given, norm.weight, norm.bias, mean, scale, norm.eps


class _GatedSum(torch.autograd.Function):
    """x * gate + shortcut, without writing the products that are summed for the gate's gradient.

    Behind a BatchNorm x = (given - mean) * scale * weight + bias is not kept: what it is made of
    is kept by the norm anyway.
    """

    @staticmethod
    def forward(ctx, x: Tensor, gate: Tensor, shortcut: Tensor, *kept: Tensor | float) -> Tensor:
        if not kept:
            ctx.save_for_backward(gate, x)
            return (x * gate).add_(shortcut)
        *tensors, ctx.eps = kept
        ctx.save_for_backward(gate, *tensors)
        ctx.mark_dirty(x)
        return x.mul_(gate).add_(shortcut)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gate, given, *norm = ctx.saved_tensors
        needs = ctx.needs_input_grad
        to_gate = None
        if needs[1] and norm and not torch.is_grad_enabled():
            weight, bias, mean, scale = (tensor.view(1, -1, 1, 1) for tensor in norm)
            products, sums = _sums(gradient, given, mean)
            to_gate = products * (scale * weight) + sums * bias
        elif needs[1]:
            if norm:  # to be differentiated again, the statistics as well
                given = F.batch_norm(given, None, None, *norm[:2], training=True, eps=ctx.eps)
            to_gate, _ = _sums(gradient, given, gradient.new_zeros(1, gradient.shape[1], 1, 1))
        return (
            gradient * gate if needs[0] else None,
            to_gate if to_gate is None else to_gate.to(gate.dtype),
            gradient if needs[2] else None,
            *(None for _ in needs[3:]),
        )


def _sums(gradient: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Of ``gradient * (x - mean)`` and of ``gradient`` over the positions, in at least float32.

    Args:
        gradient, x: (N, C, H, W).
        mean: (1, C, 1, 1).

    Returns:
        Both (N, C, 1, 1).
    """
    dtype = at_least_float32(x.dtype)
    # In parts that lie together in memory: channels, or rows of channels last.
    axis = 1 if gradient.is_contiguous() else 2
    part = _PART_BYTES.get(x.device.type, _PART_BYTES_ELSEWHERE)
    size = max(1, x.shape[axis] * part // max(1, x.nbytes))
    products, sums = [], []
    for start in range(0, x.shape[axis], size):
        length = min(size, x.shape[axis] - start)
        factor = gradient.narrow(axis, start, length).to(dtype)
        other = x.narrow(axis, start, length).to(dtype)
        offset = mean.narrow(1, start, length) if axis == 1 else mean
        products.append((factor * (other - offset)).sum(dim=(2, 3), keepdim=True))
        sums.append(factor.sum(dim=(2, 3), keepdim=True))
    if axis == 1:
        return torch.cat(products, 1), torch.cat(sums, 1)
    return torch.stack(products).sum(0), torch.stack(sums).sum(0)
