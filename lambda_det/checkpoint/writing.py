"""Writing of converted weights, with what a file must say of itself."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping

import torch
from torch import Tensor

from lambda_det.checkpoint.architecture import Architecture
from lambda_det.checkpoint.images import ImageFormat
from lambda_det.checkpoint.metadata import METADATA_KEY
from lambda_det.errors import InputError

SUFFIXES = (".pth", ".safetensors")


def check_output(path: str) -> None:
    """Raise InputError for a file that :func:`write_weights` cannot write."""
    if os.path.splitext(path)[1] not in SUFFIXES:
        raise InputError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise InputError(f"{path}: there is no folder {folder}")


def write_weights(
    path: str,
    tensors: Mapping[str, Tensor],
    *,
    architecture: Architecture,
    images: ImageFormat | None,
    origin: str,
) -> None:
    """Write at once or not at all.

    A ``.pth`` also loads in detectron2's own trainers, which match its names to the end of the
    model's; ``.safetensors`` is for everybody else.

    Args:
        path: the file, ``.pth`` or ``.safetensors``.
        tensors: under the bare backbone's names.
        architecture: arguments of ``build_lambda_resnet``.
        images: what the network was trained on, if known.
        origin: what was converted, for people.

    Raises:
        InputError: the name ends otherwise, or the file cannot be written.
    """
    check_output(path)
    metadata = {
        "format": 1,
        "origin": origin,
        "architecture": _plain(architecture),
        "images": None if images is None else images.as_dict(),
    }
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    folder = os.path.dirname(os.path.abspath(path))
    try:
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{os.path.basename(path)}.")
        os.close(handle)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    try:
        if path.endswith(".safetensors"):
            _save_safetensors(temporary, tensors, metadata)
        else:
            torch.save(
                {
                    "model": tensors,
                    "__author__": "lambda_det",
                    "matching_heuristics": True,
                    METADATA_KEY: metadata,
                },
                temporary,
            )
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _save_safetensors(path: str, tensors: dict[str, Tensor], metadata: Mapping) -> None:
    try:
        from safetensors.torch import save_file
    except ModuleNotFoundError:
        raise InputError(
            "writing .safetensors needs its package: pip install safetensors, or write a .pth"
        ) from None
    save_file(tensors, path, metadata={"format": "pt", METADATA_KEY: json.dumps(metadata)})


def _plain(value: object) -> object:
    """Tuples as lists and mappings as dicts, which every reader knows."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
