"""What "auto" takes, and that it changes nothing but the time."""

from __future__ import annotations

import math

import pytest
import torch

from lambda_det.layers import LambdaLayer, choice, native_lambda, position_lambda
from lambda_det.layers.choice import choose_backend


def shapes(n, v, height, width, *, h=4, k=16, u=1, window=(23, 23), device="meta"):
    make = lambda *shape: torch.zeros(shape, device=device)  # noqa: E731
    return make(n, h, k, height, width), make(n, u, v, height, width), make(k, u, *window)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_lambda, "unsupported", lambda *_: "it needs a C++ compiler")


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize(
    ("sizes", "others", "in_training"),
    [
        ((1, 128, 7, 7), {"window": (13, 13)}, "banded"),  # of λ-50 for an image of 224 x 224
        ((1, 64, 25, 42), {"u": 4}, "banded"),  # of a detector
        ((1, 64, 4, 4), {"window": (7, 7)}, "conv"),
    ],
)
def test_training_of_much_work_is_banded(sizes, others, in_training) -> None:
    query, value, embedding = shapes(*sizes, **others)
    assert choose_backend(query, value, embedding) == "conv"
    embedding.requires_grad_()
    assert choose_backend(query, value, embedding) == in_training
    with torch.no_grad():
        assert choose_backend(query, value, embedding) == "conv"


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("axis", ["n", "v", "height", "k", "u"])
def test_every_factor_of_the_work_counts(axis: str) -> None:
    sizes = {"n": 1, "v": 40, "height": 10, "k": 10, "u": 1}
    window, width = (9, 9), 12
    assert math.prod(sizes.values()) * width * 81 < choice.LEAST_PRODUCTS
    for factor, taken in ((1, "conv"), (2, "banded")):
        inputs = shapes(**sizes | {axis: sizes[axis] * factor}, width=width, window=window)
        inputs[0].requires_grad_()
        assert choose_backend(*inputs) == taken


class OnGpu:
    """As much of a CUDA tensor as the choice looks at before any other."""

    is_cuda = True


def test_on_a_gpu() -> None:
    """What was not timed there is not taken unasked."""
    assert choose_backend(OnGpu(), OnGpu(), OnGpu()) == "conv"


@pytest.mark.usefixtures("native_kernels")
def test_where_the_kernels_are_there() -> None:
    for window in ((3, 3), (23, 23)):
        inputs = shapes(1, 4, 5, 6, window=window, device="cpu")
        assert choose_backend(*inputs) == "native"
        inputs[1].requires_grad_()
        assert choose_backend(*inputs) == "native"
        expected = position_lambda(*inputs, backend="native")
        assert torch.equal(position_lambda(*inputs), expected)


@pytest.mark.usefixtures("no_compiler")
def test_auto_is_one_of_the_back_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    for sizes, others in (((1, 2, 4, 4), {"window": (7, 7)}), ((1, 16, 9, 30), {"h": 2})):
        inputs = [
            torch.randn(t.shape, generator=generator, requires_grad=True)
            for t in shapes(*sizes, **others)
        ]
        taken = choose_backend(*inputs)
        assert taken == ("banded" if sizes[1] == 16 else "conv")
        expected = position_lambda(*inputs, backend=taken)
        assert torch.equal(position_lambda(*inputs, backend="auto"), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_exported_graph_has_operators_of_pytorch_only() -> None:
    layer = LambdaLayer(16, query_depth=4, scope=5).eval()
    x = torch.randn(1, 16, 10, 30)
    traced = str(torch.jit.trace(layer, x).inlined_graph)
    exported = str(torch.export.export(layer, (x,)).graph)
    for graph in (traced, exported):
        assert "conv" in graph and "position_lambda_banded" not in graph


@pytest.mark.slow
@pytest.mark.parametrize("taken", ["native", "banded"])
def test_compiles_to_one_graph_for_all_sizes(taken: str, request) -> None:
    torch.compiler.reset()
    if taken == "banded":
        request.getfixturevalue("no_compiler")
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(position_lambda, backend=backend, fullgraph=True, dynamic=True)
    for width in (20, 30, 41):
        inputs = [torch.randn(t.shape) for t in shapes(1, 32, 9, width, h=2, window=(7, 7))]
        inputs[1].requires_grad_()
        torch.testing.assert_close(compiled(*inputs), position_lambda(*inputs))
    assert len(graphs) == 1 and f"position_lambda_{taken}" in graphs[0].code
