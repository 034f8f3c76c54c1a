"""The model of a training that several processes share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lambda_det.errors import InputError, one_line


def parallel(model: nn.Module) -> nn.Module:
    """The model in ``DistributedDataParallel`` where there are several processes.

    Raises:
        InputError: the processes share a CPU and a norm is one that works on GPUs only.
    """
    if comm.get_world_size() == 1:
        return model
    on_cpu = next(model.parameters()).device.type == "cpu"
    if on_cpu and any(type(module) is nn.SyncBatchNorm for module in model.modules()):
        raise InputError(
            "a NORM is 'SyncBN', which needs GPUs: several processes on a CPU take 'naiveSyncBN', "
            "'GN' or 'BN'"
        )
    for module in model.modules():
        if type(module) is NaiveSyncBatchNorm:
            module.__class__ = _MeasuredInFloat32
    return DistributedDataParallel(
        model, device_ids=None if on_cpu else [comm.get_local_rank()], broadcast_buffers=False
    )


class _MeasuredInFloat32(NaiveSyncBatchNorm):
    """detectron2's, with bfloat16 as it is with float16: it takes the variance as mean(x^2) -
    mean(x)^2, of which bfloat16 leaves next to nothing, or less than nothing, where the mean is
    large."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or input.dtype is not torch.bfloat16:
            return super().forward(input)
        return super().forward(input.float()).to(input.dtype)


def bare(model: nn.Module) -> nn.Module:
    """What :func:`parallel` was given: its names do not depend on the number of processes."""
    return getattr(model, "module", model)


def share_buffers(model: nn.Module) -> None:
    """Give all processes the running statistics of process 0; each has measured its own images'."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def without_sharing(model: nn.Module, unless: bool) -> AbstractContextManager:
    """Forward and backward passes in which processes do not wait for each other's gradients.

    Args:
        model: in DistributedDataParallel or not.
        unless: whether this is the last part, after which the sums are shared.
    """
    if unless or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()


@contextlib.contextmanager
def errors_shared() -> Iterator[None]:
    """Raise the InputError that one process meets in the block in all of them, after the block.

    The others would wait for its gradients, and process 0 could not save what is done.
    """
    error = None
    try:
        yield
    except InputError as raised:
        error = raised
    if comm.get_world_size() > 1:
        lines = comm.all_gather(None if error is None else one_line(error))
        if (line := next((line for line in lines if line is not None), None)) is not None:
            error = InputError(line)
            error.of_all_processes = True
    if error is not None:
        raise error
