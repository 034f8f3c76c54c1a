"""What "auto" takes, and that it changes nothing but the time."""

from __future__ import annotations

import pytest
import torch

from lambda_det.layers import LambdaLayer, position_lambda
from lambda_det.layers import choice as choice_module
from lambda_det.layers.choice import choose_backend, expected_ms

CPU = {"reference", "conv", "banded"}


def shapes(n, v, height, width, *, h=4, k=16, u=1, window=(23, 23), device="meta"):
    make = lambda *shape: torch.zeros(shape, device=device)  # noqa: E731
    return make(n, h, k, height, width), make(n, u, v, height, width), make(k, u, *window)


@pytest.fixture(params=[1, 2])
def threads(request, monkeypatch) -> int:
    monkeypatch.setattr(choice_module, "_threads", lambda: request.param)
    return request.param


@pytest.fixture
def one_thread(monkeypatch) -> None:
    """The choice between small shapes is another one on a machine of many cores."""
    monkeypatch.setattr(choice_module, "_threads", lambda: 1)


# Shapes of the measurement whose forms differ by a fifth or more on both numbers of threads.
TRAINING = [
    ((1, 32, 100, 168), {}, "banded"),
    ((2, 64, 50, 84), {}, "banded"),
    ((2, 128, 25, 42), {}, "banded"),
    ((1, 64, 14, 14), {}, "banded"),
    ((1, 64, 50, 84), {"window": (7, 7)}, "banded"),
    ((1, 64, 25, 42), {"u": 4}, "banded"),
    ((1, 128, 25, 42), {"window": (49, 83)}, "banded"),
    ((1, 64, 4, 4), {"window": (7, 7)}, "conv"),
]
INFERENCE = [
    ((2, 64, 50, 84), {}, "banded"),
    ((2, 128, 25, 42), {}, "banded"),
    ((1, 256, 50, 84), {"h": 1}, "banded"),
    ((1, 128, 25, 42), {"window": (49, 83)}, "banded"),
    ((1, 16, 56, 56), {}, "conv"),
    ((1, 32, 50, 84), {"h": 8}, "conv"),
    ((1, 16, 25, 42), {"h": 16}, "conv"),
    ((1, 64, 16, 16), {"window": (31, 31)}, "conv"),
]


@pytest.mark.parametrize(("sizes", "others", "faster"), TRAINING)
def test_training_takes_what_was_faster(threads, sizes, others, faster) -> None:
    query, value, embedding = shapes(*sizes, **others)
    assert choose_backend(query, value, embedding.requires_grad_(), CPU) == faster


@pytest.mark.parametrize(("sizes", "others", "faster"), INFERENCE)
def test_inference_takes_what_was_faster(threads, sizes, others, faster) -> None:
    query, value, embedding = shapes(*sizes, **others)
    assert choose_backend(query, value, embedding, CPU) == faster
    with torch.no_grad():
        assert choose_backend(query, value, embedding.requires_grad_(), CPU) == faster


def test_more_work_is_never_expected_to_take_less_time() -> None:
    small = ((1, 4, 16, 20, 30), (1, 32), (9, 9))
    larger = [
        ((2, 4, 16, 20, 30), (1, 32), (9, 9)),
        ((1, 8, 16, 20, 30), (1, 32), (9, 9)),
        ((1, 4, 32, 20, 30), (1, 32), (9, 9)),
        ((1, 4, 16, 40, 30), (1, 32), (9, 9)),
        ((1, 4, 16, 20, 60), (1, 32), (9, 9)),
        ((1, 4, 16, 20, 30), (2, 32), (9, 9)),
        ((1, 4, 16, 20, 30), (1, 64), (9, 9)),
        ((1, 4, 16, 20, 30), (1, 32), (19, 9)),
        ((1, 4, 16, 20, 30), (1, 32), (9, 19)),
    ]
    for training in (False, True):
        base = expected_ms(*small, training, 1)
        for sizes in larger:
            more = expected_ms(*sizes, training, 1)
            # The convolution does not know of heads.
            assert more[1] > base[1] and (more[0] > base[0] or sizes[0][1] == 8)
        assert max(expected_ms(*small, training, 2)) < max(base)


def test_without_the_banded_back_end() -> None:
    query, value, embedding = shapes(2, 64, 50, 84)
    assert choose_backend(query, value, embedding.requires_grad_(), {"reference", "conv"}) == "conv"


class OnGpu:
    """As much of a CUDA tensor as the choice looks at before any other."""

    is_cuda = True


@pytest.mark.parametrize("there", [CPU, CPU | {"triton"}])
def test_on_a_gpu(there: set[str]) -> None:
    """What was not timed there is not taken unasked."""
    assert choose_backend(OnGpu(), OnGpu(), OnGpu(), there) == "conv"


def test_auto_is_one_of_the_back_ends(one_thread) -> None:
    generator = torch.Generator().manual_seed(0)
    for sizes, others in (((1, 2, 4, 4), {"window": (7, 7)}), ((1, 16, 9, 30), {"h": 2})):
        inputs = [
            torch.randn(t.shape, generator=generator, requires_grad=True)
            for t in shapes(*sizes, **others)
        ]
        taken = choose_backend(*inputs, CPU)
        assert taken == ("banded" if sizes[1] == 16 else "conv")
        expected = position_lambda(*inputs, backend=taken)
        assert torch.equal(position_lambda(*inputs, backend="auto"), expected)


@pytest.mark.filterwarnings("ignore")
def test_a_graph_that_leaves_python_has_operators_of_pytorch_only() -> None:
    layer = LambdaLayer(16, query_depth=4, scope=5).eval()
    x = torch.randn(1, 16, 10, 30)
    traced = str(torch.jit.trace(layer, x).inlined_graph)
    exported = str(torch.export.export(layer, (x,)).graph)
    for graph in (traced, exported):
        assert "conv" in graph and "position_lambda_banded" not in graph


def test_compiles_to_one_graph_for_all_sizes(one_thread) -> None:
    torch.manual_seed(0)
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(position_lambda, backend=backend, fullgraph=True, dynamic=True)
    for width in (20, 30, 41):
        inputs = [torch.randn(t.shape) for t in shapes(1, 32, 9, width, h=2, window=(7, 7))]
        inputs[1].requires_grad_()
        torch.testing.assert_close(compiled(*inputs), position_lambda(*inputs))
    assert len(graphs) == 1 and "position_lambda_banded" in graphs[0].code
