"""A file of weights from anywhere, under our names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from lambda_det.checkpoint.architecture import (
    INVISIBLE,
    Architecture,
    infer_architecture,
    refuse_other_families,
)
from lambda_det.checkpoint.images import IMAGENET, MSRA, ImageFormat
from lambda_det.checkpoint.layouts import Layout, find_layout
from lambda_det.checkpoint.metadata import images_of_a_pretraining, read_metadata
from lambda_det.checkpoint.name_maps import (
    CAFFE2,
    TIMM_LAMBDA,
    TIMM_RESNET_RS,
    NameMap,
)
from lambda_det.checkpoint.reading import FileContent, read_file
from lambda_det.checkpoint.tensors import check_finite, find_tensors
from lambda_det.errors import InputError

_DETECTOR_PREFIXES = ("backbone.bottom_up.", "backbone.", "bottom_up.")
_BACKBONE_PARTS = ("stem.", "res2.", "res3.", "res4.", "res5.", "linear.")
_IGNORED_SUFFIXES = ("pixel_mean", "pixel_std")  # buffers of detectors, which the config gives

# What names and shapes do not show of timm's lambda networks, by depth.
_TIMM_LAMBDA_EXTRAS = {26: {"lambda_pool": 2}, 50: {"activation": "silu"}}


@dataclass(frozen=True)
class Source:
    """What a file holds, translated.

    ``tensors`` are the backbone's under bare names, ``others`` those beside it (a detector's
    heads) under their own, without a wrapper's prefix.
    """

    path: str
    tensors: dict[str, Tensor]
    others: dict[str, Tensor]
    layout: Layout | None
    container: str = ""
    author: str = ""
    images: ImageFormat | None = None
    declared: Architecture | None = None
    """The network, as the file itself says."""
    hidden: Architecture = field(default_factory=dict)
    """What is known of the network beyond names and shapes."""

    @property
    def title(self) -> str:
        """For a report."""
        title = "unknown names" if self.layout is None else self.layout.title
        return title + (f", averaged weights ({self.container})" if "ema" in self.container else "")

    def with_images(self, images: ImageFormat) -> Source:
        """The same, trained on ``images``."""
        return replace(self, images=images)

    def architecture(self) -> Architecture:
        """Arguments that build the whole network.

        Raises:
            InputError: it is none of the family.
        """
        if self.declared is not None:
            return self.declared
        is_timm_lambda = self.layout is not None and self.layout.name_map is TIMM_LAMBDA
        # Its networks with a global table have no bias, all others have one.
        has_bias = any(name.endswith(".position_bias") for name in self.tensors)
        try:
            inferred = infer_architecture(
                self.tensors, global_scope=is_timm_lambda and not has_bias
            )
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from error
        extras = _TIMM_LAMBDA_EXTRAS.get(inferred["depth"], {}) if is_timm_lambda else {}
        return {**inferred, **self.hidden, **extras}

    def invisible(self) -> Architecture:
        """What is known of the arguments that neither names nor shapes show."""
        try:
            known = self.architecture()
        except InputError:  # a part of a network; what is missing is reported anyway
            known = self.hidden
        return {argument: known[argument] for argument in INVISIBLE if argument in known}


def read_source(path: str) -> Source:
    """Read and translate a file of weights.

    Raises:
        InputError: it cannot be read, holds NaN, or is a network whose parts the family does not
            have; the line names the file and what is wrong.
    """
    return translate(path, read_file(path))


def translate(path: str, content: FileContent) -> Source:
    """:func:`read_source` of what was read; ``path`` is for the messages."""
    found = find_tensors(path, content.data)
    check_finite(path, found.tensors)
    layout, tensors, others = None, {}, {}
    try:
        layout = find_layout(found.tensors)
        if layout is None:
            others = _without_wrapper(found.tensors)
        elif layout.name_map is None:
            tensors, others = _own(found.tensors, layout.prefix)
        else:
            tensors, others = _foreign(found.tensors, layout.name_map, layout.prefix)
            refuse_other_families(tensors)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    others = {n: t for n, t in others.items() if not n.endswith(_IGNORED_SUFFIXES)}
    author = str(found.siblings.get("__author__", ""))
    facts = {"path": path, "tensors": tensors, "others": others, "layout": layout}
    facts |= {"container": found.container, "author": author}
    declared = read_metadata(path, content.metadata, found.siblings)
    if declared is not None:
        return Source(**facts, declared=declared[0], images=declared[1])
    images, hidden = _known_of(layout, author)
    if images is None:
        images = images_of_a_pretraining(found.siblings)
    return Source(**facts, images=images, hidden=hidden)


def _own(tensors: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    inside = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(tuple(prefix + part for part in _BACKBONE_PARTS))
    }
    detector = next((p for p in _DETECTOR_PREFIXES if prefix.endswith(p)), "")
    wrapper = prefix.removesuffix(detector)
    outside = {
        name.removeprefix(wrapper): tensor
        for name, tensor in tensors.items()
        if name.removeprefix(prefix) not in inside or not name.startswith(prefix)
    }
    return inside, outside


def _foreign(
    tensors: Mapping[str, Tensor], name_map: NameMap, prefix: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    translated, others = {}, {}
    for full_name, tensor in tensors.items():
        name = full_name.removeprefix(prefix)
        target = name_map.translate(name) if full_name.startswith(prefix) else KeyError(name)
        if isinstance(target, KeyError):
            if full_name.startswith(prefix) and name_map.belongs(name):
                raise InputError(
                    f"has {full_name!r}, for which the family has no place (read as "
                    f"{name_map.layout})"
                )
            others[full_name] = tensor
        elif isinstance(target, tuple):
            translated |= _split_qkv(target, tensor, tensors, full_name)
        elif target is not None:
            parts = name_map.split(name)
            reshape = name_map.reshape.get(parts[1]) if parts else None
            translated[target] = reshape(tensor) if reshape else tensor
    if name_map is TIMM_RESNET_RS and _has_pooled_stem(translated):
        raise InputError(
            "has a deep stem with max-pooling (ResNet-D, ResNet-T), for which the family has no "
            "place; of timm's deep stems it has those of resnetrs and lambda_resnet"
        )
    return translated, others


def _has_pooled_stem(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a stem ends in max-pooling where ResNet-RS has a fourth convolution."""
    return any(n.startswith("stem.conv3.") for n in tensors) and not any(
        n.startswith("stem.conv4.") for n in tensors
    )


def _split_qkv(
    targets: tuple[str, ...], tensor: Tensor, tensors: Mapping[str, Tensor], full_name: str
) -> dict[str, Tensor]:
    """Rows of one projection: queries, keys, values, as many as the norms beside it say."""
    layer = full_name.rsplit(".", 2)[0]
    norms = [tensors.get(f"{layer}.{norm}.weight") for norm in ("norm_q", "norm_v")]
    if any(norm is None for norm in norms):
        raise InputError(f"has {full_name!r} without the norms that say how to split it")
    rows = [norms[0].shape[0], 0, norms[1].shape[0]]
    rows[1] = tensor.shape[0] - sum(rows)
    if rows[1] <= 0:
        raise InputError(f"has {full_name!r} with {tensor.shape[0]} rows, too few for its norms")
    return dict(zip(targets, tensor.split(rows), strict=True))


def lambda_layer_tensors(tensors: Mapping[str, Tensor], name_map: NameMap) -> dict[str, Tensor]:
    """The state dict of a lone lambda layer of timm or d-li14, for :class:`LambdaLayer`.

    Raises:
        InputError: it has a tensor for which :class:`LambdaLayer` has no place.
    """
    prefix = name_map.lambda_layer
    named = {f"{prefix}{n}": t for n, t in tensors.items() if not n.endswith("batches_tracked")}
    translated, _ = _foreign(named, name_map, "")
    return {name.partition("lambda_layer.")[2]: tensor for name, tensor in translated.items()}


def _without_wrapper(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for wrapper in ("module.", "model.", "_orig_mod."):
        if all(name.startswith(wrapper) for name in tensors):
            return {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return dict(tensors)


def _known_of(layout: Layout | None, author: str) -> tuple[ImageFormat | None, Architecture]:
    """Images, and what shapes do not show, of the public files of a source."""
    if layout is None:
        return None, {}
    if layout.name_map is CAFFE2:
        return MSRA, {"stride_in_1x1": True}
    if layout.name_map is not None or author == "torchvision":
        return IMAGENET, {"stride_in_1x1": False}
    return None, {}
