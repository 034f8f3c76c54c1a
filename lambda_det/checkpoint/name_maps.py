"""Maps from the tensor names of each source of weights to those of lambda_det, as data.

lambda_det's names are those of the bare backbone: ``stem.conv1.weight``,
``res4.5.lambda_layer.embedding``, ``linear.weight``. The names of the sources were read from public
state dicts (timm 1.0, torchvision, detectron2's c2_model_loading, d-li14/lambda.pytorch).

To support another source, define a :class:`NameMap` and add it to :data:`NAME_MAPS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from torch import Tensor

SPLIT_QKV = ("lambda_layer.query", "lambda_layer.key", "lambda_layer.value")
"""Target of a weight whose rows are those of query, key and value projection, in this order."""

Target = str | tuple[str, ...] | None
"""A name of lambda_det, several names for a tensor that is split, or None for one left out."""

_LEAVES = MappingProxyType({n: n for n in ("weight", "bias", "running_mean", "running_var")})


@dataclass(frozen=True, eq=False)
class NameMap:
    """The tensor names of one source of weights.

    Attributes:
        source: the value of ``convert_weights --source``.
        layout: the network in words, for reports and messages.
        stage: regular expression of a block's prefix. Its two groups are the number of the stage
            and the number of the block.
        outside: module (or tensor) outside the blocks -> :data:`Target`.
        block: module (or tensor) inside a block, without the block's prefix -> :data:`Target`.
        first_stage: the source's number for res2.
        separator: stands between the names of a module and of its tensor.
        leaves: the source's name of a tensor in a module -> PyTorch's.
        reshape: tensor inside a block -> function that changes its shape to lambda_det's.
    """

    source: str
    layout: str
    stage: str
    outside: Mapping[str, Target]
    block: Mapping[str, Target]
    first_stage: int = 1
    separator: str = "."
    leaves: Mapping[str, str] = field(default_factory=lambda: _LEAVES)
    reshape: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    def split(self, name: str) -> tuple[str, str] | None:
        """Split a name into lambda_det's prefix of the block and the rest of the name.

        Returns:
            None for a tensor outside the blocks.
        """
        match = re.match(self.stage, name)
        if match is None:
            return None
        stage = int(match[1]) - self.first_stage + 2
        return f"res{stage}.{match[2]}.", name[match.end() :]

    @cached_property
    def _tables(self) -> tuple[dict[str, Target], dict[str, Target]]:
        """The names of all tensors outside and inside a block, with their targets."""
        outside, inside = (
            {
                f"{module}{self.separator}{theirs}": _joined("", target, f".{ours}")
                for module, target in modules.items()
                for theirs, ours in self.leaves.items()
            }
            for modules in (self.outside, self.block)
        )
        return outside | {**self.outside}, inside | {**self.block}

    def translate(self, name: str) -> Target:
        """Return the :data:`Target` of a tensor.

        Raises:
            KeyError: the name is not one of the source's.
        """
        outside, inside = self._tables
        parts = self.split(name)
        return outside[name] if parts is None else _joined(parts[0], inside[parts[1]], "")

    def knows(self, name: str) -> bool:
        """Return whether :meth:`translate` translates a name."""
        outside, inside = self._tables
        parts = self.split(name)
        return name in outside if parts is None else parts[1] in inside

    def belongs(self, name: str) -> bool:
        """Return whether a name, known or unknown, belongs to the stem or to a block."""
        if self.split(name) is not None:
            return True
        parts = {
            known.split(self.separator)[0]
            for known, target in self.outside.items()
            if target is None or "stem" in target
        }
        return name.split(self.separator)[0] in parts


def _joined(prefix: str, target: Target, leaf: str) -> Target:
    if isinstance(target, tuple):
        return tuple(f"{prefix}{part}{leaf}" for part in target)
    return None if target is None else f"{prefix}{target}{leaf}"


_CONVS = {f"conv{i}": f"conv{i}" for i in (1, 2, 3)}
_NORMS = {f"bn{i}": f"conv{i}.norm" for i in (1, 2, 3)}

TORCHVISION = NameMap(
    source="torchvision",
    layout="ResNet of torchvision or timm",
    stage=r"layer([1-4])\.(\d+)\.",
    outside={"conv1": "stem.conv1", "bn1": "stem.conv1.norm", "fc": "linear"},
    block={**_CONVS, **_NORMS, "downsample.0": "shortcut", "downsample.1": "shortcut.norm"},
)

TIMM_RESNET_RS = NameMap(
    source="timm",
    layout="ResNet-RS of timm",
    stage=r"layer([1-4])\.(\d+)\.",
    outside={
        "conv1.0": "stem.conv1",
        "conv1.1": "stem.conv1.norm",
        "conv1.3": "stem.conv2",
        "conv1.4": "stem.conv2.norm",
        "conv1.6": "stem.conv3",
        "bn1": "stem.conv3.norm",
        "maxpool.0": "stem.conv4",
        "maxpool.1": "stem.conv4.norm",
        "fc": "linear",
    },
    block={
        **_CONVS,
        **_NORMS,
        "downsample.1": "shortcut",  # downsample.0 is the average pooling
        "downsample.2": "shortcut.norm",
        "se.fc1": "se.fc1",
        "se.fc2": "se.fc2",
    },
)

TIMM_LAMBDA = NameMap(
    source="timm",
    layout="LambdaResNet of timm",
    stage=r"stages\.([0-3])\.(\d+)\.",
    first_stage=0,
    outside={
        **{f"stem.conv{i}.conv": f"stem.conv{i}" for i in (1, 2, 3)},
        **{f"stem.conv{i}.bn": f"stem.conv{i}.norm" for i in (1, 2, 3)},
        "head.fc": "linear",
    },
    block={
        "conv1_1x1.conv": "conv1",
        "conv1_1x1.bn": "conv1.norm",
        "conv2_kxk.conv": "conv2",
        "conv2_kxk.bn": "conv2.norm",
        "conv3_1x1.conv": "conv3",
        "conv3_1x1.bn": "conv3.norm",
        "shortcut.conv": "shortcut",
        "shortcut.bn": "shortcut.norm",
        "self_attn.qkv.weight": tuple(f"{part}.weight" for part in SPLIT_QKV),
        "self_attn.norm_q": "lambda_layer.query_norm",
        "self_attn.norm_v": "lambda_layer.value_norm",
        "self_attn.conv_lambda.weight": "lambda_layer.embedding",
        "self_attn.conv_lambda.bias": "lambda_layer.position_bias",
        "self_attn.pos_emb": "lambda_layer.embedding",
        "post_attn": "lambda_norm",
    },
    reshape={
        "self_attn.conv_lambda.weight": lambda kernel: kernel.squeeze(-1),  # (k, 1, r, r, 1)
        "self_attn.pos_emb": lambda table: table.permute(2, 0, 1).unsqueeze(1),  # (rh, rw, k)
    },
)

DLI14 = NameMap(
    source="dli14",
    layout="LambdaResNet of d-li14",
    stage=r"layer([1-4])\.(\d+)\.",
    outside=TORCHVISION.outside,
    block={
        "conv1": "conv1",
        "bn1": "conv1.norm",
        "conv3": "conv3",
        "bn3": "conv3.norm",
        "downsample.0": "shortcut",
        "downsample.1": "shortcut.norm",
        "conv2.conv_qkv.weight": tuple(f"{part}.weight" for part in SPLIT_QKV),
        "conv2.norm_q": "lambda_layer.query_norm",
        "conv2.norm_v": "lambda_layer.value_norm",
        "conv2.lambda_conv.weight": "lambda_layer.embedding",
        "conv2.lambda_conv.bias": "lambda_layer.position_bias",
        "bn2": "lambda_norm",
    },
    reshape={"conv2.lambda_conv.weight": lambda kernel: kernel.squeeze(2)},  # (k, u, 1, r, r)
)

_CAFFE2_BRANCHES = {
    "branch1": "shortcut", "branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3",
}  # fmt: skip

CAFFE2 = NameMap(
    source="detectron2",
    layout="ResNet of MSRA under Caffe2's names",
    stage=r"res([2-5])_(\d+)_",
    first_stage=2,
    separator="_",
    outside={
        "conv1": "stem.conv1",
        "res_conv1_bn": "stem.conv1.norm",
        "conv1_bn": "stem.conv1.norm",
        "fc1000": "linear",
        "pred": "linear",
    },
    block={
        **_CAFFE2_BRANCHES,
        **{f"{name}_bn": f"{module}.norm" for name, module in _CAFFE2_BRANCHES.items()},
    },
    leaves={
        **{"w": "weight", "b": "bias"},
        **{"gamma": "weight", "beta": "bias", "s": "weight"},
        **{"running_mean": "running_mean", "rm": "running_mean"},
        **{"running_var": "running_var", "riv": "running_var"},
    },
)

NAME_MAPS = (TORCHVISION, TIMM_RESNET_RS, TIMM_LAMBDA, DLI14, CAFFE2)
"""The maps of all sources. If two match equally many names of a file, the first one is taken."""
