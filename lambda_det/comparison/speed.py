"""Known training times per image, and the settings and the machine that each was measured with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from detectron2.config import CfgNode

from lambda_det.comparison.results import result_of
from lambda_det.comparison.run_files import FINISHED, state_of
from lambda_det.comparison.settings import default_settings, settings_of
from lambda_det.comparison.suite import Suite
from lambda_det.errors import InputError
from lambda_det.io import read_json
from lambda_det.records import hardware

THROUGHPUT_FILE = "throughput.json"
SPEED_SETTINGS = "speed_settings"
"""Column of a row with training times: the settings that they were measured with."""

_NODES = {"MODEL", "INPUT", "DATALOADER"}
_KEYS = {
    "SOLVER.AMP.ENABLED", "SOLVER.AMP.PRECISION", "SOLVER.CLIP_GRADIENTS.ENABLED",
    "CUDNN_BENCHMARK",
}  # fmt: skip
_OF_NO_EFFECT = {
    "MODEL.WEIGHTS", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.LAMBDA_RESNET.PARTIAL_INIT",
    "MODEL.LAMBDA_RESNET.PARTIAL_INIT_AS_IDENTITY", "MODEL.LAMBDA_RESNET.MIN_COVERAGE",
    "MODEL.LAMBDA_RESNET.MEASURE_NORMS", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST",
}  # fmt: skip

Key = tuple[str, int]
"""The settings as text, and the number of images per iteration and GPU."""


@dataclass(frozen=True)
class Time:
    """A measured training.

    Attributes:
        ms_per_image: milliseconds per image, on all of its GPUs together.
        gpus: number of GPUs of the training; 1 on a CPU.
        machine: as :func:`lambda_det.records.hardware` describes it.
        source: where the number is from.
    """

    ms_per_image: float
    gpus: int
    machine: Mapping
    source: str

    @property
    def device(self) -> str:
        """Name of the GPU, or of the CPU with its number of cores."""
        return device_name(self.machine)

    @property
    def unit(self) -> str:
        """Name of an hour on such a device."""
        return "GPU-hours" if self.machine["gpu"] else "hours"


def speed_settings(cfg: CfgNode) -> dict[str, object]:
    """The config keys that the time of a training iteration may depend on (models, heads, images,
    device, precision), if they differ from the defaults of detectron2 and lambda_det.

    The data are left out, because the machine that plans need not have them, and so is the number
    of images per iteration, which :func:`speed_key` adds.
    """
    default = default_settings()
    return {
        key: value
        for key, value in settings_of(cfg).items()
        if (key.partition(".")[0] in _NODES or key in _KEYS)
        and key not in _OF_NO_EFFECT
        and (key not in default or default[key] != value)
    }


def speed_key(cfg: CfgNode, gpus: int) -> Key:
    """The key of a training time: two trainings with the same key, on any number of ``gpus``, take
    the same time per image on a device."""
    return _key(speed_settings(cfg), cfg.SOLVER.IMS_PER_BATCH, gpus)


def _key(settings: Mapping, images: int, gpus: int) -> Key:
    return json.dumps(settings, sort_keys=True), images_per_gpu(images, gpus)


def images_per_gpu(images: int, gpus: int) -> int:
    """The number of an iteration's ``images`` that one of ``gpus`` GPUs gets; at least 1."""
    return max(1, images // gpus)


def train_size(cfg: CfgNode) -> str:
    """Size of the images that a config trains on, in pixels, as text."""
    if cfg.INPUT.LSJ.ENABLED:
        return "{}×{} jittered".format(*cfg.INPUT.LSJ.SIZE)
    least, most = min(cfg.INPUT.MIN_SIZE_TRAIN), max(cfg.INPUT.MIN_SIZE_TRAIN)
    side = str(most) if least == most else f"{least}–{most}"
    return f"short side {side}, at most {cfg.INPUT.MAX_SIZE_TRAIN}"


def hardware_of(cfg: CfgNode) -> dict[str, object]:
    """This machine's hardware, without the GPU if the config runs on the CPU, so that the GPU does
    not appear beside a time of the CPU."""
    return hardware() | ({"gpu": None} if cfg.MODEL.DEVICE == "cpu" else {})


def device_name(machine: Mapping) -> str:
    """Name of the GPU of a machine, or else of its CPU with the number of cores."""
    return machine["gpu"] or f"{machine['cpu']} with {machine['cores']} cores"


def known_times(suite: Suite, output: str) -> dict[Key, Time]:
    """Collect the training times of the record that the suite names, of ``throughput.json`` in
    ``output``, and of the finished runs. If a key occurs in several of them, the last one counts.

    Raises:
        InputError: a record cannot be read, or does not say with which settings or on which machine
            its times were measured.
    """
    times: dict[Key, Time] = {}
    measured = os.path.join(output, THROUGHPUT_FILE)
    for path in (suite.throughput, measured if os.path.isfile(measured) else ""):
        times |= _times_of_record(path) if path else {}
    for run in suite.runs:
        if state_of(run) != FINISHED:
            continue
        result = result_of(run)
        facts, found = result["finished"], result["row"].get("train_ms_per_image")
        if found is not None:
            source = f"measured, {run.name}{_sharing(facts['jobs'])}"
            time = Time(found, facts["gpus"], facts["record"]["hardware"], source)
            times[speed_key(suite.config_of(run), facts["gpus"])] = time
    return times


def _times_of_record(path: str) -> dict[Key, Time]:
    record, times = read_json(path, called="throughput"), {}
    try:
        jobs = max((run.get("jobs", 1) for run in record.get("runs", [])), default=1)
        for row in record["rows"]:
            found, gpus = row.get("train_ms_per_image"), row["gpus"]
            if found is None or gpus is None:
                continue
            key = _key(row[SPEED_SETTINGS], row["images_per_iteration"], gpus)
            mean = found["mean"] if isinstance(found, Mapping) else found
            times[key] = Time(mean, gpus, _machine(path, record, row), path + _sharing(jobs))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"throughput {path} does not say what was timed ({type(error).__name__}: {error}); "
            "time again with --measure"
        ) from error
    return times


def _machine(path: str, record: Mapping, row: Mapping) -> Mapping:
    """The hardware of a row: its own, or that of all runs on the same kind of device."""
    if "hardware" in row:
        return row["hardware"]
    on_cpu = row[SPEED_SETTINGS].get("MODEL.DEVICE") == "cpu"
    origins = [origin["hardware"] for origin in record.get("origins", [record])]
    machines = [m for m in origins if (m["gpu"] is None) == on_cpu]
    if not machines or any(machine != machines[0] for machine in machines):
        raise InputError(
            f"throughput {path}: the machine that {row['label']!r} was timed on is not known, or "
            "there are several"
        )
    return machines[0]


def _sharing(jobs: int) -> str:
    return f", {jobs} runs sharing the machine" if jobs > 1 else ""
