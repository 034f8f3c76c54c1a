"""Coverage: which tensors of a model a file of weights contains, by part of the model."""

from __future__ import annotations

import math
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
    """Counts of one stage, of the FPN or of one head.

    ``numbers`` is the number of entries in all tensors, ``numbers_loaded`` in the loaded ones; the
    other counts are numbers of tensors.
    """

    loaded: int = 0
    missing: int = 0
    wrong_shape: int = 0
    unexpected: int = 0
    numbers: int = 0
    numbers_loaded: int = 0


@dataclass
class Coverage:
    """The comparison of a model's state dict with a file's, by name and shape.

    Tensors of the backbone have the bare backbone's names; tensors of heads keep their prefix.
    Sizes count the entries of every tensor in the state dict, so the running statistics of norms
    are included.

    Attributes:
        loaded: tensors that are loaded.
        missing: tensors of the model that the file does not contain, in the order of the model.
            They keep their random values.
        wrong_shape: (name, shape in the file, shape in the model). These keep their random values.
        unexpected: tensors of the file that the model does not have, except a classifier's.
        kept_zero: tensors of both that are not loaded but set to zero
            (PARTIAL_INIT_AS_IDENTITY).
        unused_classifier: the file's classifier, if the model has none.
        parts: counts by part of the model.
        sizes: number of entries of each tensor of the model.
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong_shape: list[tuple[str, Shape, Shape]] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    kept_zero: list[str] = field(default_factory=list)
    unused_classifier: list[str] = field(default_factory=list)
    parts: dict[str, Part] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict, repr=False)

    def random(self) -> list[str]:
        """Return the model's tensors that keep their random values."""
        return [*self.missing, *(name for name, *_ in self.wrong_shape)]

    def random_in_backbone(self) -> list[str]:
        """Return those of :meth:`random` that belong to the backbone."""
        return [name for name in self.random() if _part_of(name) in BACKBONE_PARTS]

    def share(self, but: Iterable[str] = ()) -> float:
        """Return the loaded share, 0 to 1, of the entries of the backbone's tensors.

        A model without such a backbone counts as a whole.

        Args:
            but: names of tensors that are left out of the calculation.
        """
        left_out = {*but, *self.kept_zero}
        loaded = sum(self.sizes[name] for name in self.loaded if self._counts(name, left_out))
        random = sum(self.sizes[name] for name in self.random() if self._counts(name, left_out))
        return loaded / (loaded + random) if loaded + random else 0.0

    def _counts(self, name: str, left_out: set[str]) -> bool:
        has_backbone = any(part in self.parts for part in BACKBONE_PARTS)
        return name not in left_out and (_part_of(name) in BACKBONE_PARTS or not has_backbone)


def measure(
    model: Mapping[str, Shape], file: Mapping[str, Shape], *, kept_zero: Iterable[str] = ()
) -> Coverage:
    """Compare the tensors of a model and of a file by name and shape.

    Args:
        model: name -> shape, in the model.
        file: name -> shape, in the file.
        kept_zero: names of tensors of both that are set to zero instead of being loaded.
    """
    coverage = Coverage(kept_zero=sorted(kept_zero))
    for name, shape in model.items():
        if name.endswith(_NOT_COUNTED):
            continue
        part = coverage.parts.setdefault(_part_of(name), Part())
        size = coverage.sizes[name] = math.prod(shape)
        part.numbers += size
        if name not in file:
            coverage.missing.append(name)
            part.missing += 1
        elif file[name] != shape:
            coverage.wrong_shape.append((name, file[name], shape))
            part.wrong_shape += 1
        elif name not in coverage.kept_zero:
            coverage.loaded.append(name)
            part.loaded += 1
            part.numbers_loaded += size
    for name in file:
        if name in model or name.endswith(_NOT_COUNTED):
            continue
        if _part_of(name) == CLASSIFIER and CLASSIFIER not in coverage.parts:
            coverage.unused_classifier.append(name)
            continue
        coverage.unexpected.append(name)
        coverage.parts.setdefault(_part_of(name), Part()).unexpected += 1
    return coverage


def _part_of(name: str) -> str:
    """Return the stage of a backbone's tensor, or the part of a detector (``fpn``, ``roi_heads``,
    ...)."""
    first, _, rest = name.partition(".")
    if first == "backbone" and rest:
        return "fpn" if rest.startswith("fpn_") else rest.partition(".")[0]
    return first


def coverage_report(coverage: Coverage) -> str:
    """Return the coverage as text: a table by part, then the names that were not loaded."""
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
    random = [name for name in coverage.missing if _part_of(name) not in whole]
    for title, names in (
        ("not in the file, stays random", [f"all of {n}" for n in whole] + grouped(random)),
        ("in the file but not in the model, unused", grouped(coverage.unexpected)),
        ("set to zero by PARTIAL_INIT_AS_IDENTITY", grouped(coverage.kept_zero)),
        (
            "different shape, stays random",
            [f"{n}: {f} in the file, {m} in the model" for n, f, m in coverage.wrong_shape],
        ),
        ("classifier in the file, unused", coverage.unused_classifier),
    ):
        if names:
            lines.append(f"{title}: {', '.join(names)}")
    return "\n".join(lines)


def grouped(names: Iterable[str]) -> list[str]:
    """Shorten a list of names: ``res4.5.se.fc1.bias, res4.6.se.fc2.bias`` becomes
    ``res4.[5,6].se.*``."""
    outside: dict[str, None] = {}  # a dict as an ordered set
    tensors: dict[tuple[str, str, str], list[str]] = {}  # stage, block, module -> tensors
    for name in names:
        match = re.match(r"(res\d)\.(\d+)\.((\w+)\..*)", name)
        if match:
            tensors.setdefault((match[1], match[2], match[4]), []).append(match[3])
        else:
            head, dot, _ = name.rpartition(".")
            outside[f"{head}.*" if dot else name] = None
    blocks: dict[tuple[str, str], list[str]] = {}
    for (stage, block, module), found in tensors.items():
        pattern = found[0] if len(found) == 1 else f"{module}.*"
        blocks.setdefault((stage, pattern), []).append(block)
    return [
        *outside,
        *(f"{stage}.[{','.join(b)}].{pattern}" for (stage, pattern), b in blocks.items()),
    ]


def _percent(part: Part) -> str:
    return f"{100 * part.numbers_loaded / part.numbers:.1f}" if part.numbers else "-"
