"""From anybody's file to one of ours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from torch import Tensor

from lambda_det.backbone import build_lambda_resnet
from lambda_det.backbone.build import lambda_resnet_arguments
from lambda_det.backbone.shapes_only import shapes_only
from lambda_det.checkpoint.architecture import Architecture, config_line, warn_of_another
from lambda_det.checkpoint.coverage import Coverage, measure, report
from lambda_det.checkpoint.fitting import enlarge_embeddings, last_norms_of_random_blocks
from lambda_det.checkpoint.images import ImageFormat, fit_to_config
from lambda_det.checkpoint.rules import LoadingRules
from lambda_det.checkpoint.source import Source, read_source
from lambda_det.checkpoint.writing import check_output, write_weights
from lambda_det.errors import InputError

SOURCES = ("timm", "dli14", "torchvision", "detectron2", "lambda_det")


@dataclass(frozen=True)
class Conversion:
    """Tensors of one network of the family, ready to be written."""

    source: Source
    tensors: dict[str, Tensor]
    architecture: Architecture
    images: ImageFormat | None
    coverage: Coverage

    def summary(self) -> str:
        """For a terminal: what was read, coverage, and how a config asks for this network."""
        images = "an unknown format" if self.images is None else str(self.images)
        return (
            f"{self.source.path}: {self.source.title}\n{report(self.coverage)}\n"
            f"for {images}\nconfig: {config_line(self.architecture)}"
        )


def convert_file(
    path: str,
    output: str,
    *,
    source: str | None = None,
    scope: int | None = None,
    cfg: CfgNode | None = None,
    min_coverage: float | None = None,
) -> Conversion:
    """Convert a file of weights and write it.

    Args:
        path: the file.
        output: ``.pth`` or ``.safetensors``; appears complete or not at all.
        source: one of :data:`SOURCES`, checked against the names in the file; None = any.
        scope: pad smaller windows of positions with zeros to this odd side.
        cfg: fit the weights to this config's backbone, keeping what it has a place for; without it
            the network is the file's own.
        min_coverage: see :class:`LoadingRules`; None = the config's, or all.

    Raises:
        InputError: the file cannot be read, is of another source, is no network of the family, or
            fills too little of it.
    """
    check_output(output)
    conversion = convert(read_source(path), source=source, scope=scope, cfg=cfg)
    rules = LoadingRules() if cfg is None else LoadingRules.from_config(cfg)
    if min_coverage is not None:
        rules = LoadingRules(rules.partial, rules.as_identity, min_coverage, "--min-coverage")
    rules.check(conversion.coverage, path)
    write_weights(
        output,
        conversion.tensors,
        architecture=conversion.architecture,
        images=conversion.images,
        origin=f"{path} ({conversion.source.title})",
    )
    return conversion


def convert(
    source_file: Source,
    *,
    source: str | None = None,
    scope: int | None = None,
    cfg: CfgNode | None = None,
) -> Conversion:
    """Convert without writing; arguments and errors as of :func:`convert_file`."""
    path = source_file.path
    if source_file.layout is None:
        first = next(iter(source_file.others))
        raise InputError(
            f"{path}: its names are those of no network that can be read here (first: {first!r})"
        )
    if source is not None and source not in source_file.layout.sources:
        raise InputError(
            f"{path}: holds a {source_file.title}: use --source "
            f"{' or '.join(source_file.layout.sources)}, not {source}"
        )
    tensors, images = dict(source_file.tensors), source_file.images
    own = architecture = source_file.architecture() if cfg is None else {}
    if cfg is not None:
        given, trained = lambda_resnet_arguments(cfg), source_file.invisible()
        warn_of_another(path, trained, given)
        # The file goes on saying what it was trained as, else nobody could warn of it again.
        architecture = {**given, **trained}
        images = fit_to_config(tensors, images, ImageFormat.from_config(cfg), path)
    elif scope is not None and "scope" in own:
        architecture = {**own, "scope": scope}
    try:
        shapes, parameters = _shapes_of(architecture)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        if cfg is not None:  # the line names the argument, which is the config's
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{path}: what it says of itself is no network of the family ({reason})"
        ) from error
    enlarge_embeddings(tensors, shapes)
    kept = []
    if cfg is not None and cfg.MODEL.LAMBDA_RESNET.PARTIAL_INIT_AS_IDENTITY:
        kept = last_norms_of_random_blocks(tensors, parameters)
    file_shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    coverage = measure(shapes, file_shapes, kept_zero=kept)
    written = {name: tensors[name] for name in coverage.loaded}
    written |= {name: torch.zeros(shapes[name]) for name in kept}
    return Conversion(source_file, written, architecture, images, coverage)


def _shapes_of(architecture: Architecture) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Shapes of the network's tensors, and the names of those that are parameters."""
    with shapes_only():
        backbone = build_lambda_resnet(**architecture)
    shapes = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    return shapes, [name for name, _ in backbone.named_parameters()]
