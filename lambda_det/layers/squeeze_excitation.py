"""Squeeze-and-excitation (arXiv:1709.01507) that can ignore the padding of a batch."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor

from lambda_det.layers.precision import at_least_float32, without_autocast
from lambda_det.layers.recording import plain_operators


class SqueezeExcitation(torchvision.ops.SqueezeExcitation):
    """torchvision's SqueezeExcitation, whose average can leave out masked positions."""

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Scale the channels of every image by a gate made from their averages.

        Args:
            x: (N, C, H, W).
            padding_mask: (N, H, W) bool, True where a position is not part of the image. Values
                at such positions do not affect the gate.

        Returns:
            (N, C, H, W). The padding is scaled as well.
        """
        if padding_mask is not None:
            return x * self.gate(masked_mean(x, padding_mask))
        if torch.compiler.is_compiling() or plain_operators(x, *self.parameters()):
            return x * self.gate(self.avgpool(x))
        gates: list[Tensor] = []
        alias, mean = _WithMean.apply(x, gates)
        return _Scaled.apply(alias, x, self.gate(mean), gates)

    def gate(self, mean: Tensor) -> Tensor:
        """Make the gate (N, C, 1, 1) from the averages (N, C, 1, 1)."""
        return self.scale_activation(self.fc2(self.activation(self.fc1(mean))))


# x * gate(mean of x) with a backward pass that reads and writes as few large tensors as it can.
# Autograd would write the gradient of the product, that of the mean and their sum, each as large as
# x. Here _Scaled hands on the gradient that it gets, and the gate; _WithMean makes the gradient of
# x from both and from that of the mean at once. What is between them is plain autograd. Nothing but
# _Scaled may use the alias, whose "gradient" is none; second derivatives reach x itself.


class _WithMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, gates: list[Tensor]) -> tuple[Tensor, Tensor]:
        ctx.gates, ctx.size, ctx.dtype = gates, x.shape, x.dtype
        ctx.set_materialize_grads(False)
        return x.view_as(x), x.mean((-2, -1), keepdim=True)

    @staticmethod
    def backward(
        ctx, of_alias: Tensor | None, of_mean: Tensor | None
    ) -> tuple[Tensor | None, None]:
        share = None if of_mean is None else of_mean / (ctx.size[-2] * ctx.size[-1])
        if of_alias is None:  # of a second derivative
            return None if share is None else share.expand(ctx.size), None
        gate = ctx.gates.pop()
        if share is None:
            return (of_alias * gate).to(ctx.dtype), None
        return torch.addcmul(share, of_alias, gate).to(ctx.dtype), None


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, alias: Tensor, x: Tensor, gate: Tensor, gates: list[Tensor]) -> Tensor:
        ctx.save_for_backward(x, gate)
        ctx.gates = gates
        return x * gate

    @staticmethod
    def backward(ctx, of_output: Tensor) -> tuple[Tensor, None, Tensor | None, None]:
        x, gate = ctx.saved_tensors
        # Detached where no second derivative is asked for: a graph must not hold itself.
        ctx.gates[:] = [gate if torch.is_grad_enabled() else gate.detach()]
        of_gate = None
        if ctx.needs_input_grad[2]:
            with without_autocast(of_output):
                of_gate = _sums_of_products(of_output, x).to(gate.dtype)
        return of_output, None, of_gate, None


def _sums_of_products(a: Tensor, b: Tensor) -> Tensor:
    """Sum a * b, both (N, C, H, W), over the positions: (N, C, 1, 1)."""
    if a.dtype == b.dtype and a.is_contiguous() and b.is_contiguous():
        # As matrix products, which store no a * b.
        return torch.einsum("nchw,nchw->nc", a, b)[..., None, None]
    return (a * b).sum((-2, -1), keepdim=True)


def masked_mean(x: Tensor, padding_mask: Tensor) -> Tensor:
    """Average ``x`` (N, C, H, W) over the positions where ``padding_mask`` (N, H, W) is False.

    Returns:
        (N, C, 1, 1), zero for an image whose mask is True everywhere. The sum is taken in at least
        float32.
    """
    inside = (~padding_mask).sum(dim=(-2, -1))[:, None, None, None].clamp_min(1)
    image = x.masked_fill(padding_mask[:, None], 0)
    total = torch.sum(image, dim=(-2, -1), keepdim=True, dtype=at_least_float32(x.dtype))
    return (total / inside).to(x.dtype)
