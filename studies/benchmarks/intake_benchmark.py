"""Time and memory of reading a large COCO json, beside detectron2's own reader.

Each reading has a process of its own, and the two readers take turns::

    python -m studies.benchmarks.intake_benchmark [--images 100000] [--record]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time

import numpy as np
from tabulate import tabulate

from lambda_det.errors import InputError, exit_on_input_error, writing
from lambda_det.io import write_json
from lambda_det.records import make_record, record_path, results_folder

RECORD = "intake_speed"
PER_IMAGE, CLASSES, CORNERS = 10, 80, 12
_SIZE = np.array([640, 480])


def generate(path: str, num_images: int, seed: int = 0) -> None:
    """Write a json of images of 640 x 480 pixels with 10 objects each, whose masks are polygons."""
    rng = np.random.default_rng(seed)
    count = num_images * PER_IMAGE
    sides = rng.uniform(5, 100, (count, 2)).round(2)
    corners = (rng.uniform(0, 1, (count, 2)) * (_SIZE - sides)).round(2)
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = (np.stack([np.cos(angles), np.sin(angles)], axis=1) + 1) / 2
    classes = rng.integers(1, CLASSES + 1, count).tolist()
    images = rng.integers(1, num_images + 1, count).tolist()
    annotations = [
        {
            "id": number + 1,
            "image_id": images[number],
            "category_id": classes[number],
            "bbox": [*corners[number].tolist(), *sides[number].tolist()],
            "area": round(float(sides[number].prod() * 0.75), 2),
            "iscrowd": 0,
            "segmentation": [
                (corners[number] + circle * sides[number]).round(2).reshape(-1).tolist()
            ],
        }
        for number in range(count)
    ]
    listed = [
        {"id": i, "file_name": f"{i:012d}.jpg", "height": 480, "width": 640}
        for i in range(1, num_images + 1)
    ]
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, CLASSES + 1)]
    content = {"images": listed, "annotations": annotations, "categories": categories}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)


def measure(reader: str, path: str) -> tuple[float, float]:
    """CPU seconds and MiB of memory that a reader takes, in a new process.

    Args:
        reader: ``"detectron2"`` or ``"lambda_det"``, which does not look for the image files here.
        path: the json.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (reader, path))


def _measure(reader: str, path: str) -> tuple[float, float]:
    from detectron2.data.datasets import load_coco_json

    from lambda_det.data.reading.coco_json import read_coco
    from lambda_det.data.reading.intake import detectron2_images

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    if reader == "detectron2":
        images = load_coco_json(path, "images", "read_by_detectron2")
    else:
        found = read_coco(path)
        images = detectron2_images(found, [image["file_name"] for image in found.images])
    seconds = time.process_time() - start
    assert images
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def benchmark(num_images: int, repeats: int) -> list[dict]:
    """Return a row for each reader: medians, and the ratios to detectron2's."""
    readers = ("detectron2", "lambda_det")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "instances.json")
        # Elsewhere: a process begins with the peak memory of the one that has started it.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pool.apply(generate, (path, num_images))
        runs = [{reader: measure(reader, path) for reader in readers} for _ in range(repeats)]
    rows = []
    for reader in readers:
        ratios = [run[reader][0] / run["detectron2"][0] for run in runs]
        memory = [run[reader][1] / max(1, run["detectron2"][1]) for run in runs]
        rows.append(
            {
                "reader": reader,
                "images": num_images,
                "annotations": num_images * PER_IMAGE,
                "cpu_s": round(statistics.median(run[reader][0] for run in runs), 2),
                "time_ratio": round(statistics.median(ratios), 3),
                "time_ratio_min_max": [round(min(ratios), 3), round(max(ratios), 3)],
                "memory_mib": round(statistics.median(run[reader][1] for run in runs)),
                "memory_ratio": round(statistics.median(memory), 3),
            }
        )
    return rows


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=100_000, help="number of images (100000)")
    parser.add_argument("--repeats", type=int, default=3, help="readings of each reader (3)")
    parser.add_argument("--record", action="store_true", help=f"write results/{RECORD}.json")
    args = parser.parse_args(argv)
    for name in ("images", "repeats"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: at least 1 is needed")
    rows = benchmark(args.images, args.repeats)
    print(tabulate(rows, headers="keys", tablefmt="rounded_outline"))
    if args.record:
        command = "python -m studies.benchmarks.intake_benchmark --record"
        path = record_path(str(results_folder()), RECORD)
        with writing(path):
            write_json(make_record(command, rows, seeds=[0], with_gpu=False), path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
