"""Files of weights that lambda_det writes: writing them, and reading the metadata in them."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from lambda_det.backbone import build_lambda_resnet
from lambda_det.backbone.build import CONFIG_KEYS
from lambda_det.checkpoint.architecture import Architecture
from lambda_det.checkpoint.image_format import ImageFormat
from lambda_det.errors import InputError
from lambda_det.io import write_atomically

METADATA_KEY = "lambda_det"
"""Key of the metadata beside the tensors of a ``.pth`` file and in a safetensors header."""

SUFFIXES = (".pth", ".safetensors")

_ARGUMENTS = {*inspect.signature(build_lambda_resnet).parameters, *CONFIG_KEYS}
_ARGUMENTS.discard("lambda_layer_arguments")  # the name of **kwargs, which is no argument itself


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


def read_metadata(
    path: str, siblings: Mapping[str, object]
) -> tuple[Architecture, ImageFormat | None] | None:
    """Return the architecture and the image format in a file's metadata.

    Args:
        path: the file, for the messages.
        siblings: the entries of the file beside its tensors; of a safetensors file its header.

    Returns:
        None if the file has no metadata of lambda_det. The image format may be None (unknown).

    Raises:
        InputError: :func:`write_weights` cannot have written this metadata.
    """
    metadata = siblings.get(METADATA_KEY)
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except ValueError:
            raise InputError(f"{path}: its metadata {METADATA_KEY!r} is not JSON") from None
    if not isinstance(metadata, Mapping) or "architecture" not in metadata:
        return None
    architecture, images = metadata["architecture"], metadata.get("images")
    if not isinstance(architecture, Mapping):
        raise InputError(
            f"{path}: its metadata has architecture={architecture!r:.60}; expected a mapping of "
            "arguments of build_lambda_resnet"
        )
    unknown = set(architecture) - _ARGUMENTS
    if unknown:
        raise InputError(
            f"{path}: its metadata contains the argument {min(map(repr, unknown))}, which "
            "build_lambda_resnet of this version of lambda_det does not have"
        )
    try:
        return dict(architecture), ImageFormat.from_dict(images) if images else None
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: its metadata has images={images!r:.60}; expected channel_order, pixel_mean "
            f"and pixel_std ({type(error).__name__}: {error})"
        ) from error


def image_format_of_pretraining(siblings: Mapping[str, object]) -> ImageFormat | None:
    """Return the image format in a file that ``lambda_det pretrain`` wrote; None for others."""
    metadata = siblings.get("metadata")
    try:
        return ImageFormat.from_dict({"channel_order": metadata["image_format"], **metadata})
    except (KeyError, TypeError, ValueError):
        return None
