"""Reading of the metadata in lambda_det's own files of weights."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping

from lambda_det.backbone import build_lambda_resnet
from lambda_det.backbone.build import CONFIG_KEYS
from lambda_det.checkpoint.architecture import Architecture
from lambda_det.checkpoint.image_format import ImageFormat
from lambda_det.errors import InputError

METADATA_KEY = "lambda_det"
"""Key of the metadata beside the tensors of a ``.pth`` file and in a safetensors header."""

_ARGUMENTS = {*inspect.signature(build_lambda_resnet).parameters, *CONFIG_KEYS}
_ARGUMENTS.discard("lambda_layer_arguments")  # the name of **kwargs, which is no argument itself


def read_metadata(
    path: str, header: Mapping[str, str], siblings: Mapping[str, object]
) -> tuple[Architecture, ImageFormat | None] | None:
    """Return the architecture and the image format in a file's metadata.

    Args:
        path: the file, for the messages.
        header: the header of a safetensors file; empty for other files.
        siblings: the entries of the file beside its tensors.

    Returns:
        None if the file has no metadata of lambda_det. The image format may be None (unknown).

    Raises:
        InputError: :mod:`lambda_det.checkpoint.writing` cannot have written this metadata.
    """
    metadata = siblings.get(METADATA_KEY)
    if METADATA_KEY in header:
        try:
            metadata = json.loads(header[METADATA_KEY])
        except ValueError:
            raise InputError(f"{path}: its metadata {METADATA_KEY!r} is not JSON") from None
    if not isinstance(metadata, Mapping) or "architecture" not in metadata:
        return None
    architecture = metadata["architecture"]
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
    return dict(architecture), _images(path, metadata.get("images"))


def _images(path: str, images: object) -> ImageFormat | None:
    if not images:
        return None
    try:
        return ImageFormat.from_dict(images)
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
