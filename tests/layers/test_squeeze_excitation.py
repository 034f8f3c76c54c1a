"""The gate of squeeze-and-excitation knows nothing of the padding."""

from __future__ import annotations

import pytest
import torch
import torchvision
from layer_helpers import corner_mask, image
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from lambda_det.layers.squeeze_excitation import SqueezeExcitation, masked_mean

SIZE = (5, 7)
SIZES = ([3, 5, 5], [7, 2, 7])  # 3x7, 5x2 and 5x7, padded to 5x7


@pytest.fixture
def layer() -> SqueezeExcitation:
    torch.manual_seed(0)
    return SqueezeExcitation(8, 3).double()


def test_without_a_mask_it_is_torchvisions(layer: SqueezeExcitation) -> None:
    theirs = torchvision.ops.SqueezeExcitation(8, 3).double()
    theirs.load_state_dict(layer.state_dict())
    x = image(2, 8, *SIZE)
    assert torch.equal(layer(x), theirs(x))


@pytest.mark.parametrize("frozen", [(), ("x",), ("fc1.weight", "fc2.bias")], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_gradients_are_torchvisions(layer: SqueezeExcitation, layout, frozen) -> None:
    theirs = torchvision.ops.SqueezeExcitation(8, 3).double()
    theirs.load_state_dict(layer.state_dict())
    weight, found = image(2, 8, *SIZE), []
    for module in (layer, theirs):
        x = image(2, 8, *SIZE).to(memory_format=layout)
        named = {"x": x.requires_grad_(), **dict(module.named_parameters())}
        for name in frozen:
            named[name].requires_grad_(False)
        output = module(x * 1)  # not a leaf
        output.backward(weight.to(memory_format=layout))
        found.append([output, *(tensor.grad for tensor in named.values())])
    for own, other in zip(*found, strict=True):
        assert (own is None) == (other is None)
        if own is not None:
            torch.testing.assert_close(own, other, rtol=1e-13, atol=1e-14)


def test_second_derivatives(layer: SqueezeExcitation) -> None:
    x = image(1, 8, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    gradient.square().sum().backward()
    theirs = torchvision.ops.SqueezeExcitation(8, 3).double()
    theirs.load_state_dict(layer.state_dict())
    (gradient,) = torch.autograd.grad(theirs(x).square().sum(), x, create_graph=True)
    gradient.square().sum().backward()
    for own, other in zip(layer.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)


def test_hooks_count_once_and_weights_of_hooks_train(layer: SqueezeExcitation) -> None:
    theirs, found = torchvision.ops.SqueezeExcitation(8, 3).double(), []
    theirs.load_state_dict(layer.state_dict())
    for module in (layer, theirs):
        adapter = torch.full((3, 1, 1), 0.5, dtype=torch.float64, requires_grad=True)
        module.fc1.weight.register_hook(lambda gradient: 2 * gradient)
        module.fc1.register_forward_hook(lambda _module, _args, output, a=adapter: output * a)
        x = image(2, 8, *SIZE).requires_grad_()
        x.register_hook(lambda gradient: 3 * gradient)
        module(x).square().sum().backward()
        found.append([x.grad, adapter.grad, *(p.grad for p in module.parameters())])
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other)


def test_forward_mode_reaches_its_weights(layer: SqueezeExcitation) -> None:
    x = image(2, 8, *SIZE).requires_grad_()
    weight = layer.fc1.weight.detach()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(weight, torch.ones_like(weight))
        output = torch.func.functional_call(layer, {"fc1.weight": dual}, x)
        tangent = forward_ad.unpack_dual(output).tangent
    step = 1e-6
    plus, minus = (
        torch.func.functional_call(layer, {"fc1.weight": weight + s}, x) for s in (step, -step)
    )
    torch.testing.assert_close(tangent, (plus - minus) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_second_derivatives_under_autocast(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, theirs = SqueezeExcitation(8, 3), torchvision.ops.SqueezeExcitation(8, 3)
    theirs.load_state_dict(layer.state_dict())
    found = []
    for module in (layer, theirs):
        x = image(2, 8, *SIZE).to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = module(x)
        (gradient,) = torch.autograd.grad(output.float().square().sum(), x, create_graph=True)
        gradient.float().square().sum().backward()
        found.append([gradient, x.grad, *(p.grad for p in module.parameters())])
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other, rtol=5e-2, atol=5e-2)


def test_checkpointing_computes_it_twice_and_no_more(layer: SqueezeExcitation) -> None:
    calls = []
    layer.fc1.register_forward_hook(lambda *_: calls.append(1))
    x = image(2, 8, *SIZE).requires_grad_()
    checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert len(calls) == 2


def test_under_autocast_as_torchvisions() -> None:
    torch.manual_seed(0)
    layer, theirs = SqueezeExcitation(8, 3), torchvision.ops.SqueezeExcitation(8, 3)
    theirs.load_state_dict(layer.state_dict())
    found = []
    for module in (layer, theirs):
        x = image(2, 8, *SIZE).bfloat16().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = module(x)
        output.float().square().sum().backward()
        found.append([output, x.grad, *(p.grad for p in module.parameters())])
    for own, other in zip(*found, strict=True):
        assert own.dtype == other.dtype
        torch.testing.assert_close(own, other, rtol=2e-2, atol=2e-2)


def test_no_product_of_the_size_of_the_image_is_stored(layer: SqueezeExcitation) -> None:
    """The backward pass makes one tensor of that size: the gradient of the image."""
    x = image(1, 8, *SIZE).requires_grad_()
    output = layer(x)
    made = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.numel() == x.numel():
                made.append(result.untyped_storage().data_ptr())
            return result

    known = {t.untyped_storage().data_ptr() for t in (x, output)}
    gradient = torch.ones_like(output)
    with Watch():
        torch.autograd.grad(output, x, gradient)
    assert len({*made} - known - {gradient.untyped_storage().data_ptr()}) == 1


def test_mask_equals_the_images_alone(layer: SqueezeExcitation) -> None:
    x = image(3, 8, *SIZE)
    output = layer(x, padding_mask=corner_mask(*SIZES, SIZE))
    for n, (height, width) in enumerate(zip(*SIZES, strict=True)):
        alone = layer(x[n : n + 1, :, :height, :width])
        torch.testing.assert_close(
            output[n : n + 1, :, :height, :width], alone, rtol=1e-12, atol=1e-12
        )
        # Three of the images' rows and columns are missing: torchvision's gate differs.
        if (height, width) != SIZE:
            assert not torch.allclose(layer(x)[n : n + 1, :, :height, :width], alone, rtol=1e-4)


def test_what_the_padding_holds_changes_nothing(layer: SqueezeExcitation) -> None:
    x, mask = image(3, 8, *SIZE).requires_grad_(), corner_mask(*SIZES, SIZE)
    valid = (~mask)[:, None].expand_as(x)
    other = x.detach().masked_fill(mask[:, None], 1e6).requires_grad_()
    outputs = layer(x, padding_mask=mask)[valid], layer(other, padding_mask=mask)[valid]
    assert torch.equal(*outputs)
    gradients = [
        torch.autograd.grad(output.square().sum(), (tensor, *layer.parameters()))
        for output, tensor in zip(outputs, (x, other), strict=True)
    ]
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    assert not gradients[0][0][~valid].any()
    broken = x.detach().masked_fill(mask[:, None], torch.nan)
    assert torch.equal(layer(broken, padding_mask=mask)[valid], outputs[0])


def test_image_that_is_padding_altogether_is_finite(layer: SqueezeExcitation) -> None:
    mask = torch.ones(1, *SIZE, dtype=torch.bool)
    assert layer(image(1, 8, *SIZE), padding_mask=mask).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mean_of_half_types_is_summed_in_float32(dtype: torch.dtype) -> None:
    x = torch.full((1, 2, 64, 64), 100.0, dtype=dtype)
    mask = corner_mask([50], [60], (64, 64))
    assert torch.equal(masked_mean(x, mask), torch.full((1, 2, 1, 1), 100.0, dtype=dtype))
