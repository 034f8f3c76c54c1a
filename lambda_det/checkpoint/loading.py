"""Loading of weights into a model, with a report of every tensor that is not loaded."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence

from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.config import CfgNode
from detectron2.modeling.backbone.resnet import ResNet
from detectron2.utils.file_io import PathManager
from torch import nn

from lambda_det.backbone import LambdaResNet
from lambda_det.backbone.build import lambda_resnet_arguments
from lambda_det.checkpoint.addresses import MIRROR_VARIABLE, name_in_mirror
from lambda_det.checkpoint.architecture import Architecture, warn_of_differences
from lambda_det.checkpoint.coverage import Coverage, coverage_report
from lambda_det.checkpoint.fitting import fit
from lambda_det.checkpoint.folded_norms import (
    Statistics,
    set_statistics,
    trained_without_statistics,
    warn_of_training,
)
from lambda_det.checkpoint.heads import heads_that_start_anew, number_of_classes
from lambda_det.checkpoint.image_format import ImageFormat, fit_to_config
from lambda_det.checkpoint.networks import split_network
from lambda_det.checkpoint.rules import LoadingRules
from lambda_det.checkpoint.translation import TranslatedWeights, read_and_translate
from lambda_det.errors import InputError, first_line_of, key

logger = logging.getLogger(__name__)

Measure = Callable[[nn.Module, Sequence[str]], Mapping[str, Statistics]]
"""Takes a backbone and names of its norms, and returns the statistics of what comes into them."""


def load_weights(
    model: nn.Module,
    path: str,
    *,
    complete: bool = False,
    cfg: CfgNode | None = None,
    rules: LoadingRules | None = None,
    images: ImageFormat | None = None,
    architecture: Architecture | None = None,
    measure: Measure | None = None,
) -> Coverage:
    """Load the weights of MODEL.WEIGHTS into a model, and log which tensors were loaded.

    The tensor names of timm, torchvision, detectron2, d-li14 and lambda_det are recognised, with or
    without a prefix. The file may contain a whole detector or a backbone alone. The states of an
    optimiser or a scheduler in the file are ignored.

    Args:
        model: a detector or a backbone; it may be wrapped in DistributedDataParallel.
        path: a file, or an address that detectron2's PathManager can read; ``#NAME`` at its end
            chooses one of several networks in it.
        complete: whether the file must contain every tensor of the model, as evaluation needs.
        cfg: gives the following three.
        rules: which tensors may stay random; None = the file must contain the whole backbone.
        images: images of the model, with which those of the file are compared.
        architecture: arguments of the model's backbone, with which those of the file are compared.
        measure: measures the statistics of norms that the file has without them and that take part
            in training, see :mod:`.folded_norms`; None = a warning names these.

    Returns:
        The coverage: which tensors were loaded, and which were not.

    Raises:
        InputError: the file does not exist, cannot be read, belongs to another model, or contains
            less of the backbone than MIN_COVERAGE requires.
    """
    model = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    prefix, backbone = find_backbone(model)
    if not isinstance(backbone, LambdaResNet):
        # The rules and the comparison are for the backbones of lambda_det only.
        rules, images, architecture = LoadingRules(min_coverage=0.0), None, None
    elif cfg is not None:
        rules, images = LoadingRules.from_config(cfg), ImageFormat.from_config(cfg)
        architecture = lambda_resnet_arguments(cfg)
    rules = LoadingRules() if rules is None else rules
    weights = read_weights(path)
    if isinstance(backbone, LambdaResNet):
        try:
            weights.refuse_other_families(backbone.state_dict())
        except InputError as error:
            raise InputError(f"{key('MODEL.WEIGHTS')}={path!r}: {error}") from error
    if images is not None:
        fit_to_config(weights.tensors, weights.images, images, weights.path)
    if isinstance(backbone, LambdaResNet):
        given = {**(architecture or {}), **backbone.other_kind}
        warn_of_differences(weights.path, weights.not_in_shapes(), given)

    state = model.state_dict()
    full_names = {name.removeprefix(prefix): name for name in state}
    shapes = {bare: tuple(state[full].shape) for bare, full in full_names.items()}
    tensors = {**weights.others, **weights.tensors}
    if backbone is None and not tensors.keys() & shapes.keys():
        # For models without a ResNet, detectron2's own matching of names is used.
        tensors = align_and_update_state_dicts(state, tensors, c2_conversion=False)
    trainable = {name.removeprefix(prefix): value for name, value in model.named_parameters()}
    coverage = fit(tensors, shapes, trainable, as_identity=rules.as_identity)
    logger.info(
        "%s=%r (%s)\n%s",
        key("MODEL.WEIGHTS"), path, weights.title, coverage_report(coverage),
    )  # fmt: skip
    file_shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if sentence := heads_that_start_anew(coverage, file_shapes, shapes):
        logger.info("%s=%r %s", key("MODEL.WEIGHTS"), path, sentence)
    if complete:
        _check_complete(coverage, path)
    rules.check(coverage, f"{key('MODEL.WEIGHTS')}={path!r}")
    model.load_state_dict({full_names[n]: tensors[n] for n in coverage.loaded}, strict=False)
    for name in coverage.kept_zero:
        nn.init.zeros_(trainable[name])
    if backbone is not None and not complete:
        loaded = {name: tensors[name] for name in coverage.loaded}
        norms = trained_without_statistics(loaded, backbone)
        if norms and measure is not None:
            set_statistics(backbone, measure(backbone, norms), path)
        elif norms:
            warn_of_training(path, norms, loaded, backbone)
    return coverage


def find_backbone(model: nn.Module) -> tuple[str, ResNet | None]:
    """Return the prefix of the names of a model's first ResNet, and that ResNet.

    A model without a ResNet gives ``("", None)``.
    """
    for name, module in model.named_modules():
        if isinstance(module, ResNet):
            return (f"{name}." if name else ""), module
    return "", None


def local_file(path: str) -> str:
    """Return the local file for a path or an address (``https://``, ``timm://``, ...).

    Raises:
        InputError: the address cannot be downloaded, or no handler of PathManager supports it.
    """
    scheme = path.partition("://")[0]
    if scheme == path:
        return path
    path = path.removesuffix("?matching_heuristics=True")
    try:
        local = PathManager.get_local_path(path)
    except InputError:
        raise
    except Exception as error:  # the handlers and the network raise many types
        hint = ""
        if scheme == "detectron2":
            hint = (
                f"; without a network, put {name_in_mirror(path)} into a folder and set the "
                f"environment variable {MIRROR_VARIABLE} to it"
            )
        raise InputError(f"{path}: cannot be downloaded ({first_line_of(error)}){hint}") from error
    # PathManager returns an address that no handler supports unchanged, as if it were a path.
    if local == path and not os.path.isfile(local):
        raise InputError(
            f"{path}: addresses of the kind '{scheme}://' are not supported; give a file, "
            "http(s)://, detectron2://, torchvision:// or timm://"
        )
    return local


def read_weights(path: str) -> TranslatedWeights:
    """Read the file or address MODEL.WEIGHTS and translate its tensor names.

    Raises:
        InputError: the file cannot be read. The message names the key MODEL.WEIGHTS.
    """
    file, network = split_network(path)
    local = file
    try:
        local = local_file(file)
        return read_and_translate(local, network)
    except InputError as error:
        text = str(error).removeprefix(f"{file}: ").removeprefix(f"{local}: ")
        raise InputError(f"{key('MODEL.WEIGHTS')}={path!r}: {text}") from error


def numbers_of_heads(path: str) -> tuple[int | None, int | None]:
    """Return the number of classes of the box head and the number of keypoints of the keypoint head
    in a file of weights; None for a head that it does not have.

    Raises:
        InputError: the file cannot be read.
    """
    tensors = read_weights(path).others
    deconvolution = tensors.get("roi_heads.keypoint_head.score_lowres.weight")
    keypoints = None if deconvolution is None else deconvolution.shape[1]
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return number_of_classes(shapes), keypoints


def _check_complete(coverage: Coverage, path: str) -> None:
    random = coverage.random()
    if random and coverage.loaded:
        total = len(random) + len(coverage.loaded)
        raise InputError(
            f"{key('MODEL.WEIGHTS')}={path!r}: {len(random)} of the model's {total} tensors are "
            f"missing or have a different shape (first: {random[0]}); evaluation needs all of them"
        )


def check_frozen_weights(model: nn.Module, weights: str) -> None:
    """Raise InputError if a frozen tensor of the backbone still has its random values.

    Frozen random features can never become useful, so such a training would be a mistake.

    Args:
        model: any detector; only :class:`LambdaResNet` backbones in it are checked.
        weights: the value of MODEL.WEIGHTS, for the message.

    Raises:
        InputError: a frozen tensor was not loaded after the backbone was built.
    """
    freeze = key("MODEL.BACKBONE.FREEZE_AT")
    for module in model.modules():
        if isinstance(module, LambdaResNet) and (names := module.frozen_without_weights()):
            most = module.most_to_freeze()
            raise InputError(
                f"{freeze} freezes {len(names)} tensors that {key('MODEL.WEIGHTS')}={weights!r} "
                f"does not contain (first: {names[0]}), so they would stay random; use weights "
                f"that contain them, or set {freeze} to {f'at most {most}' if most else 0}"
            )
