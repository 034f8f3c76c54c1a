"""Inference of a network's architecture from the names and shapes in its state dict."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping

from torch import Tensor

from lambda_det.backbone.architectures import (
    BLOCKS_PER_STAGE,
    STAGES,
    VARIANTS,
    lambda_block_flags,
    se_stages_of,
)
from lambda_det.backbone.build import CONFIG_KEYS
from lambda_det.config import flat, get_cfg
from lambda_det.errors import InputError, key

logger = logging.getLogger(__name__)

Architecture = dict[str, object]
"""Arguments of :func:`lambda_det.backbone.build_lambda_resnet`."""

NOT_IN_SHAPES = ("stride_in_1x1", "activation", "lambda_pool")
"""Arguments that change what a network computes, but no name or shape of its tensors. With another
kind of layers than ``"lambda"``, :func:`lambda_det.backbone.kinds.facts_of_kind` has more."""


_INSIDE = re.compile(r"res[2-5]\.\d+\.|stem\.")
_NORM = r"norm\.(?:weight|bias|running_mean|running_var)"
_OURS = re.compile(
    rf"(?:res[2-5]\.\d+\.(?:conv[123]|shortcut)|stem\.conv[1-4])\.(?:weight|{_NORM})"
    rf"|res[2-5]\.\d+\.(?:lambda_{_NORM}|se\.fc[12]\.(?:weight|bias)|lambda_layer\."
    rf"(?:(?:query|key|value)\.weight|(?:query|value)_{_NORM}|embedding|position_bias)"
    r"|spatial_layer\..+)"
)


def warn_of_differences(path: str, trained: Architecture, given: Architecture) -> None:
    """Warn of every argument in :data:`NOT_IN_SHAPES`, and of other kinds of layers, that differs
    between a file and a config.

    The weights load in spite of such a difference, but the network then computes something else.

    Args:
        path: the file of weights, for the messages.
        trained: the known arguments of the network in the file.
        given: the arguments in the config.
    """
    kinds = [known["kind"] for known in (trained, given) if "kind" in known]
    of_kind = ("num_heads", "scope") if len({*kinds}) == 1 else ()
    for argument in (*NOT_IN_SHAPES, "kind", *of_kind):
        if argument in trained and argument in given and trained[argument] != given[argument]:
            name = key(CONFIG_KEYS[argument])
            logger.warning(
                "%s was trained with %s=%r, but %s is %r; set %s to %r",
                path, argument, trained[argument], name, given[argument], name, trained[argument],
            )  # fmt: skip


def refuse_other_families(
    tensors: Mapping[str, Tensor], *, known: Collection[str] = (), prefix: str = ""
) -> None:
    """Raise InputError if the stem and the blocks are not those of a LambdaResNet, ResNet or
    SE-ResNet.

    Args:
        tensors: state dict of a residual network under detectron2's names, without a prefix, as
            :func:`~lambda_det.checkpoint.folded_norms.with_norms` returns it.
        known: other names that are accepted.
        prefix: that of the names in the file, for the message.
    """
    blocks = {
        name.rpartition(".conv")[0] for name in tensors if re.match(r"res\d\.\d+\.conv", name)
    }
    blocks = {block.removesuffix(".norm") for block in blocks if block.count(".") == 1}
    if blocks and not any(f"{block}.conv3.weight" in tensors for block in blocks):
        raise InputError(
            "has basic blocks (ResNet-18, ResNet-34), but lambda_det builds bottleneck blocks only"
        )
    for name, tensor in tensors.items():
        match = re.match(r"res(\d)\.\d+\.conv2\.weight$", name)
        if match is None or tensor.dim() != 4:
            continue
        width = 64 * 2 ** (int(match[1]) - 2)
        if tensor.shape[1] != tensor.shape[0]:
            raise InputError(
                f"has grouped convolutions (ResNeXt; {name}), which lambda_det does not build"
            )
        if tensor.shape[0] != width:
            raise InputError(
                f"has {tensor.shape[0]} channels in {name} (Wide ResNet), but lambda_det builds "
                f"{width}"
            )
    for name in tensors:
        if _INSIDE.match(name) and not _OURS.fullmatch(name) and name not in known:
            raise InputError(
                f"contains {prefix + name!r}, which the networks of lambda_det do not have"
            )


def infer_architecture(
    tensors: Mapping[str, Tensor], *, global_scope: bool = False
) -> Architecture:
    """Return arguments of ``build_lambda_resnet`` that build the network of these tensors.

    The arguments in :data:`NOT_IN_SHAPES` are left out, because the tensors do not show them.

    Args:
        tensors: state dict under detectron2's names, without a prefix.
        global_scope: whether the position embeddings are tables of a global scope. Their shape
            alone does not tell, because a window has the same number of dimensions.

    Raises:
        InputError: ``build_lambda_resnet`` cannot build the number of blocks, the stem or the mix
            of lambda layers.
    """
    blocks = [_num_blocks(tensors, stage) for stage in STAGES]
    depth = next((d for d, numbers in BLOCKS_PER_STAGE.items() if list(numbers) == blocks), None)
    if depth is None:
        known = ", ".join(f"{d}: {list(numbers)}" for d, numbers in BLOCKS_PER_STAGE.items())
        raise InputError(f"has {blocks} blocks in res2 to res5; expected one of {known}")
    other = next((name for name in tensors if ".spatial_layer." in name), None)
    if other is not None:
        raise InputError(
            f"has layers of another kind than 'lambda' ({other}), whose arguments the tensors do "
            "not show: name the config of the network"
        )
    architecture: Architecture = {"depth": depth, "stem": _stem(tensors)}
    flags = {
        stage: [
            any(name.startswith(f"{stage}.{block}.lambda_layer.") for name in tensors)
            for block in range(count)
        ]
        for stage, count in zip(STAGES, blocks, strict=True)
    }
    se_stages = tuple(s for s in STAGES if f"{s}.0.se.fc1.weight" in tensors)
    architecture |= _variant(depth, flags, se_stages)
    if se_stages:
        weight = tensors[f"{se_stages[0]}.0.se.fc1.weight"]
        architecture["se_ratio"] = weight.shape[0] / weight.shape[1]
    lambda_blocks = [
        f"{stage}.{block}" for stage in STAGES for block, flag in enumerate(flags[stage]) if flag
    ]
    if lambda_blocks:
        architecture |= _layer_arguments(tensors, lambda_blocks, global_scope)
    if "linear.weight" in tensors:
        architecture["num_classes"] = tensors["linear.weight"].shape[0]
    return architecture


def config_line(architecture: Architecture) -> str:
    """Return the ``KEY VALUE`` pairs of a command line whose config describes this network."""
    defaults = flat(get_cfg())
    pairs = []
    for argument, value in architecture.items():
        if argument == "lambda_blocks":
            for stage, choice in value.items():
                choice = ["all"] if choice == "all" else choice
                pairs.append(f"{CONFIG_KEYS[argument]}.{stage.upper()} {_shown(choice)}")
        elif argument in CONFIG_KEYS:
            key = CONFIG_KEYS[argument]
            value = 0 if value == "global" else value
            if argument in ("depth", "variant", "stem") or value != defaults[key]:
                pairs.append(f"{key} {_shown(value)}")
    if architecture.get("kind", "lambda") != "lambda":  # what has the lambda layer's default, too
        pairs.append("MODEL.LAMBDA_RESNET.LAYER.OWN_DEFAULTS False")
    return " ".join(pairs)


def _shown(value: object) -> str:
    is_list = isinstance(value, tuple | list)
    return f'"{list(value)}"'.replace(" ", "") if is_list else str(value)


def _num_blocks(tensors: Mapping[str, Tensor], stage: str) -> int:
    numbers = {int(m[1]) for name in tensors if (m := re.match(rf"{stage}\.(\d+)\.", name))}
    return max(numbers, default=-1) + 1


def _stem(tensors: Mapping[str, Tensor]) -> str:
    first = tensors.get("stem.conv1.weight")
    if first is None:
        raise InputError("has no stem: stem.conv1.weight is missing")
    if first.shape[-1] == 7:
        return "v1"
    if "stem.conv4.weight" in tensors:
        return "rs"
    if "stem.conv3.weight" in tensors and first.shape[0] == 24:
        return "tiered"
    raise InputError(
        f"has a stem that lambda_det does not build (stem.conv1.weight has the shape "
        f"{tuple(first.shape)})"
    )


def _variant(
    depth: int, flags: Mapping[str, list[bool]], se_stages: tuple[str, ...]
) -> Architecture:
    for name in VARIANTS:
        if lambda_block_flags(depth, name) == flags and se_stages_of(name) == se_stages:
            return {"variant": name}
    chosen = {
        stage: "all" if all(row) else [i for i, flag in enumerate(row, start=1) if flag]
        for stage, row in flags.items()
    }
    return {"variant": "resnet", "lambda_blocks": chosen, "se_stages": se_stages}


def _layer_arguments(
    tensors: Mapping[str, Tensor], blocks: list[str], global_scope: bool
) -> Architecture:
    """Return the arguments of the lambda layers; raise InputError if blocks differ in them."""
    found: list[Architecture] = []
    for block in blocks:
        layer = f"{block}.lambda_layer"
        embedding = tensors.get(f"{layer}.embedding")
        query = tensors.get(f"{layer}.query.weight")
        if query is None:
            raise InputError(f"has no {layer}.query.weight")
        row: Architecture = {
            "content": f"{layer}.key.weight" in tensors,
            "position": embedding is not None,
            "position_bias": f"{layer}.position_bias" in tensors,
        }
        if embedding is not None:
            row["query_depth"], row["intra_depth"] = embedding.shape[:2]
            row["num_heads"] = query.shape[0] // embedding.shape[0]
            row["scope"] = "global" if global_scope else embedding.shape[-1]
            if global_scope:
                stride = _input_stride(block)
                row["max_size"] = tuple((s + 1) // 2 * stride for s in embedding.shape[-2:])
        found.append(row)
    if any(row != found[0] for row in found):
        raise InputError(
            "has lambda layers whose scope, heads or depth differ between blocks, which "
            "lambda_det does not build"
        )
    defaults = {"content": True, "position": True, "position_bias": False}
    return {key: value for key, value in found[0].items() if defaults.get(key) != value}


def _input_stride(block: str) -> int:
    """Return the stride of the input of a block's lambda layer.

    A strided block pools after its lambda layer, so the layer has the stride of the stage before.
    """
    stage, _, number = block.partition(".")
    index = STAGES.index(stage)
    return 4 * 2 ** (index - 1 if index and number == "0" else index)
