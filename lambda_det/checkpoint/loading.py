"""Loading of a model's weights: nothing silently, and one clear line when it is not possible."""

from __future__ import annotations

import logging
import os

from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.config import CfgNode
from detectron2.modeling.backbone.resnet import ResNet
from detectron2.utils.file_io import PathManager
from torch import nn

from lambda_det.backbone import LambdaResNet
from lambda_det.backbone.build import lambda_resnet_arguments
from lambda_det.checkpoint.architecture import warn_of_another
from lambda_det.checkpoint.coverage import Coverage, measure, report
from lambda_det.checkpoint.fitting import enlarge_embeddings, last_norms_of_random_blocks
from lambda_det.checkpoint.images import ImageFormat, fit_to_config
from lambda_det.checkpoint.rules import LoadingRules
from lambda_det.checkpoint.source import Source, read_source
from lambda_det.errors import InputError

logger = logging.getLogger(__name__)


def load_weights(
    model: nn.Module, path: str, *, complete: bool = False, cfg: CfgNode | None = None
) -> Coverage:
    """Load the model's weights, and nothing else, from the file ``MODEL.WEIGHTS``.

    Names of timm, torchvision, detectron2, d-li14 and our own are recognised, with or without a
    prefix; a whole detector's and a bare backbone's weights both fit. What was and was not loaded
    is logged.

    Args:
        model: a detector or a backbone, bare or in DistributedDataParallel.
        path: a file, or what detectron2's PathManager reads.
        complete: whether the file must fill the whole model, as evaluation needs.
        cfg: gives the rules of :class:`LoadingRules`, and the image format and architecture that
            the file is compared with; without it nothing may stay random in the backbone.

    Returns:
        What was loaded.

    Raises:
        InputError: there is no such file, it cannot be read, it is another model's, or it fills
            less than the rules ask for.
    """
    model = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    prefix, backbone = find_backbone(model)
    is_ours = isinstance(backbone, LambdaResNet)
    rules = LoadingRules() if is_ours else LoadingRules(min_coverage=0.0)
    if is_ours and cfg is not None:
        rules = LoadingRules.from_config(cfg)
    source = read_weights(path)
    if is_ours and cfg is not None:
        _compare_with_config(source, cfg)

    state = model.state_dict()
    full_names = {_bare(name, prefix): name for name in state}
    shapes = {bare: tuple(state[full].shape) for bare, full in full_names.items()}
    tensors = {**source.others, **source.tensors}
    if backbone is None and not tensors.keys() & shapes.keys():
        # detectron2's own matching of names, for networks that are none of ours
        tensors = align_and_update_state_dicts(state, tensors, c2_conversion=False)
    enlarge_embeddings(tensors, shapes)
    trainable = {_bare(name, prefix): parameter for name, parameter in model.named_parameters()}
    kept = last_norms_of_random_blocks(tensors, trainable) if rules.as_identity else []

    file_shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    coverage = measure(shapes, file_shapes, kept_zero=kept)
    logger.info("MODEL.WEIGHTS=%r (%s)\n%s", path, source.title, report(coverage))
    if complete:
        _check_complete(coverage, path)
    rules.check(coverage, f"MODEL.WEIGHTS={path!r}")
    model.load_state_dict({full_names[n]: tensors[n] for n in coverage.loaded}, strict=False)
    for name in coverage.kept_zero:
        nn.init.zeros_(trainable[name])
    return coverage


def find_backbone(model: nn.Module) -> tuple[str, ResNet | None]:
    """The first ResNet in a model and the prefix of its tensors' names; ``("", None)`` without."""
    for name, module in model.named_modules():
        if isinstance(module, ResNet):
            return (f"{name}." if name else ""), module
    return "", None


def local_file(path: str) -> str:
    """The file that a path or an address (``https://``, ``timm://``, ...) stands for.

    Raises:
        InputError: there is none, or nothing reads addresses of this kind.
    """
    scheme = path.partition("://")[0]
    if scheme == path:
        return path
    path = path.removesuffix("?matching_heuristics=True")
    try:
        local = PathManager.get_local_path(path)
    except InputError:
        raise
    except Exception as error:  # whatever the network's and the handlers' libraries raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: cannot be fetched ({reason})") from error
    # An address that is no handler's comes back as if it were the path of a file.
    if local == path and not os.path.isfile(local):
        raise InputError(
            f"{path}: addresses of the kind '{scheme}://' are not supported; give a file, "
            "http(s)://, detectron2://, torchvision:// or timm://"
        )
    return local


def read_weights(path: str) -> Source:
    """The file ``MODEL.WEIGHTS``, read and translated.

    Raises:
        InputError: it cannot be read; the line names the key.
    """
    local = path
    try:
        local = local_file(path)
        return read_source(local)
    except InputError as error:
        text = str(error).removeprefix(f"{path}: ").removeprefix(f"{local}: ")
        raise InputError(f"MODEL.WEIGHTS={path!r}: {text}") from error


def _bare(name: str, prefix: str) -> str:
    return name.removeprefix(prefix) if name.startswith(prefix) else name


def _compare_with_config(source: Source, cfg: CfgNode) -> None:
    """Fit the first convolution to the config's images; warn of what no shape would show."""
    fit_to_config(source.tensors, source.images, ImageFormat.from_config(cfg), source.path)
    warn_of_another(source.path, source.invisible(), lambda_resnet_arguments(cfg))


def _check_complete(coverage: Coverage, path: str) -> None:
    random = coverage.random()
    if random and coverage.loaded:
        total = len(random) + len(coverage.loaded)
        raise InputError(
            f"MODEL.WEIGHTS={path!r}: {len(random)} of the model's {total} tensors are not in it "
            f"or have another shape (first: {random[0]}); evaluation needs all of them"
        )


def check_frozen_weights(model: nn.Module, weights: str) -> None:
    """Refuse to train on random features: what is frozen must have been loaded.

    Args:
        model: any detector; only :class:`LambdaResNet` backbones in it are looked at.
        weights: ``MODEL.WEIGHTS``, for the message.

    Raises:
        InputError: a frozen tensor was not loaded since the backbone was built.
    """
    for module in model.modules():
        if isinstance(module, LambdaResNet) and (names := module.frozen_without_weights()):
            raise InputError(
                f"MODEL.BACKBONE.FREEZE_AT freezes {len(names)} tensors that "
                f"MODEL.WEIGHTS={weights!r} did not fill (first: {names[0]}); random features "
                "cannot be trained upon: give weights that hold them, or set "
                "MODEL.BACKBONE.FREEZE_AT 0"
            )
