"""What our own files say of the network that they hold."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping

from lambda_det.backbone import build_lambda_resnet
from lambda_det.backbone.build import CONFIG_KEYS
from lambda_det.checkpoint.architecture import Architecture
from lambda_det.checkpoint.images import ImageFormat
from lambda_det.errors import InputError

METADATA_KEY = "lambda_det"
"""Under which our own files say what they hold."""

_ARGUMENTS = {*inspect.signature(build_lambda_resnet).parameters, *CONFIG_KEYS}
_ARGUMENTS.discard("lambda_layer_arguments")  # stands for those of the layers, which have keys


def read_metadata(
    path: str, header: Mapping[str, str], siblings: Mapping[str, object]
) -> tuple[Architecture, ImageFormat | None] | None:
    """The network and its images that a file declares; None of a file that declares none.

    Args:
        path: the file, for the messages.
        header: of a safetensors file, else empty.
        siblings: what stands beside the tensors.

    Raises:
        InputError: what it declares cannot be what :mod:`lambda_det.checkpoint.writing` wrote.
    """
    metadata = siblings.get(METADATA_KEY)
    if METADATA_KEY in header:
        try:
            metadata = json.loads(header[METADATA_KEY])
        except ValueError:
            raise InputError(f"{path}: its metadata {METADATA_KEY!r} is no JSON") from None
    if not isinstance(metadata, Mapping) or "architecture" not in metadata:
        return None
    architecture = metadata["architecture"]
    if not isinstance(architecture, Mapping):
        raise InputError(
            f"{path}: its metadata has architecture={architecture!r:.60}, expected arguments "
            "by name"
        )
    unknown = set(architecture) - _ARGUMENTS
    if unknown:
        raise InputError(
            f"{path}: its metadata asks for {min(map(repr, unknown))}, which no backbone of this "
            "version has"
        )
    return dict(architecture), _images(path, metadata.get("images"))


def _images(path: str, images: object) -> ImageFormat | None:
    if not images:
        return None
    try:
        return ImageFormat.from_dict(images)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: its metadata has images={images!r:.60}, expected channel_order, pixel_mean "
            f"and pixel_std ({type(error).__name__}: {error})"
        ) from error


def images_of_a_pretraining(siblings: Mapping[str, object]) -> ImageFormat | None:
    """Images that the files of our own pretraining name beside the weights."""
    metadata = siblings.get("metadata")
    try:
        return ImageFormat.from_dict({"channel_order": metadata["image_format"], **metadata})
    except (KeyError, TypeError, ValueError):
        return None
