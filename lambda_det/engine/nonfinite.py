"""Where a loss, a gradient or an output is not finite although what it comes from is."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils import comm
from torch import Tensor, nn

from lambda_det.layers.precision import common_dtype

NAMED = 3  # parameters in a message


def any_not_finite(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return whether a gradient contains NaN or infinity: bool, on the gradients' device.

    Nothing waits for a GPU here. The largest magnitude is taken and not the root of the sum of
    squares, which is infinite for finite gradients, too.
    """
    gradients = [p.grad for p in parameters if p.grad is not None and p.grad.numel()]
    if not gradients:
        return torch.zeros((), dtype=torch.bool)
    largest = torch.stack([norm.float() for norm in torch._foreach_norm(gradients, math.inf)])
    return ~torch.isfinite(largest).all()


def read_step(
    losses: Mapping[str, Tensor], bad_gradient: Tensor
) -> tuple[float, bool, bool, dict[str, float]]:
    """Read all that the host needs to know of a step, in one copy: it waits for a GPU once.

    Args:
        losses: name -> loss.
        bad_gradient: whether a gradient is not finite, bool.

    Returns:
        The sum of the losses; whether the sum, and whether a gradient, of any process is not
        finite, so that they go on, or stop, together; and the losses.
    """
    terms = [loss.detach() for loss in losses.values()]
    total = sum(terms)
    bad = torch.zeros(2, device=total.device)
    bad[0], bad[1] = ~torch.isfinite(total), bad_gradient
    if comm.get_world_size() > 1:
        dist.all_reduce(bad, dist.ReduceOp.MAX)
    found = [term.reshape(()).to(total.device) for term in (total, *bad, *terms)]
    dtype = common_dtype(*found)  # it holds each of them exactly
    total, loss, gradient, *seen = torch.stack([term.to(dtype) for term in found]).tolist()
    return total, bool(loss), bool(gradient), dict(zip(losses, seen, strict=True))


def describe_gradients(model: nn.Module) -> str:
    """Name the parameters of ``model`` whose gradients are not finite, for a message."""
    names = [
        name.removeprefix("module.")  # of DistributedDataParallel
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
    ]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"the gradient is not finite, the loss is ({', '.join(names[:NAMED])}{more})"


class _FirstFound(Exception):
    """Ends a forward pass in which the module was found."""


@contextlib.contextmanager
def watching(model: nn.Module) -> Iterator[list[str]]:
    """Find the first module whose output is not finite although its input is.

    A forward pass of ``model`` in the ``with`` block ends at that module, and its name, its type
    and the largest magnitude of its input are appended to the list.
    """
    found: list[str] = []

    def watch(name: str):
        def look(module: nn.Module, inputs: object, output: object) -> None:
            if found or not _finite(inputs) or _finite(output):
                return
            largest = max((float(t.abs().max()) for t in _tensors(inputs) if t.numel()), default=0)
            found.append(f"{name} ({type(module).__name__}, largest input {largest:.3g})")
            raise _FirstFound

        return look

    handles = [m.register_forward_hook(watch(name)) for name, m in model.named_modules() if name]
    try:
        with contextlib.suppress(_FirstFound):
            yield found
    finally:
        for handle in handles:
            handle.remove()


def _finite(value: object) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(value))


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value.detach()] if value.is_floating_point() else []
    if isinstance(value, Instances):
        value = value.get_fields()
    if isinstance(value, (Boxes, ImageList)):
        value = [value.tensor]
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, Sequence) or isinstance(value, str):
        return []
    return [tensor for item in value for tensor in _tensors(item)]
