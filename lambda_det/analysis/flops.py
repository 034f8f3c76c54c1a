"""FLOPs of a network, with its lambda layers counted by closed formulas.

Counted: convolutions, linear layers, matrix products and the sums of lambda layers. Not counted:
norms (folded into convolutions for inference), activations, pooling, additions.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import (
    addmm_flop_jit,
    bmm_flop_jit,
    conv_flop_jit,
    einsum_flop_jit,
    linear_flop_jit,
    matmul_flop_jit,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from lambda_det.analysis.flop_rules import PLAIN, FlopRule, LambdaShape
from lambda_det.errors import InputError
from lambda_det.layers import LambdaLayer

_MULTIPLY_ADDS = {
    "aten::_convolution": conv_flop_jit,
    "aten::addmm": addmm_flop_jit,
    "aten::bmm": bmm_flop_jit,
    "aten::einsum": einsum_flop_jit,
    "aten::linear": linear_flop_jit,
    "aten::matmul": matmul_flop_jit,
    "aten::mm": matmul_flop_jit,
}
_NOT_COUNTED = (
    "adaptive_avg_pool2d add add_ avg_pool2d batch_norm clone div div_ group_norm layer_norm "
    "max_pool2d mean mul mul_ rsub sigmoid silu_ softmax sub unflatten upsample_nearest2d"
).split()

Sizes = dict[str, list[tuple[int, ...]]]


def count_flops(
    model: nn.Module, *inputs: object, rule: FlopRule = PLAIN
) -> dict[str, Counter[str]]:
    """FLOPs of one forward, by module and operator. Nothing is computed on the meta device.

    fvcore's tracing, which :class:`LambdaFlopCountAnalysis` uses, needs a real forward; the numbers
    are the same.

    Args:
        model: any network; lambda layers in it are counted by ``rule``.
        inputs: of the model, on its device.
        rule: how to count.

    Returns:
        Module name (``""`` = the whole) -> operator -> FLOPs.

    Raises:
        InputError: this PyTorch cannot count by module.
    """
    return count_flops_by_rule(model, *inputs, rules=(rule,))[rule]


def count_flops_by_rule(
    model: nn.Module, *inputs: object, rules: Iterable[FlopRule]
) -> dict[FlopRule, dict[str, Counter[str]]]:
    """As :func:`count_flops`, by several rules from one forward."""
    if importlib.util.find_spec("torch.utils.module_tracker") is None:
        raise InputError(f"PyTorch {torch.__version__}: counting by module needs 2.4 or later")
    with (
        recorded_sizes(model) as sizes,
        torch.no_grad(),
        FlopCounterMode(display=False) as counter,
        _NormsPassedOver(),
    ):
        model(*inputs)
    # PyTorch counts a multiply-add twice and puts the class of the model before every name. A
    # module that is in no ModuleList or the like has a name without a dot; the whole has it too.
    counts = {
        "" if name == "Global" else name.partition(".")[2]: Counter(
            {str(op): flops // 2 for op, flops in ops.items()}
        )
        for name, ops in counter.get_flop_counts().items()
        if name == "Global" or "." in name
    }
    counts.setdefault("", Counter())
    by_rule = {rule: {name: Counter(ops) for name, ops in counts.items()} for rule in rules}
    for rule, counted in by_rule.items():
        _count_lambda_layers(model, counted, sizes, rule)
    return by_rule


class _NormsPassedOver(TorchFunctionMode):
    """Norms are not counted, and on the meta device they take a third of a forward."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is functional.batch_norm and args[0].is_meta:
            return args[0]
        return function(*args, **(kwargs or {}))


class LambdaFlopCountAnalysis(FlopCountAnalysis):
    """fvcore's analysis with lambda layers counted by closed formulas instead of by operator.

    Use it as its base class: ``total()``, ``by_module()``, ``fvcore.nn.flop_count_table(...)``.
    fvcore itself sees only the operators of the back end that happens to run, and rounds the count
    of an einsum to four digits.

    Args:
        model, inputs: as for ``FlopCountAnalysis``.
        rule: how to count.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor | tuple[Tensor, ...],
        rule: FlopRule = PLAIN,
    ) -> None:
        super().__init__(model, inputs)
        self._rule = rule
        self.clear_op_handles()  # a handle that is set to None would still count
        self.set_op_handle(**_MULTIPLY_ADDS)
        self.set_op_handle(**{f"aten::{name}": None for name in _NOT_COUNTED})

    def _analyze(self):
        if self._stats is None:
            with recorded_sizes(self._model) as sizes:
                stats = super()._analyze()
            _count_lambda_layers(self._model, stats.counts, sizes, self._rule)
        return self._stats


def lambda_layers(model: nn.Module) -> dict[str, LambdaLayer]:
    modules = model.named_modules()
    return {name: module for name, module in modules if isinstance(module, LambdaLayer)}


@contextlib.contextmanager
def recorded_sizes(model: nn.Module) -> Iterator[Sizes]:
    """Name of every lambda layer that runs -> shapes of its inputs, one for each time."""
    sizes: Sizes = {}

    def recorder(name: str):
        def record(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            sizes.setdefault(name, []).append(tuple(int(side) for side in inputs[0].shape))

        return record

    handles = [
        layer.register_forward_pre_hook(recorder(name))
        for name, layer in lambda_layers(model).items()
    ]
    try:
        yield sizes
    finally:
        for handle in handles:
            handle.remove()


def _count_lambda_layers(
    model: nn.Module, counts: dict[str, Counter[str]], sizes: Sizes, rule: FlopRule
) -> None:
    """Replace, in the lambda layers and all that contain them, the operators of the lambda sums
    (those of a layer that are not its projections') by the closed formula; then apply the rule."""
    for name, layer in lambda_layers(model).items():
        if name not in sizes:
            continue
        own = Counter(counts.get(name, {}))
        for child, _ in layer.named_children():
            own.subtract(counts.get(".".join(filter(None, (name, child))), {}))
        formula: Counter[str] = Counter()
        for batch, _, height, width in sizes[name]:
            sums = LambdaShape.of(layer).sums(height, width, rule)
            formula.update({op: batch * count for op, count in sums.items()})
        for module in _with_parents(name):
            total = counts.setdefault(module, Counter())
            total.subtract(own)
            total.update(formula)
    for module, ops in counts.items():
        counts[module] = Counter(
            {op: int(count) * rule.per_multiply_add for op, count in ops.items() if count}
        )


def _with_parents(name: str) -> list[str]:
    """``"a.b"`` -> ``""``, ``"a"``, ``"a.b"``."""
    parts = name.split(".") if name else []
    return [".".join(parts[:end]) for end in range(len(parts) + 1)]


def total_flops(counts: Mapping[str, Counter[str]], module: str = "") -> int:
    """FLOPs of a module in what :func:`count_flops` returns; 0 for one that did not run."""
    return sum(counts.get(module, {}).values())
