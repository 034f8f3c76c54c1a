"""Differences between the supported versions of detectron2.

They are detected from detectron2's interfaces and not from its version number, because the main
branch has had the number of v0.6 for years.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
import types

import torch.distributed as dist
from detectron2.layers import ShapeSpec
from detectron2.utils import comm
from torch import nn


def detectron2_flavour() -> str:
    """Return which interfaces the installed detectron2 has: ``"0.5"``, ``"0.6"`` or ``"main"``."""
    from detectron2.engine import hooks

    if dataclasses.is_dataclass(ShapeSpec):
        return "main"
    return "0.6" if hasattr(hooks, "BestCheckpointer") else "0.5"


def make_local_group(processes: int) -> None:
    """Create detectron2's process group of this machine, as ``detectron2.engine.launch`` does.

    Args:
        processes: number of processes on each machine. It must be the same on all machines, and
            the ranks on a machine must be consecutive.
    """
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(processes)
        return
    for first in range(0, dist.get_world_size(), processes):
        group = dist.new_group(list(range(first, first + processes)))
        if first <= dist.get_rank() < first + processes:
            comm._LOCAL_PROCESS_GROUP = group


def tracing_adapter() -> type[nn.Module]:
    """Return ``TracingAdapter`` of ``detectron2.export``.

    In v0.5 and v0.6, ``detectron2.export`` imports Caffe2, which current PyTorch does not have. The
    module that is needed here does not use it, so it is imported without the package.
    """
    package = "detectron2.export"
    try:
        importlib.import_module(package)
        stand_in = None
    except ImportError:
        for name in [name for name in sys.modules if name.startswith(package)]:
            del sys.modules[name]  # modules that the failed import left
        found = importlib.util.find_spec(package)
        stand_in = types.ModuleType(package)
        stand_in.__path__ = list((found and found.submodule_search_locations) or ())
        sys.modules[package] = stand_in
    try:
        return importlib.import_module(f"{package}.flatten").TracingAdapter
    finally:
        if stand_in is not None:  # an import elsewhere must still fail as it does without us
            sys.modules.pop(package)
