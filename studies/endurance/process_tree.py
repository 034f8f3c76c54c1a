"""Memory, open files and threads of a process and its descendants."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from dataclasses import dataclass

import psutil

Identity = tuple[int, float]
"""(number, start time) of a process; the number alone may be used again."""


@dataclass(frozen=True)
class Usage:
    """Resident memory, open file handles and threads of a process at one moment."""

    rss_kib: int
    handles: int
    threads: int


def usage_of_tree(root: int) -> dict[Identity, Usage]:
    """Usage of a process, first, and of its descendants; empty if it has ended."""
    found: dict[Identity, Usage] = {}
    with contextlib.suppress(psutil.Error):
        first = psutil.Process(root)
        for process in (first, *first.children(recursive=True)):
            with contextlib.suppress(psutil.Error), process.oneshot():  # it may end meanwhile
                if process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid, process.create_time()] = Usage(
                        process.memory_info().rss // 1024,
                        process.num_fds(),
                        process.num_threads(),
                    )
    return found


def shared_memory(pids: set[int]) -> list[str]:
    """Paths of the existing shared memory segments that these processes have made."""
    segments = glob.glob("/dev/shm/torch_*")
    named = [(name, re.match(r"torch_(\d+)_", os.path.basename(name))) for name in segments]
    return [name for name, match in named if match and int(match[1]) in pids]
