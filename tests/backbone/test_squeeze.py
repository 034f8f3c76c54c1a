"""Squeeze-and-excitation and shortcut against torchvision's: values, gradients, types."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import SqueezeExcitation

from lambda_det.backbone import squeeze
from lambda_det.backbone.blocks import LambdaBottleneck
from lambda_det.backbone.squeeze import SqueezeExcite, as_kept


def pair(channels: int = 6) -> tuple[SqueezeExcite, SqueezeExcitation]:
    torch.manual_seed(0)
    ours, theirs = SqueezeExcite(channels, 3).double(), SqueezeExcitation(channels, 3).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def inputs(*shape: int, layout=torch.contiguous_format) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    numbers = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    x, shortcut, weight = (t.clone(memory_format=layout) for t in numbers)
    return x.requires_grad_(), shortcut.requires_grad_(), weight


@pytest.fixture(params=[2**20, 200], ids=["", "small-parts"])
def part_size(request, monkeypatch) -> None:
    monkeypatch.setitem(squeeze._PART_BYTES, "cpu", request.param)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("size", [(2, 6, 5, 7), (1, 6, 3, 1), (3, 6, 1, 1)], ids=str)
def test_equals_torchvisions(part_size, size, layout) -> None:
    ours, theirs = pair()
    x, shortcut, weight = inputs(*size, layout=layout)
    found = [
        [output, *torch.autograd.grad(output, [x, shortcut, *module.parameters()], weight)]
        for module, output in ((ours, ours(x, shortcut)), (theirs, theirs(x) + shortcut))
    ]
    assert found[0][0].is_contiguous(memory_format=layout)
    for own, wanted in zip(*found, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_without_gradients() -> None:
    ours, theirs = pair()
    x, shortcut, _ = inputs(2, 6, 5, 7)
    with torch.no_grad():
        wanted, before = theirs(x) + shortcut, shortcut.clone()
        output = ours(x.clone(), shortcut)
    torch.testing.assert_close(output, wanted, rtol=1e-12, atol=1e-12)
    assert torch.equal(shortcut, before)


def batch_norm(channels: int = 6, **arguments) -> nn.BatchNorm2d:
    """In float64, far from 0 and 1."""
    norm = nn.BatchNorm2d(channels, **arguments).double()
    if norm.affine:
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("behind", [True, False], ids=["BN", "alone"])
def test_second_derivative(behind: bool) -> None:
    ours, _ = pair(2)
    norm = batch_norm(2) if behind else nn.Identity()
    x, shortcut, _ = inputs(2, 2, 2, 3)
    parameters = [*ours.parameters(), *norm.parameters()]

    def function(x: Tensor, shortcut: Tensor, *_parameters: Tensor) -> Tensor:
        return ours(norm(x), shortcut, norm)

    assert torch.autograd.gradgradcheck(function, (x, shortcut, *parameters))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("norm", ["BN", "eval", "affine", "GN", "offset"])
@pytest.mark.parametrize("size", [(2, 6, 5, 7), (1, 6, 5, 7), (2, 6, 1, 7), (1, 6, 7, 1)], ids=str)
def test_behind_a_norm(part_size, size: tuple, norm: str, layout) -> None:
    ours, theirs = pair()
    module = nn.GroupNorm(3, 6).double() if norm == "GN" else batch_norm(affine=norm != "affine")
    module.train(norm != "eval")
    x, shortcut, weight = inputs(*size, layout=layout)
    given = x + 1000 if norm == "offset" else x
    found = []
    for se in (ours, theirs):
        normed = module(given)
        output = se(normed, shortcut, module) if se is ours else se(normed) + shortcut
        leaves = [x, shortcut, *se.parameters(), *module.parameters()]
        found.append([output, *torch.autograd.grad(output, leaves, weight)])
    for own, wanted in zip(*found, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-9, atol=1e-9)


@contextlib.contextmanager
def kept_storages() -> Iterator[dict[int, int]]:
    """Address -> bytes of what autograd keeps from the block."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, as_kept):
        yield kept


def test_output_of_a_norm_is_not_kept() -> None:
    ours, _ = pair()
    norm = batch_norm()
    x, shortcut, _ = inputs(2, 6, 50, 70)
    with kept_storages() as kept:
        normed = norm(x)
        output = ours(normed, shortcut, norm).relu_()
    assert 2 * x.nbytes <= sum(kept.values()) < 2.02 * x.nbytes  # the norm's input, relu's output
    assert output.shape == x.shape


def trained_block(run: Callable) -> tuple[list[Tensor], int]:
    """All gradients of a block in training, and how often its last norm was computed."""
    torch.manual_seed(0)
    block = LambdaBottleneck(16, 16, bottleneck_channels=4, se_ratio=0.25).double()
    nn.init.uniform_(block.conv3.norm.weight)
    x = torch.randn(2, 16, 6, 7, dtype=torch.float64, requires_grad=True)
    run(block, x).square().sum().backward()
    gradients = [x.grad, *(parameter.grad for parameter in block.parameters())]
    return gradients, int(block.conv3.norm.num_batches_tracked)


@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
def test_checkpointing_computes_a_block_twice_and_no_more(reentrant: bool) -> None:
    wanted, once = trained_block(lambda block, x: block(x))
    found, twice = trained_block(lambda block, x: checkpoint(block, x, use_reentrant=reentrant))
    assert (once, twice) == (1, 2)
    for own, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)


def test_what_is_offloaded_is_not_read_back() -> None:
    wanted, _ = trained_block(lambda block, x: block(x))

    def offloaded(block: nn.Module, x: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (t.clone(),), unpack):
            output = block(x)
        assert unpacked == []
        return output

    def unpack(packed: tuple[Tensor]) -> Tensor:
        unpacked.append(packed)
        return packed[0]

    unpacked: list = []
    found, _ = trained_block(offloaded)
    assert unpacked
    for own, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("frozen", ["x", "shortcut", "module"])
def test_only_what_needs_a_gradient_gets_one(frozen: str) -> None:
    ours, theirs = pair()
    x, shortcut, weight = inputs(2, 6, 5, 7)
    leaves = {"x": x, "shortcut": shortcut, "module": ours.fc1.weight}
    wanted_leaves = leaves | {"module": theirs.fc1.weight}
    for parts in (leaves, wanted_leaves):
        parts[frozen].requires_grad_(False)
    ours.requires_grad_(frozen != "module")
    theirs.requires_grad_(frozen != "module")
    names = [name for name in leaves if name != frozen]
    found = torch.autograd.grad(ours(x, shortcut), [leaves[n] for n in names], weight)
    wanted = torch.autograd.grad(theirs(x) + shortcut, [wanted_leaves[n] for n in names], weight)
    for own, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_under_autocast(training: bool) -> None:
    ours, theirs = pair()
    x, shortcut, _ = inputs(2, 6, 9, 11)
    expected = theirs(x) + shortcut
    ours.float()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.set_grad_enabled(training):
        output = ours(x.bfloat16(), shortcut.bfloat16())
    assert output.dtype == torch.bfloat16
    assert (output.double() - expected).norm() < 0.01 * expected.norm()
    if training:
        gradient = torch.autograd.grad(output.float().sum(), x)[0]
        wanted = torch.autograd.grad(expected.sum(), x)[0]
        assert (gradient - wanted).norm() < 0.02 * wanted.norm()


def test_compiles_to_one_graph() -> None:
    ours, _ = pair()
    x, shortcut, _ = inputs(2, 6, 5, 7)
    compiled = torch.compile(ours, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, shortcut), ours(x, shortcut))


@pytest.mark.filterwarnings("ignore")
def test_traces_to_operators_of_pytorch() -> None:
    ours, _ = pair()
    x, shortcut, _ = inputs(2, 6, 5, 7)
    traced = torch.jit.trace(ours, (x, shortcut))
    assert "PythonOp" not in str(traced.graph)
    torch.testing.assert_close(traced(x, shortcut), ours(x, shortcut))


def test_nothing_but_its_input_is_kept() -> None:
    ours, _ = pair()
    x, shortcut, _ = inputs(2, 6, 50, 70)
    with kept_storages() as kept:
        output = ours(x, shortcut)
    assert x.nbytes <= sum(kept.values()) < 1.01 * x.nbytes
    assert output.shape == x.shape
