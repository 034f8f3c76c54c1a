"""FLOPs of a network, with lambda layers and those of layers/attention.py counted by formulas.

As in fvcore, a multiply-add is one FLOP, and a position of a convolution or a position lambda is
charged the whole window, also where that extends beyond the feature map. Convolutions, linear
layers, matrix products and the sums of lambda layers are counted. Norms (which can be folded into
convolutions for inference), activations, pooling and additions are not.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping

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
from torch.utils.flop_counter import FlopCounterMode

from lambda_det.layers import LambdaLayer
from lambda_det.layers.relative_attention import SpatialLayer

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


def count_flops(model: nn.Module, *inputs: object) -> dict[str, Counter[str]]:
    """Count the FLOPs of one forward pass by module and operator.

    The model may be on the meta device, so that nothing is computed. The counts are those of
    :class:`LambdaFlopCountAnalysis`, which traces a real forward pass.

    Args:
        model: any network.
        inputs: the model's inputs, on its device.

    Returns:
        Module name (``""`` = the whole model) -> operator -> FLOPs.
    """
    with (
        recorded_sizes(model) as sizes,
        torch.no_grad(),
        FlopCounterMode(display=False) as counter,
    ):
        model(*inputs)
    # FlopCounterMode counts two FLOPs per multiply-add and puts the model's class before every
    # name. A name without a dot is the model's, whose counts "Global" has too, or that of a module
    # whose parent is unknown.
    counts = {
        "" if name == "Global" else name.partition(".")[2]: Counter(
            {str(op): flops // 2 for op, flops in ops.items()}
        )
        for name, ops in counter.get_flop_counts().items()
        if name == "Global" or "." in name
    }
    counts.setdefault("", Counter())
    _count_by_formula(model, counts, sizes)
    return counts


class LambdaFlopCountAnalysis(FlopCountAnalysis):
    """fvcore's FlopCountAnalysis with the same layers counted by formulas.

    It has the methods of its base class: ``total()``, ``by_module()``, and works with
    ``fvcore.nn.flop_count_table``. The base class counts the operators of the back end that runs,
    so its result depends on the back end; it also rounds the count of an einsum to four digits.

    Args:
        model: any network.
        inputs: the model's input, or a tuple of its inputs.
    """

    def __init__(self, model: nn.Module, inputs: Tensor | tuple[Tensor, ...]) -> None:
        super().__init__(model, inputs)
        # fvcore's default handles also count norms, and set_op_handle(None) does not remove them.
        self.clear_op_handles()
        self.set_op_handle(**_MULTIPLY_ADDS)
        self.set_op_handle(**{f"aten::{name}": None for name in _NOT_COUNTED})

    def _analyze(self):
        if self._stats is None:
            with recorded_sizes(self._model) as sizes:
                stats = super()._analyze()
            _count_by_formula(self._model, stats.counts, sizes)
        return self._stats


def lambda_layers(model: nn.Module) -> dict[str, LambdaLayer]:
    """Return the lambda layers of a model by their module names."""
    modules = model.named_modules()
    return {name: module for name, module in modules if isinstance(module, LambdaLayer)}


def layers_with_formula(model: nn.Module) -> dict[str, LambdaLayer | SpatialLayer]:
    """Return the layers of a model that are counted by formulas, by their module names."""
    modules = model.named_modules()
    return {name: m for name, m in modules if isinstance(m, LambdaLayer | SpatialLayer)}


@contextlib.contextmanager
def recorded_sizes(model: nn.Module) -> Iterator[Sizes]:
    """Record the input shapes of :func:`layers_with_formula` that run inside the ``with`` block.

    Yields:
        Module name -> shapes, one for each time that the layer runs. The dict fills up meanwhile.
    """
    sizes: Sizes = {}

    def recorder(name: str):
        def record(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            sizes.setdefault(name, []).append(tuple(int(side) for side in inputs[0].shape))

        return record

    handles = [
        layer.register_forward_pre_hook(recorder(name))
        for name, layer in layers_with_formula(model).items()
    ]
    try:
        yield sizes
    finally:
        for handle in handles:
            handle.remove()


def _count_by_formula(model: nn.Module, counts: dict[str, Counter[str]], sizes: Sizes) -> None:
    """Replace the counted operators of the sums of layers by their formulas.

    The operators of the sums are those of a layer that do not belong to the modules in it (the
    convolutions). They are replaced in the layer and in every module that contains it.

    Args:
        model: the network.
        counts: module name -> operator -> multiply-adds; changed in place.
        sizes: what :func:`recorded_sizes` recorded.
    """
    for name, layer in layers_with_formula(model).items():
        if name not in sizes:
            continue
        own = Counter(counts.get(name, {}))
        for inner, module in layer.named_modules():
            if inner and next(module.children(), None) is None:
                own.subtract(counts.get(".".join(filter(None, (name, inner))), {}))
        formula: Counter[str] = Counter()
        for batch, _, height, width in sizes[name]:
            sums = layer.multiply_adds(height, width)
            formula.update({op: batch * count for op, count in sums.items()})
        for module in _with_parents(name):
            total = counts.setdefault(module, Counter())
            total.subtract(own)
            total.update(formula)
    for module, ops in counts.items():
        counts[module] = Counter({op: int(count) for op, count in ops.items() if count})


def _with_parents(name: str) -> list[str]:
    """Return the names of a module's parents and its own: ``"a.b"`` gives ``["", "a", "a.b"]``."""
    parts = name.split(".") if name else []
    return [".".join(parts[:end]) for end in range(len(parts) + 1)]


def total_flops(counts: Mapping[str, Counter[str]], module: str = "") -> int:
    """Sum the FLOPs of a module in the result of :func:`count_flops`; 0 if it did not run."""
    return sum(counts.get(module, {}).values())
