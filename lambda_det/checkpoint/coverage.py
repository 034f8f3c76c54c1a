"""What of a model a file fills: tensors and parameters by part, and every name that it does not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tabulate import tabulate

from lambda_det.backbone.architectures import STAGES

Shape = tuple[int, ...]

BACKBONE_PARTS = ("stem", *STAGES)
CLASSIFIER = "linear"
_NOT_COUNTED = ("num_batches_tracked",)


@dataclass
class Part:
    """Tensors, and the numbers in them, of one stage or head."""

    loaded: int = 0
    missing: int = 0
    wrong_shape: int = 0
    unexpected: int = 0
    kept: int = 0
    numbers: int = 0
    numbers_loaded: int = 0


@dataclass
class Coverage:
    """Of the model's tensors: loaded, missing in the file, of another shape; and the file's unused.

    Names are the bare backbone's; a head's have their own prefix. "Parameters" count the entries of
    all tensors that a state dict has, statistics of norms included.
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """In the order of the model; what stays random."""
    wrong_shape: list[tuple[str, Shape, Shape]] = field(default_factory=list)
    """Name, shape in the file, shape in the model; stays random too."""
    unexpected: list[str] = field(default_factory=list)
    """In the file, not in the model; a classifier that the model lacks is not counted."""
    kept_zero: list[str] = field(default_factory=list)
    """In the file and in the model, but left at the zero that the model starts with."""
    unused_classifier: list[str] = field(default_factory=list)
    parts: dict[str, Part] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict, repr=False)

    def random(self) -> list[str]:
        """Tensors of the model that the file did not fill."""
        return [*self.missing, *(name for name, *_ in self.wrong_shape)]

    def random_in_backbone(self) -> list[str]:
        return [name for name in self.random() if part_of(name) in BACKBONE_PARTS]

    def share(self, but: Iterable[str] = ()) -> float:
        """Loaded share of the backbone's parameters, 0 ... 1, leaving out tensors named ``but``."""
        left_out = {*but, *self.kept_zero}
        loaded = sum(self.sizes[name] for name in self.loaded if self._counts(name, left_out))
        random = sum(self.sizes[name] for name in self.random() if self._counts(name, left_out))
        return loaded / (loaded + random) if loaded + random else 0.0

    def _counts(self, name: str, left_out: set[str]) -> bool:
        has_backbone = any(part in self.parts for part in BACKBONE_PARTS)
        return name not in left_out and (part_of(name) in BACKBONE_PARTS or not has_backbone)


def measure(
    model: Mapping[str, Shape], file: Mapping[str, Shape], *, kept_zero: Iterable[str] = ()
) -> Coverage:
    """Compare shapes by name.

    Args:
        model: name -> shape, of the model.
        file: name -> shape, of the file.
        kept_zero: names that are in both and are left alone.
    """
    coverage = Coverage(kept_zero=sorted(kept_zero))
    for name, shape in model.items():
        if name.endswith(_NOT_COUNTED):
            continue
        part = coverage.parts.setdefault(part_of(name), Part())
        size = coverage.sizes[name] = _product(shape)
        part.numbers += size
        if name not in file:
            coverage.missing.append(name)
            part.missing += 1
        elif file[name] != shape:
            coverage.wrong_shape.append((name, file[name], shape))
            part.wrong_shape += 1
        elif name in coverage.kept_zero:
            part.kept += 1
        else:
            coverage.loaded.append(name)
            part.loaded += 1
            part.numbers_loaded += size
    for name in file:
        if name in model or name.endswith(_NOT_COUNTED):
            continue
        if part_of(name) == CLASSIFIER and CLASSIFIER not in coverage.parts:
            coverage.unused_classifier.append(name)
            continue
        coverage.unexpected.append(name)
        coverage.parts.setdefault(part_of(name), Part()).unexpected += 1
    return coverage


def part_of(name: str) -> str:
    """The stage of a tensor of the backbone, or a detector's part (``fpn``, ``roi_heads``, ...)."""
    first, _, rest = name.partition(".")
    if first == "backbone" and rest:
        return "fpn" if rest.startswith("fpn_") else rest.partition(".")[0]
    return first


def report(coverage: Coverage) -> str:
    """The coverage for a terminal or a log: a table by part, then every name, grouped."""
    rows = [
        [
            *(name, part.loaded, part.missing, part.wrong_shape, part.unexpected),
            *(f"{part.numbers_loaded:,}", f"{part.numbers:,}", _percent(part)),
        ]
        for name, part in coverage.parts.items()
    ]
    headers = ["part", "loaded", "missing", "wrong shape", "unused", "parameters", "of", "%"]
    right = ("left", *["right"] * (len(headers) - 1))
    lines = [tabulate(rows, headers=headers, tablefmt="simple", colalign=right)]
    whole = [name for name, part in coverage.parts.items() if part.missing and not part.loaded]
    random = [name for name in coverage.missing if part_of(name) not in whole]
    for title, names in (
        ("stays random", [f"all of {name}" for name in whole] + grouped(random)),
        ("unused in the file", grouped(coverage.unexpected)),
        ("left at zero", grouped(coverage.kept_zero)),
        (
            "another shape",
            [f"{n}: {f} in the file, {m} in the model" for n, f, m in coverage.wrong_shape],
        ),
        ("classifier in the file, not in the model", coverage.unused_classifier),
    ):
        if names:
            lines.append(f"{title}: {', '.join(names)}")
    return "\n".join(lines)


def grouped(names: Iterable[str]) -> list[str]:
    """``res4.5.se.fc1.bias, res4.6.se.fc2.bias`` -> ``res4.[5,6].se.*``."""
    alone: dict[str, None] = {}
    tensors: dict[tuple[str, str, str], list[str]] = {}  # stage, block, module -> tensors
    for name in names:
        match = re.match(r"(res\d)\.(\d+)\.((\w+)\..*)", name)
        if match:
            tensors.setdefault((match[1], match[2], match[4]), []).append(match[3])
        else:
            head, dot, _ = name.rpartition(".")
            alone[f"{head}.*" if dot else name] = None
    blocks: dict[tuple[str, str], list[str]] = {}
    for (stage, block, module), found in tensors.items():
        pattern = found[0] if len(found) == 1 else f"{module}.*"
        blocks.setdefault((stage, pattern), []).append(block)
    return [
        *alone,
        *(f"{stage}.[{','.join(b)}].{pattern}" for (stage, pattern), b in blocks.items()),
    ]


def _percent(part: Part) -> str:
    return f"{100 * part.numbers_loaded / part.numbers:.1f}" if part.numbers else "-"


def _product(shape: Shape) -> int:
    product = 1
    for side in shape:
        product *= side
    return product
