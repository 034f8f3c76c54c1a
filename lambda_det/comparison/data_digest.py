"""What a run was trained and evaluated on: a digest of the annotations.

With it, what is kept of a run on other data does not count. The name of the folder does not say it:
the environment variable may name another one tomorrow, and the files in it may change.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping

from detectron2.data import DatasetCatalog, MetadataCatalog

from lambda_det.comparison.run import Run
from lambda_det.data.reading.layouts import STOCK_SPLITS, Layout, find_layout
from lambda_det.data.registering.coco_folder import ENVIRONMENT_VARIABLE, PREFIX
from lambda_det.errors import InputError
from lambda_det.io import read_json

DATA = "data"
"""Key of the digests in the JSON of a run."""


def data_of(run: Run) -> dict[str, dict]:
    """Name of each dataset of a run -> ``"sha256"`` of its json, its numbers of ``"images"`` and
    ``"objects"``; without the datasets that are not on this machine."""
    found: dict[str, dict] = {}
    for name, path in _files(run).items():
        images, objects = _numbers(path, _stamp(path))
        found[name] = {"sha256": _digest(path, _stamp(path)), "images": images, "objects": objects}
    return found


def check_data(run: Run, facts: Mapping) -> None:
    """Check that the JSON that is kept of a run is of the data that are on this machine now. What
    has no digest, and data that are not here, are not checked.

    Raises:
        InputError: the annotations of a dataset are other ones.
    """
    known = facts.get(DATA)
    if not known:
        return
    for name, path in _files(run).items():
        was = known.get(name)
        if was is None or was["sha256"] == _digest(path, _stamp(path)):
            continue
        images, objects = _numbers(path, _stamp(path))
        raise InputError(
            f"{run.kept} contains a run with other data: its {name} had {was['images']} images and "
            f"{was['objects']} objects, {path} has {images} and {objects} and other content; give "
            "these data a set of their own in the suite, or remove that file"
        )


def _files(run: Run) -> dict[str, str]:
    """Name of each dataset of a run -> path of its json, as far as it is on this machine."""
    settings = run.settings
    output = run.folder.removesuffix(os.path.join("runs", run.key)).rstrip(os.sep)
    folder = str(settings["DATASETS.COCO_FOLDER"]).replace("{output}", output)
    folder = folder or os.environ.get(ENVIRONMENT_VARIABLE, "")
    share = float(str(settings.get("DATASETS.VAL_SHARE", 0.0)))
    found = {}
    for key in ("DATASETS.TRAIN", "DATASETS.TEST"):
        names = settings[key]
        for name in names if isinstance(names, list) else ():
            try:
                layout = find_layout(folder, val_share=share) if folder else None
                path = _file_of(str(name), layout)
            except InputError:  # a training says what is wrong
                continue
            if os.path.isfile(path):
                found[str(name)] = path
    return found


def _file_of(name: str, layout: Layout | None) -> str:
    if layout is not None and name in STOCK_SPLITS:
        return layout.split_of_role(*STOCK_SPLITS[name]).json_file
    if layout is not None and (name.startswith(PREFIX) or name not in DatasetCatalog):
        return layout.split(name.removeprefix(PREFIX)).json_file
    return MetadataCatalog.get(name).get("json_file") or "" if name in DatasetCatalog else ""


def _stamp(path: str) -> tuple[int, int]:
    facts = os.stat(path)
    return facts.st_mtime_ns, facts.st_size


@functools.lru_cache(maxsize=64)
def _digest(path: str, stamp: tuple[int, int]) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@functools.lru_cache(maxsize=64)
def _numbers(path: str, stamp: tuple[int, int]) -> tuple[int, int]:
    content = read_json(path)
    if not isinstance(content, dict):
        return 0, 0
    return len(content.get("images") or ()), len(content.get("annotations") or ())
