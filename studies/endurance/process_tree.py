"""Memory, open files and threads of a process and of those it has started, from Linux' /proc."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from dataclasses import dataclass

Identity = tuple[int, int]
"""Number of a process and the moment of its start: numbers are used again."""


@dataclass(frozen=True)
class Usage:
    """What one process holds at one moment."""

    rss_kib: int
    handles: int
    threads: int


def usage_of_tree(root: int) -> dict[Identity, Usage]:
    """What a process and all that it has started hold, itself first; ``{}`` when it has ended."""
    found: dict[Identity, Usage] = {}
    waiting = [root]
    while waiting:
        pid = waiting.pop(0)
        # One that has ended meanwhile is not there any more, or its handles are nobody's to see.
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
    """When a process was started, in ticks since the start of the machine; None: it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            fields = file.read().rpartition(")")[2].split()  # a name may hold blanks
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def shared_memory(pids: set[int]) -> list[str]:
    """Names of the shared memory segments that these processes have made and nobody has removed."""
    segments = glob.glob("/dev/shm/torch_*")
    named = [(name, re.match(r"torch_(\d+)_", os.path.basename(name))) for name in segments]
    return [name for name, match in named if match and int(match[1]) in pids]
