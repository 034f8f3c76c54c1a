"""Files of weights that lambda_det writes: writing them, and reading the metadata in them."""

from __future__ import annotations

import inspect
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from lambda_det.backbone import LambdaResNet, build_lambda_resnet
from lambda_det.backbone.activations import ACTIVATIONS
from lambda_det.backbone.build import CONFIG_KEYS
from lambda_det.backbone.kinds import facts_of_kind, is_known
from lambda_det.checkpoint.architecture import NOT_IN_SHAPES, Architecture
from lambda_det.checkpoint.image_format import ImageFormat
from lambda_det.checkpoint.tensors import plain_entries
from lambda_det.errors import InputError, shown
from lambda_det.io import write_atomically

logger = logging.getLogger(__name__)

METADATA_KEY = "lambda_det"
"""Key of the metadata beside the tensors of a ``.pth`` file and in a safetensors header."""

SUFFIXES = (".pth", ".safetensors")

_ARGUMENTS = {*inspect.signature(build_lambda_resnet).parameters, *CONFIG_KEYS}
_ARGUMENTS.discard("lambda_layer_arguments")  # the name of **kwargs, which is no argument itself

_HIDDEN = {"stride_in_1x1": (False, True), "activation": (*ACTIVATIONS,), "lambda_pool": (2, 3)}


def check_output(path: str) -> None:
    """Raise InputError if :func:`write_weights` cannot write to this path."""
    if os.path.splitext(path)[1] not in SUFFIXES:
        raise InputError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise InputError(f"{path}: its folder {folder} does not exist")


def write_weights(
    path: str,
    tensors: Mapping[str, Tensor],
    *,
    architecture: Architecture,
    images: ImageFormat | None,
    origin: str,
) -> None:
    """Write weights and their metadata atomically.

    detectron2's DetectionCheckpointer also loads the ``.pth`` file, because the entry
    ``matching_heuristics`` makes it match the end of names. ``.safetensors`` is for other programs.

    Args:
        path: the file to write; its name ends in ``.pth`` or ``.safetensors``.
        tensors: the weights, under the bare backbone's names.
        architecture: arguments of ``build_lambda_resnet`` for this network.
        images: the images that the network was trained on; None = unknown.
        origin: what was converted, for a person who reads the metadata.

    Raises:
        InputError: the name ends in something else, or the file cannot be written.
    """
    check_output(path)
    # JSON makes lists of tuples, and plain types are what torch.load(weights_only=True) accepts.
    described = {"format": 1, "origin": origin, "architecture": architecture}
    text = json.dumps(described | {"images": None if images is None else asdict(images)})
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    if path.endswith(".safetensors"):
        try:
            from safetensors.torch import save
        except ModuleNotFoundError:
            raise InputError(
                "writing .safetensors needs the package safetensors, which is not installed: pip "
                "install safetensors, or write a .pth"
            ) from None
        content = save(tensors, metadata={"format": "pt", METADATA_KEY: text})
        write_atomically(path, lambda file: file.write(content), subject=f"{path}:")
        return
    checkpoint = {
        "model": tensors,
        "__author__": "lambda_det",
        "matching_heuristics": True,
        METADATA_KEY: json.loads(text),
    }
    write_atomically(path, lambda file: torch.save(checkpoint, file), subject=f"{path}:")


def metadata_of_training(
    model: nn.Module, architecture: Architecture, images: ImageFormat | None
) -> dict[str, object]:
    """Return the entry that a training's checkpoints have beside their tensors.

    With it, loading a checkpoint compares what names and shapes do not show. The rest of the
    architecture is not written: it is inferred from the tensors, as without this entry.

    Args:
        model: a detector or a classifier.
        architecture: arguments of ``build_lambda_resnet`` for its backbone. They are left out if it
            has another backbone, which does not read them.
        images: the images that the model is trained on; None = unknown.
    """
    backbone = next((m for m in model.modules() if isinstance(m, LambdaResNet)), None)
    hidden: Architecture = {}
    if backbone is not None:
        hidden = {name: architecture[name] for name in NOT_IN_SHAPES} | dict(backbone.other_kind)
    pixels = None if images is None else json.loads(json.dumps(asdict(images)))
    try:
        ImageFormat.from_dict(pixels or {})
    except (KeyError, ValueError):  # it can describe, and correct, three channels only
        pixels = None
    described = {"format": 1, "origin": "training", "hidden": hidden, "images": pixels}
    return {METADATA_KEY: described}


@dataclass(frozen=True)
class OwnMetadata:
    """The metadata of lambda_det in a file.

    Attributes:
        architecture: all arguments of ``build_lambda_resnet``; None = they are to be inferred.
        hidden: those that names and shapes do not show, if ``architecture`` is None.
        images: the images that the network was trained on; None = unknown.
    """

    architecture: Architecture | None
    hidden: Architecture
    images: ImageFormat | None


def read_metadata(path: str, siblings: Mapping[str, object]) -> OwnMetadata | None:
    """Return the metadata of lambda_det in a file.

    Args:
        path: the file, for the messages.
        siblings: the entries of the file beside its tensors; of a safetensors file its header.

    Returns:
        None if the file has no metadata of lambda_det.

    Raises:
        InputError: neither :func:`write_weights` nor a training can have written this metadata.
    """
    metadata = siblings.get(METADATA_KEY)
    metadata = plain_entries(metadata) or metadata
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except (ValueError, RecursionError):
            raise InputError(f"{path}: its metadata {METADATA_KEY!r} is not JSON") from None
    if not isinstance(metadata, Mapping) or not metadata.keys() & {"architecture", "hidden"}:
        return None
    name = "architecture" if "architecture" in metadata else "hidden"
    architecture, images = metadata[name], metadata.get("images")
    if not isinstance(architecture, Mapping):
        raise InputError(
            f"{path}: its metadata has {name}={shown(architecture)}; expected a mapping of "
            "arguments of build_lambda_resnet"
        )
    unknown = set(architecture) - _ARGUMENTS
    if unknown:
        raise InputError(
            f"{path}: its metadata contains the argument {min(map(shown, unknown))}, which "
            "build_lambda_resnet of this version of lambda_det does not have"
        )
    for argument, allowed in _HIDDEN.items():
        value = architecture.get(argument, allowed[0])
        if type(value) is not type(allowed[0]) or value not in allowed:
            raise InputError(
                f"{path}: its metadata has {argument}={shown(value)}; expected one of "
                f"{', '.join(map(repr, allowed))}"
            )
    try:
        known = images is not None
        found = ImageFormat.from_dict(plain_entries(images) or images) if known else None
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: its metadata has images={shown(images)}; expected channel_order, pixel_mean "
            f"and pixel_std ({type(error).__name__}: {error})"
        ) from error
    kind = _facts_of_kind(path, architecture)
    if name == "architecture" and is_known(architecture.get("kind", "lambda")):
        return OwnMetadata(dict(architecture), {}, found)
    # A layer that no imported module has registered is known by the config of its network only.
    hidden = {n: architecture[n] for n in _HIDDEN if n in architecture} | kind
    return OwnMetadata(None, hidden, found)


def _facts_of_kind(path: str, architecture: Architecture) -> Architecture:
    """Return the facts of another kind of layers than ``"lambda"`` in the metadata of a file.

    Raises:
        InputError: one is of a wrong type.
    """
    kind = architecture.get("kind", "lambda")
    if isinstance(kind, str) and kind == "lambda":
        return {}
    for argument, types in (("kind", (str,)), ("num_heads", (int,)), ("scope", (int, str))):
        value = architecture.get(argument, types[0]())
        if type(value) not in types:
            raise InputError(f"{path}: its metadata has {argument}={shown(value)}")
    return facts_of_kind(kind, architecture)


def image_format_of_pretraining(path: str, siblings: Mapping[str, object]) -> ImageFormat | None:
    """Return the image format in a file that ``lambda_det pretrain`` wrote; None for others.

    A warning names one that makes no sense.
    """
    metadata = plain_entries(siblings.get("metadata")) or {}
    if "image_format" not in metadata:
        return None
    values = {name: metadata.get(name) for name in ("image_format", "pixel_mean", "pixel_std")}
    try:
        return ImageFormat.from_dict({"channel_order": values["image_format"], **values})
    except (TypeError, ValueError) as error:
        logger.warning("%s: its metadata has %.120r (%s); it is ignored", path, values, error)
        return None
