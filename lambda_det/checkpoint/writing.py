"""Writing of converted weights together with their metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import torch
from torch import Tensor

from lambda_det.checkpoint.architecture import Architecture
from lambda_det.checkpoint.image_format import ImageFormat
from lambda_det.checkpoint.metadata import METADATA_KEY
from lambda_det.errors import InputError
from lambda_det.io import write_atomically

SUFFIXES = (".pth", ".safetensors")


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
    metadata = {
        "format": 1,
        "origin": origin,
        "architecture": _plain(architecture),
        "images": None if images is None else images.as_dict(),
    }
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    if path.endswith(".safetensors"):
        content = _safetensors(tensors, metadata)
        write_atomically(path, lambda file: file.write(content), subject=f"{path}:")
        return
    checkpoint = {
        "model": tensors,
        "__author__": "lambda_det",
        "matching_heuristics": True,
        METADATA_KEY: metadata,
    }
    write_atomically(path, lambda file: torch.save(checkpoint, file), subject=f"{path}:")


def _safetensors(tensors: dict[str, Tensor], metadata: Mapping) -> bytes:
    try:
        from safetensors.torch import save
    except ModuleNotFoundError:
        raise InputError(
            "writing .safetensors needs the package safetensors, which is not installed: pip "
            "install safetensors, or write a .pth"
        ) from None
    return save(tensors, metadata={"format": "pt", METADATA_KEY: json.dumps(metadata)})


def _plain(value: object) -> object:
    """Convert tuples to lists and mappings to dicts, which JSON and other readers accept."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
