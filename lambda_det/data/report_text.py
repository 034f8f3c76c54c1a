"""A report of a dataset as text."""

from __future__ import annotations

import textwrap
from collections import Counter

from tabulate import tabulate

from lambda_det.errors import printable

_WIDTH = 100
_COLUMNS = [None, None, None, 60]


def report_text(report: dict) -> str:
    """Return a report of :func:`~lambda_det.data.dataset_report.split_report` as lines of text."""
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
