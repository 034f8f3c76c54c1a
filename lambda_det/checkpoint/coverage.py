"""Coverage: which tensors of a model a file of weights contains, by part of the model."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tabulate import tabulate

from lambda_det.backbone.architectures import BOTTOM_UP_PARTS

Shape = tuple[int, ...]

CLASSIFIER = "linear"
_NOT_COUNTED = ("num_batches_tracked",)


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
        sizes: number of entries of each tensor of the model.
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong_shape: list[tuple[str, Shape, Shape]] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    kept_zero: list[str] = field(default_factory=list)
    unused_classifier: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict, repr=False)

    def random(self) -> list[str]:
        """Return the model's tensors that keep their random values."""
        return [*self.missing, *(name for name, *_ in self.wrong_shape)]

    def random_in_backbone(self) -> list[str]:
        """Return those of :meth:`random` that belong to the backbone."""
        return [name for name in self.random() if part_of(name) in BOTTOM_UP_PARTS]

    @property
    def parts(self) -> list[str]:
        """The stages, the FPN and the heads of the model, and parts of the file that it lacks."""
        return list(dict.fromkeys(map(part_of, [*self.sizes, *self.unexpected])))

    def share(self, but: Iterable[str] = ()) -> float:
        """Return the loaded share, 0 to 1, of the entries of the backbone's tensors.

        A model without such a backbone counts as a whole.

        Args:
            but: names of tensors that are left out of the calculation.
        """
        has_backbone = any(part in self.parts for part in BOTTOM_UP_PARTS)
        left_out = {*but, *self.kept_zero}
        loaded, random = (
            sum(
                self.sizes[name]
                for name in names
                if name not in left_out and (part_of(name) in BOTTOM_UP_PARTS or not has_backbone)
            )
            for names in (self.loaded, self.random())
        )
        return loaded / (loaded + random) if loaded + random else 0.0


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
        coverage.sizes[name] = math.prod(shape)
        if name not in file:
            coverage.missing.append(name)
        elif file[name] != shape:
            coverage.wrong_shape.append((name, file[name], shape))
        elif name not in coverage.kept_zero:
            coverage.loaded.append(name)
    has_classifier = any(part_of(name) == CLASSIFIER for name in model)
    for name in file:
        if name in model or name.endswith(_NOT_COUNTED):
            continue
        is_unused = part_of(name) == CLASSIFIER and not has_classifier
        (coverage.unused_classifier if is_unused else coverage.unexpected).append(name)
    return coverage


def part_of(name: str) -> str:
    """Return the stage of a backbone's tensor, or the part of a detector (``fpn``, ``roi_heads``,
    ...)."""
    first, _, rest = name.partition(".")
    if first == "backbone" and rest:
        return "fpn" if rest.startswith("fpn_") else rest.partition(".")[0]
    return first


def coverage_report(coverage: Coverage) -> str:
    """Return the coverage as text: a table by part, then the names that were not loaded."""
    wrong = [name for name, *_ in coverage.wrong_shape]
    groups = (coverage.loaded, coverage.missing, wrong, coverage.unexpected)
    counts = [Counter(map(part_of, names)) for names in groups]
    total, loaded = Counter[str](), Counter[str]()
    for name, size in coverage.sizes.items():
        total[part_of(name)] += size
    for name in coverage.loaded:
        loaded[part_of(name)] += coverage.sizes[name]
    rows = [
        [
            *(part, *(count[part] for count in counts)),
            *(f"{loaded[part]:,}", f"{total[part]:,}"),
            f"{100 * loaded[part] / total[part]:.1f}" if total[part] else "-",
        ]
        for part in coverage.parts
    ]
    headers = ["part", "loaded", "missing", "wrong shape", "unused", "parameters", "of", "%"]
    right = ("left", *["right"] * (len(headers) - 1))
    lines = [tabulate(rows, headers=headers, tablefmt="simple", colalign=right)]
    whole = [part for part in coverage.parts if counts[1][part] and not counts[0][part]]
    random = [name for name in coverage.missing if part_of(name) not in whole]
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
