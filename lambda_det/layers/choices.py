"""The back ends that ``"auto"`` has chosen by measurement: this process's, and the user's file.

A choice belongs to an environment (device, threads, releases, kernels) and to a kind of call
(:mod:`lambda_det.layers.autotune`), both as text. It is taken once and holds for the process.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping

import torch.distributed as dist

from lambda_det.io import cache_path, read_cache, write_cache

Table = dict[str, dict[str, str]]
"""Environment -> kind of call -> back end."""


class Choices:
    """The choices of a process.

    Attributes:
        active: False in a training that may not measure, or goes on from one which chose by the
            rule.
        shared: whether process 0 hands its choices to this one, which then reads no file: when the
            file has a choice depends on the speed of the processes.
        vain: kind of call -> how many measurements of it had nothing to compare.
    """

    def __init__(self) -> None:
        self.active, self.shared = True, False
        self.vain: Counter[str] = Counter()
        self._known: Table = {}
        self._new: Table = {}
        self._read: dict[str, tuple[int, dict[str, str]]] = {}

    def get(self, environment: str, call: str) -> str | None:
        """The back end that was chosen for a kind of call; None if none was."""
        return self._known.get(environment, {}).get(call)

    def add(self, environment: str, call: str, backend: str) -> None:
        """Take a choice for this process, and for those that :meth:`take_new` reaches."""
        for table in (self._known, self._new):
            table.setdefault(environment, {})[call] = backend

    def update(self, table: Mapping[str, Mapping[str, str]]) -> None:
        """Take the choices of a checkpoint, or of process 0."""
        for environment, chosen in table.items():
            self._known.setdefault(environment, {}).update(chosen)

    def take_new(self) -> Table:
        """The choices since the last call of this method."""
        new, self._new = self._new, {}
        return new

    def table(self) -> Table:
        """All choices, as a copy."""
        return {environment: dict(chosen) for environment, chosen in self._known.items()}

    def clear(self) -> None:
        """Forget everything, as a new process."""
        self.__init__()  # type: ignore[misc]

    # ---- the user's file ----

    def remembered(self, environment: str, call: str) -> str | None:
        """The choice in the user's file; None without one, or if the file is damaged."""
        path = file_of(environment)
        try:
            changed = os.stat(path).st_mtime_ns
        except OSError:
            return None
        if self._read.get(path, (0, {}))[0] != changed:
            self._read[path] = changed, _content(path, environment)
        return self._read[path][1].get(call)

    def remember(self, environment: str, call: str, backend: str) -> None:
        """Write a choice to the user's file, if that can be written."""
        if path := file_of(environment):
            known = _content(path, environment) | {call: backend}
            write_cache({environment: known}, path)


CHOICES = Choices()
"""The choices of this process."""


def decides() -> bool:
    """Whether this process measures: it is the only one, or process 0 of several."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def file_of(environment: str) -> str:
    """The user's file for an environment; "" for a user without a home."""
    return cache_path(f"backends_{hashlib.sha256(environment.encode()).hexdigest()[:16]}.json")


def read_table(content: object) -> Table:
    """The table in what a file holds, without what is no table."""
    if not isinstance(content, Mapping):
        return {}
    return {
        environment: {c: b for c, b in chosen.items() if isinstance(c, str) and isinstance(b, str)}
        for environment, chosen in content.items()
        if isinstance(environment, str) and isinstance(chosen, Mapping)
    }


def _content(path: str, environment: str) -> dict[str, str]:
    return read_table(read_cache(path)).get(environment, {})
