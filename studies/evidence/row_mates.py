"""Generation of row_mates, a dataset in COCO layout of scenes of :mod:`studies.evidence.scenes`.

::

    python -m studies.evidence.row_mates --output DIR [--set rows] [--num-train 2000 ...]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from lambda_det.errors import InputError, exit_on_input_error, writing
from lambda_det.io import new_folder, write_json
from studies.evidence.scenes import KINDS, SETS, Layout, Scene, draw_scene

SPLITS = ("train2017", "val2017")


def generate(
    root: str,
    name: str = "rows",
    layout: Layout = Layout(),
    *,
    num_train: int = 2000,
    num_val: int = 200,
    seed: int = 0,
) -> None:
    """Write ``annotations/instances_SPLIT.json`` and ``SPLIT/*.png`` for :data:`SPLITS`.

    Each split has an independent stream of random numbers; image i of a split depends on (seed,
    split, i) alone. The dataset is written to a temporary folder beside ``root``, which is renamed
    at the end.

    Args:
        root: folder of the dataset; it must not exist.
        name: key of :data:`~studies.evidence.scenes.SETS`.
        layout: layout of the scenes.
        num_train, num_val: number of images of the splits.
        seed: random seed, not negative.

    Raises:
        InputError: ``root`` exists or cannot be written, or a number is out of range.
    """
    root = os.path.abspath(root)
    if os.path.lexists(root):
        raise InputError(f"--output {root}: exists already; name a new folder or remove it")
    for option, value in (("--num-train", num_train), ("--num-val", num_val)):
        if value < 1:
            raise InputError(f"{option} {value}: at least 1 is needed")
    if seed < 0:
        raise InputError(f"--seed {seed}: a number of at least 0 is needed")
    with writing(root), new_folder(root) as folder:
        for split, count in zip(SPLITS, (num_train, num_val), strict=True):
            drawn = scenes(split, name, layout, count=count, seed=seed)
            _write_split(folder, split, name, drawn)


def scenes(
    split: str, name: str, layout: Layout = Layout(), *, count: int, seed: int = 0
) -> Iterator[Scene]:
    """Draw the first ``count`` scenes of a split, as :func:`generate` does."""
    stream = np.random.SeedSequence(seed).spawn(len(SPLITS))[SPLITS.index(split)]
    for child in stream.spawn(count):
        yield draw_scene(np.random.default_rng(child), name, layout)


def _write_split(root: str, split: str, name: str, drawn: Iterable[Scene]) -> None:
    os.makedirs(os.path.join(root, split))
    images, annotations = [], []
    for number, scene in enumerate(drawn, start=1):
        file_name = f"{number:06d}.png"
        encoded = cv2.imencode(".png", scene.image)[1]
        with open(os.path.join(root, split, file_name), "wb") as file:
            file.write(encoded.tobytes())
        height, width = scene.image.shape[:2]
        images.append({"id": number, "file_name": file_name, "height": height, "width": width})
        for box, kind in zip(scene.boxes.tolist(), scene.kinds.tolist(), strict=True):
            annotations.append(_annotation(len(annotations) + 1, number, box, kind))
    categories = [{"id": number, "name": kind} for number, kind in enumerate(KINDS, start=1)]
    content = {
        "info": {"description": f"row_mates, {name}, {split}"},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    path = os.path.join(root, "annotations", f"instances_{split}.json")
    write_json(content, path, indent=None)


def _annotation(number: int, image: int, box: list[int], kind: int) -> dict:
    left, top, right, bottom = box
    return {
        "id": number,
        "image_id": image,
        "category_id": kind + 1,
        "iscrowd": 0,
        "bbox": [left, top, right - left, bottom - top],
        "area": (right - left) * (bottom - top),
        "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
    }


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--output", required=True, metavar="DIR", help="a new folder")
    add(
        "--set",
        default="rows",
        choices=SETS,
        help="set of scenes: what shows the kind of an object (rows)",
    )
    add("--num-train", type=int, default=2000, metavar="N", help="training images (2000)")
    add("--num-val", type=int, default=200, metavar="N", help="validation images (200)")
    add("--rows", type=int, default=4, metavar="N", help="objects in an image, an even number (4)")
    add("--side", type=int, default=128, metavar="PX", help="height of an image (128)")
    add(
        "--distance", type=int, metavar="PX", help="from an object to its marker (across the image)"
    )
    add("--seed", type=int, default=0, help="random seed (0)")
    args = parser.parse_args(argv)
    generate(
        args.output,
        args.set,
        Layout(args.rows, args.side, args.distance),
        num_train=args.num_train,
        num_val=args.num_val,
        seed=args.seed,
    )
    print(args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
