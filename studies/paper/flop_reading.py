"""Search for the rule by which the paper counted its FLOPs.

Two tables of LambdaNetworks give GFLOPs of a lambda ResNet-50 but do not say how FLOPs were counted
or which stages have lambda layers. One is about the scope of the position lambdas (six numbers),
the other about content without position and position without content (two numbers). The candidates
are the ways in which FLOPs are usually counted. No constant is fitted, but the network is chosen
for each table, and for the second table the scope too.

Result: the rule counts two FLOPs for a multiply-add, counts strided layers at the resolution of
their input, and counts no more rows and columns of a window than the feature map has. It reproduces
all eight numbers: the six for the network CLLL (res2 convolutional), the two for LLLL at scope 23.
The accuracies in the tables agree with that. 78.3 is the top-1 of CLLL (and of CCLL) in the table
of hybrids and of scope 23 in the table of scopes; 78.4 is that of LLLL and of content with
position.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch

from lambda_det.analysis.flops import count_flops, lambda_layers, recorded_sizes, total_flops
from lambda_det.analysis.published import PublishedTable, lambda_blocks_of
from lambda_det.backbone import build_lambda_resnet
from studies.paper.flop_rules import IMAGE, ORDERS, WINDOWS, FlopRule, LambdaShape

NETWORKS = ("LCCC", "LLCC", "LLLC", "LLLL", "CLLL", "CCLL", "CCCL")
"""The paper's hybrids with at least one lambda layer: C or L for res2, res3, res4, res5."""


@dataclass(frozen=True)
class Reading:
    """A candidate: a network and a rule for its FLOPs.

    Attributes:
        network: one of :data:`NETWORKS`.
        dense: FLOPs for a multiply-add of everything but position lambdas.
        position: FLOPs for a multiply-add of position lambdas.
        window: as in :class:`~studies.paper.flop_rules.FlopRule`.
        order: as in :class:`~studies.paper.flop_rules.FlopRule`.
        strided_at: ``"input"`` or ``"output"``, the resolution at which strided lambda layers are
            counted.
    """

    network: str
    dense: int
    position: int
    window: str
    order: str
    strided_at: str


@dataclass(frozen=True)
class NetworkCost:
    """The multiply-adds of a network without its lambda layers, and the sizes of these layers.

    Attributes:
        rest: multiply-adds outside of lambda layers.
        layers: (sizes, side of the square input, side of the output) of each lambda layer.
    """

    rest: int
    layers: Sequence[tuple[LambdaShape, int, int]]

    @classmethod
    @functools.cache  # two tables are searched over the same networks
    def of(cls, network: str) -> NetworkCost:
        """Count a ResNet-50 classifier with lambda layers in the stages marked L, at 224 x 224."""
        with torch.device("meta"):
            model = build_lambda_resnet(
                50,
                "resnet",
                stem="v1",
                lambda_blocks=lambda_blocks_of(network),
                num_classes=1000,
                out_features=("linear",),
            ).eval()
            image = torch.empty(1, 3, IMAGE, IMAGE)
        with recorded_sizes(model) as sizes:
            counts = count_flops(model, image)
        layers = []
        for name, layer in lambda_layers(model).items():
            block = model.get_submodule(name.rpartition(".")[0])
            side = sizes[name][0][-1]
            layers.append((LambdaShape.of(layer), side, math.ceil(side / block.stride)))
        inside = sum(total_flops(counts, name) for name in lambda_layers(model))
        return cls(total_flops(counts) - inside, layers)

    def gflops(
        self,
        reading: Reading,
        scope: int | str,
        *,
        content: bool = True,
        position: bool = True,
    ) -> float:
        """GFLOPs by ``reading``, for position lambdas of a scope (an odd int or ``"global"``)."""
        window = None if scope == "global" else (scope, scope)
        rule = FlopRule(window=reading.window, order=reading.order)
        dense, positional = self.rest, 0
        for shape, side_in, side_out in self.layers:
            shape = replace(shape, window=window, content=content, position=position)
            side = side_in if reading.strided_at == "input" else side_out
            sums = shape.sums(side, side, rule)
            dense += shape.projections(side, side) + sums["content_lambda"]
            positional += sums["position_lambda"]
        return (reading.dense * dense + reading.position * positional) / 1e9


def search_scope_table(table: PublishedTable) -> list[dict]:
    """Compute the GFLOPs of every reading for the table of scopes; the best reading is first.

    Returns:
        Rows with the fields of :class:`Reading`, ``gflops`` (scope -> number), ``rms_gflops`` and
        ``max_gflops`` (of the residuals), and ``digits_agree`` (how many of the table's numbers are
        reproduced).
    """
    published = {row.name: row.values["gflops"] for row in table.rows}
    rows = []
    for network in NETWORKS:
        cost = NetworkCost.of(network)
        for choice in itertools.product((1, 2), (1, 2), WINDOWS, ORDERS, ("input", "output")):
            reading = Reading(network, *choice)
            found = {name: cost.gflops(reading, _scope(name)) for name in published}
            rows.append(asdict(reading) | _fit(found, published))
    return sorted(rows, key=lambda row: row["rms_gflops"])


def search_content_table(table: PublishedTable, best: Mapping, scopes: Sequence[str]) -> list[dict]:
    """Compute the GFLOPs of every network and scope for the table of content and position.

    Args:
        table: the published table.
        best: a row of :func:`search_scope_table`, whose rule is used.
        scopes: the scopes to try.

    Returns:
        Rows as of :func:`search_scope_table`, the best first.
    """
    published = {row.name: row.values["gflops"] for row in table.rows if "gflops" in row.values}
    rule = {key: best[key] for key in ("dense", "position", "window", "order", "strided_at")}
    rows = []
    for network in NETWORKS:
        cost = NetworkCost.of(network)
        reading = Reading(network, **rule)
        for scope in scopes:
            found = {
                "content only": cost.gflops(reading, _scope(scope), position=False),
                "position only": cost.gflops(reading, _scope(scope), content=False),
            }
            rows.append(asdict(reading) | {"scope": scope} | _fit(found, published))
    return sorted(rows, key=lambda row: row["rms_gflops"])


def _scope(name: str) -> int | str:
    return name if name == "global" else int(name)


def _fit(found: Mapping[str, float], published: Mapping[str, float]) -> dict[str, object]:
    residuals = [found[name] - value for name, value in published.items()]
    return {
        "gflops": {name: round(value, 2) for name, value in found.items()},
        "rms_gflops": round(math.sqrt(sum(r * r for r in residuals) / len(residuals)), 3),
        "max_gflops": round(max(map(abs, residuals)), 3),
        "digits_agree": sum(f"{found[name]:.1f}" == f"{published[name]:.1f}" for name in published),
    }
