"""``summary.json``: what a training found out about itself, for programs to read."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterator

import torch
from detectron2.utils import comm
from torch import nn

from lambda_det.backbone.architectures import BOTTOM_UP_PARTS
from lambda_det.checkpoint.coverage import Coverage, part_of
from lambda_det.errors import InputError, writing
from lambda_det.io import read_json, write_json

SUMMARY_FILE = "summary.json"
_WARM_UP = 5  # calls that are not timed, as in detectron2's inference_on_dataset


class RunSummary:
    """Writes ``summary.json`` into OUTPUT_DIR, in the main process.

    When the weights have been loaded it holds ``pretrained_percent``, the share of the backbone's
    parameters that MODEL.WEIGHTS filled (a resumed run keeps it); at the end of the training also
    ``inference_ms_per_image``, of the last evaluation on this process's device, and
    ``peak_host_memory_mib``, the most resident memory of this process. A value is null where it was
    not measured.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._inference_ms: float | None = None

    def begin(self, coverage: Coverage | None) -> None:
        """Start anew, from weights of which ``coverage`` says what they filled, or without any."""
        if coverage is None:
            if comm.is_main_process():
                with contextlib.suppress(OSError):  # of an earlier run in this folder
                    os.unlink(os.path.join(self._folder, SUMMARY_FILE))
            return
        sizes = {n: size for n, size in coverage.sizes.items() if part_of(n) in BOTTOM_UP_PARTS}
        total = sum(sizes.values())
        loaded = sum(sizes.get(name, 0) for name in coverage.loaded)
        self._write({"pretrained_percent": 100 * loaded / total if total else None})

    @contextlib.contextmanager
    def timing(self, model: nn.Module) -> Iterator[None]:
        """Time the model's calls in the block, which evaluates it."""
        calls: list[tuple[float, int]] = []
        started = 0.0

        def start(_: nn.Module, __: tuple) -> None:
            nonlocal started
            started = time.perf_counter()

        def end(_: nn.Module, inputs: tuple, __: object) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            calls.append((time.perf_counter() - started, len(inputs[0])))

        handles = [model.register_forward_pre_hook(start), model.register_forward_hook(end)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        timed = calls[min(_WARM_UP, len(calls) - 1) :] if calls else []
        images = sum(count for _, count in timed)
        self._inference_ms = 1000 * sum(s for s, _ in timed) / images if images else None

    def finish(self) -> None:
        """At the end of a training."""
        kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._write(
            {
                "pretrained_percent": None,
                **read_summary(self._folder),
                "inference_ms_per_image": self._inference_ms,
                "peak_host_memory_mib": round(kib / 1024, 1),
            }
        )

    def _write(self, content: dict[str, float | None]) -> None:
        if comm.is_main_process():
            path = os.path.join(self._folder, SUMMARY_FILE)
            with writing(path):
                write_json(content, path)


def read_summary(folder: str) -> dict[str, float | None]:
    """``summary.json`` of a run's folder; {} where there is none, or none that can be read."""
    try:
        content = read_json(os.path.join(folder, SUMMARY_FILE))
    except InputError:
        return {}
    return content if isinstance(content, dict) else {}
