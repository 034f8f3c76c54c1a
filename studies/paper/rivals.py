"""The paper's comparison of layers (its tables 3 and 4): parameters and memory, counted.

Table 3 shows networks of several papers. Where one of them is a ResNet-50 whose 3x3 convolutions
are replaced, it is built here with that kind of layer; where it is a network of another shape, its
parameters are counted from its description: that of SAN is its code (github.com/hszhao/SAN), those
of A2-Net and LR-Net are from memory, because no source with their sizes could be opened. Nothing is
computed: networks are on the meta device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from lambda_det.analysis.flops import count_flops, total_flops
from lambda_det.analysis.memory import activation_bytes
from lambda_det.analysis.parameters import NUM_CLASSES, count_parameters
from lambda_det.analysis.published import PublishedTable, lambda_blocks_of
from lambda_det.backbone import LambdaResNet, build_lambda_resnet
from lambda_det.comparison.tables import markdown
from lambda_det.layers.attention import KINDS, DoubleAttention
from lambda_det.records import provenance

IMAGE = 224
BATCH = 128
"""Images of a batch in the paper's memory table, inferred: with 8 heads its formula then gives
131.9 GB, which are 122.8 GiB, where it has 120."""
HEADS = 8
BLOCKS, WIDTHS = (3, 4, 6, 3), (64, 128, 256, 512)  # of a ResNet-50


def resnet_50(stages: str, **arguments: object) -> LambdaResNet:
    """A ResNet-50 classifier on the meta device, with layers at the stages marked L."""
    with torch.device("meta"):
        return build_lambda_resnet(
            50, "resnet", stem="v1", lambda_blocks=lambda_blocks_of(stages),
            num_classes=NUM_CLASSES, out_features=("linear",), **arguments,
        )  # fmt: skip


def _parameters(stages: str, **arguments: object) -> int:
    return count_parameters(resnet_50(stages, **arguments)).total()


def _with_double_attention() -> int:
    """A ResNet-50 and five blocks of double attention with a norm: two of 512, three of 1024."""
    count = _parameters("CCCC")
    for channels in (512, 512, 1024, 1024, 1024):
        block = DoubleAttention(channels)
        count += sum(parameter.numel() for parameter in block.parameters()) + 2 * channels
    return count


def local_relation_network() -> int:
    """LR-Net-50 (arXiv:1904.11491, table 1): the bottlenecks of a ResNet-50 are 100 / 64 as wide.

    A local relation layer of c channels has queries and keys of c / 8 and values of c channels; the
    small networks of its geometric prior are left out.
    """
    narrow = _parameters("CCCC")
    for blocks, width in zip(BLOCKS, WIDTHS, strict=True):
        channels = width * 4
        before = 64 if width == 64 else channels // 2
        wide = width * 100 // 64
        ends = before + (blocks - 1) * channels + blocks * channels  # of conv1 and of conv3
        narrow += ends * (wide - width) + blocks * 4 * (wide - width)  # two norms behind them
        narrow += blocks * (2 * wide * wide // 8 + wide * wide - 9 * width * width)
    return narrow


def patchwise_network() -> int:
    """SAN19 with patchwise attention (arXiv:2004.13621, section 4): blocks 3, 3, 4, 6, 3.

    A block of C channels has queries and keys of C / 16 and values of C / 4 channels, of which
    eight share their weights; these come from two layers on what a window of r x r positions holds.
    """
    count, before = 3 * 64 + 2 * 64, 64
    for blocks, channels, side in zip(
        (3, 3, 4, 6, 3), (64, 256, 512, 1024, 2048), (3, 7, 7, 7, 7), strict=True
    ):
        relation, values, window = channels // 16, channels // 4, side**2
        seen, shared = relation * (window + 1), channels // 4 // 8
        block = 2 * channels  # the norm before
        block += 2 * (channels + 1) * relation + (channels + 1) * values
        block += 2 * seen + seen * shared + 2 * shared + (shared + 1) * window * shared
        block += 2 * values + (values + 1) * channels
        count += before * channels + 2 * channels + blocks * block  # no bias before a norm
        before = channels
    return count + (before + 1) * NUM_CLASSES


# Row of the paper's table 3 -> readings: what is counted, and its number of parameters.
READINGS: dict[str, list[tuple[str, Callable[[], int]]]] = {
    "conv + channel attention (SE, ratio 1/16)": [
        ("SE of ratio 1/16 in every block", lambda: count_parameters(_se()).total()),
    ],
    "conv + linear attention (Chen)": [
        (
            "`double_attention` in place of every 3×3",
            lambda: _parameters("LLLL", kind="double_attention"),
        ),
        (
            "five such blocks added to a ResNet-50, two in res3 and three in res4 (places "
            "unconfirmed)",
            _with_double_attention,
        ),
    ],
    "conv + relative self-attention (Bello)": [
        (
            "`attention_augmented` in res3, res4 and res5",
            lambda: _parameters(
                "CLLL", kind="attention_augmented", scope="global", max_size=(IMAGE, IMAGE)
            ),
        ),
    ],
    "local relative self-attention (Ramachandran)": [
        (
            "`local_attention` in place of every 3×3",
            lambda: _parameters("LLLL", kind="local_attention"),
        ),
    ],
    "local relative self-attention (Hu)": [
        (
            "`local_attention` with 2 query channels for each of 16 heads",
            lambda: _parameters("LLLL", kind="local_attention", query_depth=2, num_heads=16),
        ),
        (
            "LR-Net-50, whose bottlenecks are 100 / 64 as wide (shape unconfirmed)",
            local_relation_network,
        ),
    ],
    "local relative self-attention (Zhao)": [
        ("SAN19 with patchwise attention, which is no ResNet", patchwise_network),
    ],
    "lambda": [("`lambda` in place of every 3×3", lambda: _parameters("LLLL"))],
    "lambda, u = 4 (scope 7)": [
        ("`lambda` in place of every 3×3", lambda: _parameters("LLLL", intra_depth=4, scope=7)),
    ],
}


def _se() -> LambdaResNet:
    with torch.device("meta"):
        return build_lambda_resnet(
            50, "se", stem="v1", se_ratio=1 / 16, num_classes=NUM_CLASSES, out_features=("linear",)
        )


def count_rivals(tables: Mapping[str, PublishedTable]) -> list[dict]:
    """Count the rows of a record.

    Returns:
        ``kind: "reading"``: a reading of a row of table 3 beside the published number; ``"layer"``:
        a ResNet-50 with one kind of layer in all four stages; ``"memory"``: the attention maps of a
        batch by the paper's formula, and what autograd keeps for them.
    """
    return [*_readings(tables["layers"]), *_layers(), *_memory(tables["memory_and_throughput"])]


def _readings(table: PublishedTable) -> Iterator[dict]:
    published = {row.name: row.values.get("parameters_m") for row in table.rows}
    for name, readings in READINGS.items():
        for reading, parameters in readings:
            count = parameters() / 1e6
            yield {
                "kind": "reading",
                "row": name,
                "reading": reading,
                "published_parameters_m": published[name],
                "parameters_m": round(count, 3),
                "difference_m": round(count - published[name], 3),
                "agrees": f"{count:.1f}" == f"{published[name]:.1f}",
            }


def _layers() -> Iterator[dict]:
    image = torch.zeros(1, 3, IMAGE, IMAGE, device="meta")
    for kind in ("convolution", *KINDS):
        model = resnet_50("CCCC") if kind == "convolution" else resnet_50("LLLL", kind=kind)
        yield {
            "kind": "layer",
            "layer": kind,
            "parameters_m": round(count_parameters(model).total() / 1e6, 3),
            "gmac": round(total_flops(count_flops(model.eval(), image)) / 1e9, 3),
            "kept_mib_per_image": round(activation_bytes(model.train(), image).total() / 2**20, 1),
        }


def _memory(table: PublishedTable) -> Iterator[dict]:
    published = {row.name: row.values.get("memory_gb") for row in table.rows}
    image = torch.zeros(1, 3, IMAGE, IMAGE, device="meta")
    without = activation_bytes(resnet_50("LLLL", kind=_Nothing).train(), image).total()
    for kind, row, maps in (
        ("global_attention", "global self-attention: b l h n^2", lambda side: side**4),
        ("axial_attention", "axial self-attention: b l h n sqrt(n)", lambda side: 2 * side**3),
    ):
        kept = activation_bytes(resnet_50("LLLL", kind=kind).train(), image).total()
        outputs = [56] * 3 + [28] * 4 + [14] * 6 + [7] * 3
        inputs = (
            [56] * 4 + [28] * 4 + [14] * 6 + [7] * 2
        )  # a strided layer works before its pooling
        yield {
            "kind": "memory",
            "layer": kind,
            "row": row,
            "published_memory_gb": published[row],
            "formula_gib": round(_gib(sum(map(maps, outputs)) * HEADS * 4), 2),
            "formula_at_inputs_gib": round(_gib(sum(map(maps, inputs)) * HEADS * 4), 2),
            "kept_gib": round(_gib(kept - without), 2),
        }


def _gib(bytes_per_image: float) -> float:
    return BATCH * bytes_per_image / 2**30


class _Nothing(torch.nn.Identity):
    """A layer that computes nothing, so that a network keeps what it keeps besides its layers."""

    def __init__(self, _channels: int) -> None:
        super().__init__()


def rivals_table(record: Mapping) -> str:
    """Format the record in Markdown: three tables."""
    rows = {kind: [r for r in record["rows"] if r["kind"] == kind] for kind in _COLUMNS}
    parts = []
    for kind, (title, columns) in _COLUMNS.items():
        lines = [[_cell(row[key], form) for key, form in columns.values()] for row in rows[kind]]
        parts.append(f"**{title}**\n\n{markdown(list(columns), lines)}")
    return "\n\n".join([*parts, provenance(record)])


_COLUMNS = {
    "reading": (
        "The paper's Table 3, millions of parameters",
        {
            "row": ("row", ""),
            "counted": ("reading", ""),
            "paper": ("published_parameters_m", ".1f"),
            "ours": ("parameters_m", ".3f"),
            "difference": ("difference_m", "+.3f"),
            "agrees": ("agrees", ""),
        },
    ),
    "layer": (
        f"ResNet-50 with one layer in all four stages, {IMAGE}×{IMAGE}",
        {
            "`LAYER.KIND`": ("layer", ""),
            "M parameters": ("parameters_m", ".2f"),
            "GMAC": ("gmac", ".2f"),
            "kept MiB an image": ("kept_mib_per_image", ".0f"),
        },
    ),
    "memory": (
        f"The paper's memory table, {BATCH} images, {HEADS} heads, 4 bytes a number",
        {
            "row": ("row", ""),
            "paper GB": ("published_memory_gb", ""),
            "formula GiB": ("formula_gib", ".1f"),
            "formula at the layers' inputs GiB": ("formula_at_inputs_gib", ".1f"),
            "kept by the layers GiB": ("kept_gib", ".1f"),
        },
    ),
}


def _cell(value: object, form: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format(value, form)
