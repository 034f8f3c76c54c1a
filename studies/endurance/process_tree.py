"""Memory, open files and threads of a process and its descendants, read from Linux' /proc."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from dataclasses import dataclass

Identity = tuple[int, int]
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
    waiting = [root]
    while waiting:
        pid = waiting.pop(0)
        # A process may end in the meantime; then its files are missing or cannot be read.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            with open(f"/proc/{pid}/status", encoding="utf-8") as file:
                status = file.read()
            rss = re.search(r"^VmRSS:\s*(\d+) kB", status, re.M)
            if rss is None:  # a zombie
                continue
            threads = re.search(r"^Threads:\s*(\d+)", status, re.M)
            handles = len(os.listdir(f"/proc/{pid}/fd"))
            start = started(pid)
            if start is None:
                continue
            found[pid, start] = Usage(int(rss[1]), handles, int(threads[1]))
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children", encoding="utf-8") as file:
                    waiting += map(int, file.read().split())
    return found


def started(pid: int) -> int | None:
    """Start time of a process in clock ticks since the boot; None if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            fields = (
                file.read().rpartition(")")[2].split()
            )  # the name, in parentheses, may have blanks
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def shared_memory(pids: set[int]) -> list[str]:
    """Paths of the existing shared memory segments that these processes have made."""
    segments = glob.glob("/dev/shm/torch_*")
    named = [(name, re.match(r"torch_(\d+)_", os.path.basename(name))) for name in segments]
    return [name for name, match in named if match and int(match[1]) in pids]
