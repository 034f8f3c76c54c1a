"""Under torch.compile, torch.jit.trace and torch.func: one graph, any size, the same numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from backbone_helpers import image, randomise
from torch import Tensor

from lambda_det.backbone import LambdaResNet, attach_image_sizes, build_lambda_resnet
from lambda_det.layers import LambdaLayer

pytestmark = pytest.mark.slow

# SE in both stages, λ in a strided block.
SMALL = {"lambda_blocks": {"res3": [1]}, "out_features": ("res2", "res3"), "scope": 5}


@pytest.fixture(scope="module")
def small() -> LambdaResNet:
    backbone = build_lambda_resnet(26, "lambda", query_depth=4, **SMALL)
    randomise(backbone)
    return backbone


@pytest.fixture(scope="module")
def smaller() -> LambdaResNet:
    """SE and λ in one stage: compiling takes long."""
    lambda_blocks = {"res2": [2], "res3": [], "res4": [], "res5": []}
    backbone = build_lambda_resnet(
        26, "lambda", lambda_blocks=lambda_blocks, out_features=("res2",), scope=5, query_depth=4,
        mask_padding=True,
    )  # fmt: skip
    randomise(backbone)
    return backbone


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_one_graph_for_all_sizes(smaller, training: bool) -> None:
    """Large enough that PyTorch's own convolution takes one way for all of them."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    network = copy.deepcopy(smaller).train(training)
    compiled = torch.compile(network, backend=backend, fullgraph=True, dynamic=True)
    for height, width in ((96, 128), (101, 131)):
        x = image(1, 3, height, width)
        wanted = copy.deepcopy(network)(x)
        for name, output in compiled(x).items():
            torch.testing.assert_close(output, wanted[name], rtol=1e-4, atol=1e-4)
    assert len(graphs) == 1
    if training:  # BN sees the padding
        return
    for sizes in ([(90, 100), (96, 70)], [(96, 128), (33, 128)]):  # one graph more, with masks
        x = image(2, 3, 96, 128)
        for one, (rows, columns) in zip(x, sizes, strict=True):
            one[:, rows:] = one[:, :, columns:] = 0
        wanted = network(attach_image_sizes(x, sizes))["res2"]
        torch.testing.assert_close(compiled(x)["res2"], wanted, rtol=1e-4, atol=1e-4)
    assert len(graphs) == 2


def test_compiled_training_step_with_checkpointing(smaller) -> None:
    torch._dynamo.reset()
    networks = [copy.deepcopy(smaller).train() for _ in range(2)]
    for stage in networks[1].stages:
        stage.checkpointing = True
    compiled = torch.compile(networks[1], backend="aot_eager", fullgraph=True)
    x = image(2, 3, 32, 48)
    for network in (networks[0], compiled):
        sum(output.square().mean() for output in network(x).values()).backward()
    for own, other in zip(networks[1].parameters(), networks[0].parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-3, atol=1e-5)
    for own, other in zip(networks[1].buffers(), networks[0].buffers(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


@pytest.fixture
def doubles(small) -> LambdaResNet:
    return copy.deepcopy(small).double().eval()


def test_gradients_of_torch_func(doubles) -> None:
    x = image(1, 3, 24, 31).double()
    parameters = {name: p.detach() for name, p in doubles.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        outputs = torch.func.functional_call(doubles, parameters, (x,))
        return sum(output.square().mean() for output in outputs.values())

    found = torch.func.grad(loss)(parameters)
    loss(dict(doubles.named_parameters())).backward()
    for name, parameter in doubles.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-9, atol=1e-12)


def test_directions_and_images_of_torch_func(doubles) -> None:
    x, direction = image(2, 3, 24, 31).double(), image(2, 3, 24, 31, seed=1).double()
    with torch.no_grad():
        both = torch.func.vmap(lambda one: doubles(one[None])["res3"][0])(x)
        torch.testing.assert_close(both, doubles(x)["res3"], rtol=1e-9, atol=1e-9)
        step = 1e-6 * direction
        wanted = (doubles(x + step)["res3"] - doubles(x - step)["res3"]) / 2e-6
    _, slope = torch.func.jvp(lambda x: doubles(x)["res3"], (x,), (direction,))
    assert (slope - wanted).norm() < 1e-6 * wanted.norm()


TRACED = {
    "rs": {"freeze_at": 2, "drop_path_rate": 0.5},
    "v1": {"stem": "v1", "activation": "silu", "norm": "GN", "key_normalizer": None},
    "tiered": {"stem": "tiered", "lambda_pool": 2, "content": False, "se_stages": ()},
    "global": {"scope": "global", "max_size": (96, 96), "intra_depth": 2, "position_bias": True},
    "content": {"position": False, "key_normalizer": "l2", "query_normalizer": "softmax"},
    "classifier": {"num_classes": 5, "out_features": ("stem", "linear")},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TRACED)
def test_a_trace_serves_other_sizes(name: str) -> None:
    backbone = build_lambda_resnet(26, "lambda", query_depth=4, **(SMALL | TRACED[name]))
    randomise(backbone)
    traced = torch.jit.trace(backbone.eval(), image(1, 3, 64, 64), strict=False, check_trace=False)
    for size in ((2, 3, 64, 64), (2, 3, 45, 71), (1, 3, 33, 90)):
        x = image(*size)
        with torch.no_grad():
            wanted, found = backbone(x), traced(x)
        assert list(found) == list(wanted)
        for key, output in found.items():
            torch.testing.assert_close(output, wanted[key], rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["auto", "banded", "reference", "triton"])
def test_a_trace_has_one_convolution_whatever_the_back_end(backend: str) -> None:
    layer = LambdaLayer(16, query_depth=4, scope=7, backend=backend).eval()
    with torch.no_grad():
        traced = torch.jit.trace(layer, image(1, 16, 4, 5), check_trace=False)
        graph = str(traced.inlined_graph)
        assert graph.count("aten::_convolution") == 4 and "banded" not in graph
        for shape in ((1, 16, 4, 5), (2, 16, 9, 3), (1, 16, 12, 20)):
            wanted = layer(image(*shape))
            torch.testing.assert_close(traced(image(*shape)), wanted, rtol=1e-4, atol=1e-5)
