"""torch.compile takes a whole backbone, in training, as one graph: with padding and without."""

from __future__ import annotations

import copy

import pytest
import torch
from backbone_helpers import image, randomise

from lambda_det.backbone import attach_image_sizes, build_lambda_resnet

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("with_padding", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("variant", ["resnet", "se", "lambda"])
def test_a_backbone_is_one_graph(variant: str, with_padding: bool) -> None:
    torch._dynamo.reset()
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    network = build_lambda_resnet(50, variant, mask_padding=True, query_depth=4, scope=5).train()
    randomise(network)
    compiled = torch.compile(copy.deepcopy(network), backend=backend, fullgraph=True)
    x = image(2, 3, 64, 96)
    if with_padding:
        attach_image_sizes(x, [(64, 70), (33, 96)])
    wanted, found = network(x), compiled(x)
    assert list(found) == ["res2", "res3", "res4", "res5"]
    for name, output in found.items():
        assert torch.equal(output, wanted[name]), name
        assert output.requires_grad
    for _ in range(2):  # and no graph more for the next step
        compiled(x)
    assert len(graphs) == 1


@pytest.mark.parametrize("variant", ["se", "lambda"])
def test_its_training_step_is_one_graph_too(variant: str) -> None:
    """Forward and backward, as AOTAutograd makes them for every compiler behind it."""
    torch._dynamo.reset()
    network = build_lambda_resnet(26, variant, query_depth=4, scope=5).double().train()
    randomise(network)
    other = copy.deepcopy(network)
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    x = image(1, 3, 64, 64).double()
    for model in (network, compiled):
        sum(feature.square().mean() for feature in model(x).values()).backward()
    for (name, own), found in zip(network.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found.grad, own.grad, rtol=1e-8, atol=1e-12, msg=name)
