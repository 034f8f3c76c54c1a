"""Squeeze-and-excitation (arXiv:1709.01507) that can ignore the padding of a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchvision
from torch import Tensor

from lambda_det.layers.precision import at_least_float32
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
        trained = [p for p in self.parameters() if p.requires_grad]
        if (
            torch.is_grad_enabled()
            and (x.requires_grad or trained)
            and not (torch.compiler.is_compiling() or plain_operators(x))
        ):
            return _FewPasses.apply(x, self.gate, *trained)
        return x * self.gate(self.avgpool(x))

    def gate(self, mean: Tensor) -> Tensor:
        """Make the gate (N, C, 1, 1) from the averages (N, C, 1, 1)."""
        return self.scale_activation(self.fc2(self.activation(self.fc1(mean))))


class _FewPasses(torch.autograd.Function):
    """x * gate(mean of x), whose backward pass reads and writes large tensors four times.

    Autograd would do so eleven times, which made a training step of SE-101 a fifth longer than that
    of R-101.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, gate_of: Callable[[Tensor], Tensor], *parameters: Tensor
    ) -> Tensor:
        mean = x.mean((-2, -1), keepdim=True)
        with torch.enable_grad():  # a graph of its own, of small tensors
            mean.requires_grad_()
            gate = gate_of(mean)
        ctx.save_for_backward(x)
        ctx.gate_of, ctx.graph = gate_of, (mean, gate, parameters)
        return x * gate.detach()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        mean, gate, parameters = ctx.graph
        if torch.is_grad_enabled():  # for second derivatives
            needed = [tensor for tensor in (x, *parameters) if tensor.requires_grad]
            output = x * ctx.gate_of(x.mean((-2, -1), keepdim=True))
            found = iter(torch.autograd.grad(output, needed, gradient, create_graph=True))
            of_x, *others = (next(found) if t.requires_grad else None for t in (x, *parameters))
            return of_x, None, *others
        of_gate = _sums_of_products(gradient, x)
        of_mean, *others = torch.autograd.grad(
            gate, (mean, *parameters), of_gate.to(gate.dtype), retain_graph=True
        )
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = torch.addcmul(of_mean / (x.shape[-2] * x.shape[-1]), gradient, gate.detach())
        return of_x, None, *others


def _sums_of_products(a: Tensor, b: Tensor) -> Tensor:
    """Sum a * b, both (N, C, H, W), over the positions: (N, C, 1, 1)."""
    if a.is_contiguous() and b.is_contiguous():  # as matrix products, which store no a * b
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
