"""Translation of a file of weights, of any supported source, to lambda_det's tensor names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from lambda_det.backbone.kinds import facts_of_kind
from lambda_det.checkpoint.architecture import (
    NOT_IN_SHAPES,
    Architecture,
    infer_architecture,
    refuse_other_families,
)
from lambda_det.checkpoint.folded_norms import with_norms
from lambda_det.checkpoint.image_format import IMAGENET, MSRA, ImageFormat
from lambda_det.checkpoint.layouts import Layout, find_layout
from lambda_det.checkpoint.name_maps import (
    CAFFE2,
    TIMM_LAMBDA,
    TIMM_RESNET_RS,
    TORCHVISION,
    NameMap,
)
from lambda_det.checkpoint.openmmlab import implied_by_openmmlab
from lambda_det.checkpoint.own_files import image_format_of_pretraining, read_metadata
from lambda_det.checkpoint.reading import read_file
from lambda_det.checkpoint.tensors import check_finite, find_tensors
from lambda_det.checkpoint.zoo import AUTHOR, implied_by_zoo
from lambda_det.errors import InputError

_DETECTOR_PREFIXES = ("backbone.bottom_up.", "backbone.", "bottom_up.")
_BACKBONE_PARTS = ("stem.", "res2.", "res3.", "res4.", "res5.", "linear.")
# A detector has them from its config; detectron2's checkpoints of 2019 have them, too.
_IGNORED = re.compile(r"pixel_(?:mean|std)$|\.cell_anchors\.\d+$")

# Arguments of timm's lambda networks that names and shapes do not show, by depth.
_TIMM_LAMBDA_EXTRAS = {26: {"lambda_pool": 2}, 50: {"activation": "silu"}}


@dataclass(frozen=True)
class TranslatedWeights:
    """The content of a file of weights under lambda_det's names.

    Attributes:
        path: the file or address, for messages.
        tensors: the backbone's, under bare names such as ``res4.5.conv1.weight``. A convolution
            into which its norm was folded has a norm again, see :mod:`.folded_norms`.
        others: all other tensors, such as a detector's heads, under their own names. A prefix of
            the whole network (``module.``) is removed.
        layout: whose names the file has; None = unknown, then ``tensors`` is empty.
        container: key of the file under which the tensors were found; ``""`` = at the top level.
        images: the images that the network was trained on; None = unknown.
        declared: arguments of ``build_lambda_resnet`` in the file's metadata; None = no metadata.
        hidden: arguments that names and shapes do not show but the source of the file implies.
    """

    path: str
    tensors: dict[str, Tensor]
    others: dict[str, Tensor]
    layout: Layout | None
    container: str = ""
    images: ImageFormat | None = None
    declared: Architecture | None = None
    hidden: Architecture = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The source of the weights in words, for reports and messages."""
        title = "unknown names" if self.layout is None else self.layout.title
        return title + (f", averaged weights ({self.container})" if "ema" in self.container else "")

    def architecture(self) -> Architecture:
        """Return arguments of ``build_lambda_resnet`` that build the network of these weights.

        Raises:
            InputError: ``build_lambda_resnet`` cannot build it.
        """
        if self.declared is not None:
            return self.declared
        is_timm_lambda = self.layout is not None and self.layout.name_map is TIMM_LAMBDA
        # timm's lambda networks have a position bias, except those with a global scope.
        has_bias = any(name.endswith(".position_bias") for name in self.tensors)
        try:
            inferred = infer_architecture(
                self.tensors, global_scope=is_timm_lambda and not has_bias
            )
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from error
        except (IndexError, ValueError, ZeroDivisionError) as error:
            raise InputError(
                f"{self.path}: has tensors under names of lambda_det's networks, with shapes that "
                f"none of them has ({error})"
            ) from error
        extras = _TIMM_LAMBDA_EXTRAS.get(inferred["depth"], {}) if is_timm_lambda else {}
        hidden = {name: self.hidden[name] for name in NOT_IN_SHAPES if name in self.hidden}
        return {**inferred, **hidden, **extras}

    def refuse_other_families(self, known: Collection[str] = ()) -> None:
        """Raise InputError if ``build_lambda_resnet`` has no such stem or blocks.

        Networks under detectron2's names may be of other families (ResNeXt, deformable
        convolutions) as long as they are loaded into detectron2's own backbones.

        Args:
            known: other names that are accepted: those of the network that takes the tensors.
        """
        prefix = "" if self.layout is None else self.layout.prefix
        refuse_other_families(self.tensors, known=known, prefix=prefix)

    def not_in_shapes(self) -> Architecture:
        """Return the arguments in :data:`NOT_IN_SHAPES`, and the facts of another kind of layers,
        as far as they are known."""
        try:
            known = self.architecture()
        except InputError:  # the file contains a part of a network only, which loading reports
            known = self.hidden
        hidden = {argument: known[argument] for argument in NOT_IN_SHAPES if argument in known}
        return hidden | facts_of_kind(known.get("kind", "lambda"), known)


def read_and_translate(path: str, network: str | None = None) -> TranslatedWeights:
    """Read a file of weights and translate its tensor names.

    Args:
        path: the file.
        network: which of several networks in it, as in :func:`find_tensors`.

    Raises:
        InputError: the file cannot be read, contains NaN or infinity, or contains a network with
            modules that lambda_det does not build.
    """
    return translate(path, read_file(path, stand_ins=True), network)


def translate(path: str, content: object, network: str | None = None) -> TranslatedWeights:
    """Translate the tensor names of a file that was read already.

    Args:
        path: the file or address, for the messages.
        content: what :func:`lambda_det.checkpoint.reading.read_file` returned.
        network: as in :func:`read_and_translate`.

    Raises:
        InputError: as :func:`read_and_translate`.
    """
    found = find_tensors(path, content, network)
    check_finite(path, found.tensors)
    layout, tensors, others = None, {}, {}
    try:
        layout = find_layout(found.tensors)
        if layout is None:
            others = _without_wrapper(found.tensors)
        elif layout.name_map is None:
            tensors, others = _split_own(found.tensors, layout.prefix)
            tensors = with_norms(tensors)
        else:
            tensors, others = _rename(found.tensors, layout.name_map, layout.prefix)
            tensors = with_norms(tensors, affine=layout.name_map is CAFFE2)
            refuse_other_families(tensors)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    others = {n: t for n, t in others.items() if not _IGNORED.search(n)}
    facts = (path, tensors, others, layout, found.container)
    own = read_metadata(path, found.siblings)
    if own is not None:
        return TranslatedWeights(
            *facts, declared=own.architecture, images=own.images, hidden=own.hidden
        )
    author = found.siblings.get("__author__")
    author = author if isinstance(author, str) else ""
    if author == AUTHOR and layout is not None and layout.name_map is None:
        images, hidden = implied_by_zoo(tensors, others)
    else:
        images, hidden = _implied_by(layout, author)
        if layout is not None and layout.name_map is TORCHVISION:
            images, hidden = implied_by_openmmlab(found.siblings, others) or (images, hidden)
    if images is None:
        images = image_format_of_pretraining(path, found.siblings)
    return TranslatedWeights(*facts, images=images, hidden=hidden)


def _split_own(
    tensors: Mapping[str, Tensor], prefix: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split tensors under lambda_det's names into the backbone's and all others."""
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


def _rename(
    tensors: Mapping[str, Tensor], name_map: NameMap, prefix: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Rename another source's tensors; return the backbone's and all others."""
    translated, others = {}, {}
    for full_name, tensor in tensors.items():
        name = full_name.removeprefix(prefix)
        if not full_name.startswith(prefix) or not (name_map.knows(name) or name_map.belongs(name)):
            others[full_name] = tensor
            continue
        if not name_map.knows(name):
            raise InputError(
                f"contains {full_name!r}, which the networks of lambda_det do not have (the file "
                f"was read as {name_map.layout})"
            )
        target = name_map.translate(name)
        parts = name_map.split(name)
        reshape = name_map.reshape.get(parts[1]) if parts else None
        try:
            if isinstance(target, tuple):
                translated |= _split_qkv(target, tensor, tensors, full_name)
            elif target is not None:
                translated[target] = reshape(tensor) if reshape else tensor
        except (IndexError, RuntimeError):
            raise InputError(
                f"contains {full_name!r} of the shape {tuple(tensor.shape)}, which no "
                f"{name_map.layout} has"
            ) from None
    if name_map is CAFFE2 and "stem.conv1.norm.weight" in translated:
        # MSRA's bias before a norm has no effect; detectron2 leaves it out too.
        translated.pop("stem.conv1.bias", None)
    # ResNet-D has max-pooling in place of ResNet-RS's fourth convolution.
    stem = {name.split(".")[1] for name in translated if name.startswith("stem.")}
    if name_map is TIMM_RESNET_RS and "conv3" in stem and "conv4" not in stem:
        raise InputError(
            "has a deep stem with max-pooling (ResNet-D, ResNet-T), which lambda_det does not "
            "build; of timm's deep stems it builds those of resnetrs and lambda_resnet"
        )
    return translated, others


def _split_qkv(
    targets: tuple[str, ...], tensor: Tensor, tensors: Mapping[str, Tensor], full_name: str
) -> dict[str, Tensor]:
    """Split the rows of one projection into those of queries, keys and values.

    The numbers of query and value rows are the sizes of the norms beside the projection.
    """
    layer = full_name.rsplit(".", 2)[0]
    norms = [tensors.get(f"{layer}.{norm}.weight") for norm in ("norm_q", "norm_v")]
    if any(norm is None for norm in norms):
        raise InputError(
            f"contains {full_name!r} without norm_q and norm_v, whose sizes tell how to split it"
        )
    rows = [norms[0].shape[0], 0, norms[1].shape[0]]
    rows[1] = tensor.shape[0] - sum(rows)
    if rows[1] <= 0:
        raise InputError(
            f"contains {full_name!r} with {tensor.shape[0]} rows, which are too few for norm_q and "
            "norm_v beside it"
        )
    return dict(zip(targets, tensor.split(rows), strict=True))


def _without_wrapper(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for wrapper in ("module.", "model.", "_orig_mod."):
        if all(name.startswith(wrapper) for name in tensors):
            return {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return dict(tensors)


def _implied_by(layout: Layout | None, author: str) -> tuple[ImageFormat | None, Architecture]:
    """Return the image format and the hidden arguments of the public files of a source."""
    if layout is None:
        return None, {}
    if layout.name_map is CAFFE2:
        return MSRA, {"stride_in_1x1": True}
    if layout.name_map is not None or author == "torchvision":
        return IMAGENET, {"stride_in_1x1": False}
    return None, {}
