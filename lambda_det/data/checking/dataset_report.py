"""What a split of a dataset holds: in numbers, and these as text."""

from __future__ import annotations

import textwrap
from collections import Counter

import numpy as np
from tabulate import tabulate

from lambda_det.data.checking.split_content import STOCK_RESIZE, SplitContent
from lambda_det.data.reading.findings import KINDS
from lambda_det.errors import printable

STOCK_ANCHORS = (32, 64, 128, 256, 512)
"""detectron2's ``MODEL.ANCHOR_GENERATOR.SIZES`` for an FPN: square roots of areas in pixels."""

SMALL, LARGE = 32**2, 96**2
"""Areas in pixels between COCO's small, medium and large objects."""

_REACH = 2  # an anchor fits objects of half to twice its size
_SMALLEST_ANCHOR = 4  # pixels; the stride of the finest level of an FPN

_WIDTH = 100
_COLUMNS = [None, None, None, 60]


def split_report(data: SplitContent) -> dict:
    """Return the findings, sizes and counts of a split, in the form of a JSON.

    Sizes of objects are square roots of the areas of their boxes, in pixels of the image file.
    Objects are those that are learned: crowd regions are counted apart.
    """
    summary, images, annotations = data.found
    findings = summary.findings
    objects = [entry for entry in annotations if not entry["iscrowd"]]
    per_image = Counter(entry["image_id"] for entry in objects)
    per_class = Counter(entry["category_id"] for entry in objects)
    most, most_in = summary.most_objects
    return {
        "split": data.name,
        "annotations": data.source,
        "image_folder": data.image_root,
        "images": len(images),
        "objects": len(objects),
        "objects_with_mask": sum(bool(entry.get("segmentation")) for entry in objects),
        "crowd_regions": len(annotations) - len(objects),
        "left_out": findings.left_out(),
        "images_without_objects": len(images) - len(per_image),
        "findings": [
            {
                "kind": kind,
                "count": count,
                "treatment": KINDS[kind].treatment,
                "what": KINDS[kind].what,
                "done": KINDS[kind].done,
                "examples": findings.examples[kind],
            }
            for kind, count in findings.counts.items()
        ],
        "image_sizes": _image_sizes(images),
        "objects_per_image": {
            "median": float(np.median([per_image[image["id"]] for image in images])),
            "largest": most,
            "largest_in": most_in,
        },
        "classes": [
            {"id": category, "name": name, "objects": per_class[category]}
            for category, name in summary.categories
        ],
        "object_sizes": _object_sizes(objects) if objects else None,
        "anchor_sizes": _anchor_sizes(images, objects) if objects else None,
    }


def _image_sizes(images: list[dict]) -> dict[str, list[int]]:
    """Width and height of three of the images, in the order of their areas."""
    sizes = sorted(
        ((image["width"], image["height"]) for image in images), key=lambda size: size[0] * size[1]
    )
    chosen = {"smallest": sizes[0], "median": sizes[len(sizes) // 2], "largest": sizes[-1]}
    return {name: list(size) for name, size in chosen.items()}


def _object_sizes(objects: list[dict]) -> dict[str, float]:
    sizes, areas = _sizes_of(objects), np.array([entry["area"] for entry in objects])
    is_small, is_large = areas < SMALL, areas > LARGE
    return {
        "smallest": float(sizes.min()),
        "median": float(np.median(sizes)),
        "largest": float(sizes.max()),
        "share_small": float(is_small.mean()),
        "share_medium": float((~is_small & ~is_large).mean()),
        "share_large": float(is_large.mean()),
    }


def _sizes_of(objects: list[dict]) -> np.ndarray:
    """(n,) square roots of the areas of the boxes in pixels."""
    return np.sqrt([entry["bbox"][2] * entry["bbox"][3] for entry in objects])


def _anchor_sizes(images: list[dict], objects: list[dict]) -> dict:
    """Sizes of anchors that fit the objects after detectron2's own resizing of the images.

    Each of five levels is twice the one before. The middle one is the power of two next to the
    geometric mean of the 5th and the 95th percentile of the sizes.
    """
    numbers = {image["id"]: index for index, image in enumerate(images)}
    sides = np.array([(image["height"], image["width"]) for image in images], dtype=np.float64)
    factors, _ = STOCK_RESIZE.factors(sides[:, 0], sides[:, 1])
    sizes = _sizes_of(objects) * factors[[numbers[entry["image_id"]] for entry in objects]]
    low, median, high = np.percentile(sizes, (5, 50, 95))
    first = max(2.0 ** np.round(np.log2(max(low * high, 1e-12)) / 2 - 2), _SMALLEST_ANCHOR)
    outside = (sizes < STOCK_ANCHORS[0] / _REACH) | (sizes > STOCK_ANCHORS[-1] * _REACH)
    return {
        "percentiles": {"5": float(low), "50": float(median), "95": float(high)},
        "fitting": [[int(first * 2**level)] for level in range(len(STOCK_ANCHORS))],
        "detectron2": [[size] for size in STOCK_ANCHORS],
        "share_outside_detectron2": float(outside.mean()),
    }


# ---- the same as text ----


def report_text(report: dict) -> str:
    """Return a report of :func:`split_report` as lines of text."""
    return "\n".join(map(printable, _lines(report)))


def _lines(report: dict) -> list[str]:
    lines = [
        f"{report['split']}: {report['images']} images, {report['objects']} objects, "
        f"{report['crowd_regions']} crowd regions, {report['left_out']} annotations left out, "
        f"{report['images_without_objects']} images without an object",
        f"annotations: {report['annotations']}",
        f"images: {report['image_folder']}",
        "",
        *_findings(report["findings"]),
        "",
        "sizes of the images: " + _listed({
            name: f"{width} x {height}" for name, (width, height) in report["image_sizes"].items()
        }),
    ]  # fmt: skip
    if not report["objects"]:
        return [*lines, "no object can be learned: this can only be a test set"]
    number = report["objects_per_image"]
    return [
        *lines,
        f"objects per image: median {number['median']:g}, largest {number['largest']} "
        f"({number['largest_in']})",
        *_classes(report["classes"]),
        *_masks(report),
        *_sizes(report["object_sizes"]),
        *_anchors(report["anchor_sizes"]),
    ]


def _findings(findings: list[dict]) -> list[str]:
    if not findings:
        return ["findings: none"]
    rows = [
        (
            f["kind"],
            f["count"],
            f["treatment"],
            f"{f['what']}: {f['done']} ({printable('; '.join(f['examples']))})",
        )
        for f in findings
    ]
    headers = ("finding", "count", "treatment", "what it is and what is done (examples)")
    return tabulate(rows, headers, tablefmt="simple", maxcolwidths=_COLUMNS).splitlines()


def _classes(classes: list[dict]) -> list[str]:
    times = Counter(c["name"] for c in classes)
    names = [c["name"] + (f" (id {c['id']})" if times[c["name"]] > 1 else "") for c in classes]
    counted = [(c["objects"], name) for c, name in zip(classes, names, strict=True)]
    used = [f"{name} {count}" for count, name in sorted(counted, key=lambda c: -c[0]) if count]
    unused = [name for count, name in counted if not count]
    lines = _wrapped(f"objects per class ({len(classes)} classes): {', '.join(used)}")
    return lines + (_wrapped(f"classes without an object: {', '.join(unused)}") if unused else [])


def _masks(report: dict) -> list[str]:
    if report["objects_with_mask"] == report["objects"]:
        return ["masks: all objects have one"]
    if report["objects_with_mask"]:
        return [f"masks: {report['objects_with_mask']} objects have one"]
    return ["masks: no object has one; a training needs MODEL.MASK_ON False"]


def _sizes(sizes: dict) -> list[str]:
    values = {name: f"{sizes[name]:.4g}" for name in ("smallest", "median", "largest")}
    shares = {n: f"{100 * sizes['share_' + n]:.0f} %" for n in ("small", "medium", "large")}
    return [
        f"sizes of the objects (square root of the box's area, pixels): {_listed(values)}",
        f"by COCO's areas, as APs, APm and APl count them: {_listed(shares)}",
    ]


def _anchors(anchors: dict) -> list[str]:
    values = {f"{name} % below": f"{v:.4g}" for name, v in anchors["percentiles"].items()}
    lines = [
        "sizes of the objects once the shorter side of the image is 800 pixels and the longer at "
        f"most 1333: {_listed(values)}",
        f"anchors around these, each level twice the one before: {anchors['fitting']}; "
        f"detectron2's own: {anchors['detectron2']}",
    ]
    if anchors["share_outside_detectron2"] > 0.5:
        lines.append(
            f"advice: {100 * anchors['share_outside_detectron2']:.0f} % of the objects are smaller "
            "than half of the smallest of detectron2's anchors or larger than twice the largest; "
            f'set MODEL.ANCHOR_GENERATOR.SIZES "{anchors["fitting"]}"'
        )
    return lines


def _listed(values: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent="  ", break_long_words=False)
