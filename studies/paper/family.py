"""Parameters and multiply-adds of every depth and variant of the family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from lambda_det.analysis.flops import count_flops, total_flops
from lambda_det.analysis.parameters import NUM_CLASSES, count_parameters
from lambda_det.analysis.published import PublishedTable
from lambda_det.backbone import build_lambda_resnet
from lambda_det.backbone.architectures import FAMILY_DEPTHS, STAGES, VARIANTS
from lambda_det.records import provenance

SIZES = ((224, 224), (800, 1333))
"""Image sizes (H, W) in pixels for which multiply-adds are counted."""

_PUBLISHED = {
    "published_top1": ("resnet_rs_family", "top1"),
    "published_box_ap": ("mask_rcnn", "box_ap"),
    "published_mask_ap": ("mask_rcnn", "mask_ap"),
}


def count_family(
    tables: Mapping[str, PublishedTable],
    depths: Sequence[int] = FAMILY_DEPTHS,
    progress: Callable[[str], object] = lambda _name: None,
) -> list[dict]:
    """Count every depth and variant with stem ``"rs"``.

    Args:
        tables: published tables from :func:`lambda_det.analysis.published.load_published`; their
            values for a network are in its row under ``published_…``.
        depths: the depths to count.
        progress: called with the name of a network before it is counted.

    Returns:
        Rows of a record, one for each network.
    """
    rows = []
    for depth in depths:
        for variant in VARIANTS:
            progress(f"{variant}-{depth}")
            with torch.device("meta"):
                model = build_lambda_resnet(
                    depth, variant, num_classes=NUM_CLASSES, out_features=STAGES
                ).eval()
            parameters = count_parameters(model)
            row = {
                "depth": depth,
                "variant": variant,
                "parameters_classifier_form": parameters.total(),
                "parameters_backbone": parameters.total() - parameters["classifier"],
            }
            for height, width in SIZES:
                image = torch.empty(1, 3, height, width, device="meta")
                counts = count_flops(model, image)
                total = total_flops(counts) - total_flops(counts, "linear")
                row[f"backbone_gmac_{height}x{width}"] = round(total / 1e9, 3)
            for key, (table, column) in _PUBLISHED.items():
                row[key] = _published(tables.get(table), column, depth, variant)
            rows.append(row)
    return rows


def architecture_table(record: Mapping) -> str:
    """Format the rows of :func:`count_family` in Markdown; published numbers have own columns."""
    sizes = [f"{height}x{width}" for height, width in SIZES]
    headings = [
        "backbone", "M with classifier", "M backbone",
        *(f"GMAC at {size.replace('x', '×')}" for size in sizes),
        "top-1, published", "box AP, published", "mask AP, published",
    ]  # fmt: skip
    lines = ["| " + " | ".join(headings) + " |", "|---" * len(headings) + "|"]
    for row in record["rows"]:
        cells = [
            f"{row['variant']}-{row['depth']}",
            f"{row['parameters_classifier_form'] / 1e6:.2f}",
            f"{row['parameters_backbone'] / 1e6:.2f}",
            *(f"{row[f'backbone_gmac_{size}']:.1f}" for size in sizes),
            *("–" if row[key] is None else f"{row[key]:.1f}" for key in _PUBLISHED),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", provenance(record)])


def _published(table: PublishedTable | None, column: str, depth: int, variant: str) -> float | None:
    for row in table.rows if table else ():
        if row.model == {"depth": depth, "variant": variant}:
            return row.values.get(column)
    return None
