"""What differs between the supported versions of detectron2: probed, never asked by number."""

from __future__ import annotations

import dataclasses

import torch.distributed as dist
from detectron2.layers import ShapeSpec
from detectron2.utils import comm


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
