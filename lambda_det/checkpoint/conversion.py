"""Conversion of a file of weights, of any supported source, to lambda_det's own format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from torch import Tensor

from lambda_det.backbone import build_lambda_resnet
from lambda_det.backbone.build import lambda_resnet_arguments
from lambda_det.backbone.kinds import LAYER_ARGUMENTS, arguments_of_kind
from lambda_det.checkpoint.architecture import Architecture, config_line, warn_of_differences
from lambda_det.checkpoint.coverage import Coverage, coverage_report
from lambda_det.checkpoint.fitting import fit
from lambda_det.checkpoint.folded_norms import norms_without_statistics
from lambda_det.checkpoint.image_format import ImageFormat, fit_to_config
from lambda_det.checkpoint.name_maps import NAME_MAPS
from lambda_det.checkpoint.networks import split_network
from lambda_det.checkpoint.own_files import check_output, write_weights
from lambda_det.checkpoint.rules import LoadingRules
from lambda_det.checkpoint.translation import TranslatedWeights, read_and_translate
from lambda_det.errors import InputError, first_line_of

SOURCES = (*dict.fromkeys(each.source for each in NAME_MAPS), "lambda_det")


@dataclass(frozen=True)
class Conversion:
    """The result of :func:`convert`.

    Attributes:
        weights: the file that was converted.
        tensors: what is written, under the bare backbone's names.
        architecture: arguments of ``build_lambda_resnet`` for this network.
        images: the images that the network expects; None = unknown.
        coverage: which tensors of the network the file contains.
    """

    weights: TranslatedWeights
    tensors: dict[str, Tensor]
    architecture: Architecture
    images: ImageFormat | None
    coverage: Coverage

    def summary(self) -> str:
        """Return the source, the coverage and the config of this network as text."""
        images = "images of unknown format" if self.images is None else str(self.images)
        folded = len(norms_without_statistics(self.tensors))
        lines = [f"{self.weights.path}: {self.weights.title}", coverage_report(self.coverage)]
        if self.weights.others:
            count, first = len(self.weights.others), next(iter(self.weights.others))
            lines.append(f"{count} tensors outside of the backbone are left out (first: {first})")
        if folded:
            lines.append(
                f"BatchNorm was folded: {folded} norms are without statistics, which is right in "
                "evaluation; for a training with BN, --measure-on IMAGES measures them"
            )
        return "\n".join([*lines, f"for {images}", f"config: {config_line(self.architecture)}"])


def convert_file(
    path: str,
    output: str,
    *,
    source: str | None = None,
    scope: int | None = None,
    cfg: CfgNode | None = None,
    min_coverage: float | None = None,
    network: str | None = None,
    change: Callable[[TranslatedWeights], TranslatedWeights] | None = None,
) -> Conversion:
    """Convert a file of weights and write the result atomically.

    Args:
        path: the file to convert.
        output: the file to write; its name ends in ``.pth`` or ``.safetensors``.
        source: one of :data:`SOURCES`, which the names in the file must match; None = any.
        scope: odd side to which smaller position windows are padded with zeros.
        cfg: convert for the backbone of this config; tensors that it does not have are left out.
            None = convert for the network in the file.
        min_coverage: share of the network, 0 to 1, that the file must contain, as in
            :class:`LoadingRules`; None = the value in ``cfg``, or 1 without it.
        network: which of several networks in the file; None = as ``path#NAME`` says, or the only
            one.
        change: changes the weights before they are converted.

    Raises:
        InputError: the file cannot be read, comes from another source, contains a network that
            ``build_lambda_resnet`` cannot build, or contains less of it than required; or the
            output cannot be written.
    """
    check_output(output)
    file, network = (path, network) if network is not None else split_network(path)
    weights = read_and_translate(file, network)
    if change is not None:
        weights = change(weights)
    conversion = convert(weights, source=source, scope=scope, cfg=cfg)
    rules = LoadingRules() if cfg is None else LoadingRules.from_config(cfg)
    if min_coverage is not None:
        rules = LoadingRules(rules.partial, rules.as_identity, min_coverage, "--min-coverage")
    rules.check(conversion.coverage, path)
    write_weights(
        output,
        conversion.tensors,
        architecture=conversion.architecture,
        images=conversion.images,
        origin=f"{file}{f'#{network}' if network else ''} ({conversion.weights.title})",
    )
    return conversion


def convert(
    weights: TranslatedWeights,
    *,
    source: str | None = None,
    scope: int | None = None,
    cfg: CfgNode | None = None,
) -> Conversion:
    """Convert weights that were read already; arguments and errors as in :func:`convert_file`."""
    path = weights.path
    if weights.layout is None:
        first = next(iter(weights.others))
        raise InputError(
            f"{path}: contains no network whose tensor names are supported (first: {first!r})"
        )
    if source is not None and source not in weights.layout.sources:
        raise InputError(
            f"{path}: contains a {weights.title}: use --source "
            f"{' or '.join(weights.layout.sources)}, not {source}"
        )
    try:
        weights.refuse_other_families()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    tensors, images = dict(weights.tensors), weights.images
    architecture = weights.architecture() if cfg is None else {}
    if cfg is not None:
        given, trained = lambda_resnet_arguments(cfg), weights.not_in_shapes()
        warn_of_differences(path, trained, given)
        if trained.get("kind", given["kind"]) != given["kind"]:
            given = {name: given[name] for name in given if name not in LAYER_ARGUMENTS}
            given |= arguments_of_kind(trained["kind"])
        # The converted file keeps what the network was trained with, not what the config says.
        # Hence the same warning appears when the converted file is loaded.
        architecture = {**given, **trained}
        images = fit_to_config(tensors, images, ImageFormat.from_config(cfg), path)
    elif scope is not None and "scope" in architecture:
        architecture = {**architecture, "scope": scope}
    try:
        shapes, parameters = _shapes_of(architecture)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        if cfg is not None:  # the arguments come from the config, so the error names its key
            raise
        raise InputError(
            f"{path}: its metadata describes a network that lambda_det cannot build "
            f"({first_line_of(error)})"
        ) from error
    as_identity = cfg is not None and cfg.MODEL.LAMBDA_RESNET.PARTIAL_INIT_AS_IDENTITY
    coverage = fit(tensors, shapes, parameters, as_identity=as_identity)
    written = {name: tensors[name] for name in coverage.loaded}
    written |= {name: torch.zeros(shapes[name]) for name in coverage.kept_zero}
    return Conversion(weights, written, architecture, images, coverage)


def _shapes_of(architecture: Architecture) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Return the shapes of the network's tensors and the names of its parameters."""
    with torch.device("meta"):
        backbone = build_lambda_resnet(**architecture)
    shapes = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    return shapes, [name for name, _ in backbone.named_parameters()]
