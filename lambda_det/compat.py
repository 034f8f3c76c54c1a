"""What differs between the supported versions of detectron2: probed, never asked by number."""

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
    """``"0.5"``, ``"0.6"`` or ``"main"``: whose interfaces the installed detectron2 has.

    Its ``__version__`` does not tell: main has been called 0.6 for years.
    """
    from detectron2.engine import hooks

    if dataclasses.is_dataclass(ShapeSpec):
        return "main"
    return "0.6" if hasattr(hooks, "BestCheckpointer") else "0.5"


def make_local_group(processes: int) -> None:
    """Tell detectron2 which processes run on this machine.

    Args:
        processes: their number, the same on every machine; the ranks of a machine are consecutive.
    """
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(processes)
        return
    for first in range(0, dist.get_world_size(), processes):
        group = dist.new_group(list(range(first, first + processes)))
        if first <= dist.get_rank() < first + processes:
            comm._LOCAL_PROCESS_GROUP = group


def tracing_adapter() -> type[nn.Module]:
    """``TracingAdapter`` of ``detectron2.export``.

    The package itself needs Caffe2 in v0.5 and v0.6, which this class does not.
    """
    package = "detectron2.export"
    try:
        importlib.import_module(package)
        stand_in = None
    except ImportError:
        for name in [name for name in sys.modules if name.startswith(package)]:
            del sys.modules[name]  # what the attempt has left
        found = importlib.util.find_spec(package)
        stand_in = types.ModuleType(package)
        stand_in.__path__ = list((found and found.submodule_search_locations) or ())
        sys.modules[package] = stand_in
    try:
        return importlib.import_module(f"{package}.flatten").TracingAdapter
    finally:
        if stand_in is not None:  # to anyone else it is as missing as before
            sys.modules.pop(package)
