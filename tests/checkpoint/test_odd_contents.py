"""Files whose weights stand beside other things, or are of types that PyTorch does not compute."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from lambda_det.checkpoint.translation import read_and_translate, translate
from lambda_det.errors import InputError

NAMES = [f"layer{stage}.0.conv{i}.weight" for stage in (1, 2, 3, 4) for i in (1, 3)]
NETWORK = {name: torch.ones(3) for name in NAMES}
VALUE = torch.tensor(0.5)


@pytest.mark.parametrize(
    ("content", "container"),
    [
        ({"model": {"name": "resnet50"}, "state_dict": NETWORK}, "state_dict"),
        ({"ema": {"decay": 0.999}, "model": NETWORK}, "model"),
        ({"ema": {"decay": VALUE, "updates": VALUE}, "model": NETWORK}, "model"),
        ({"model": {"x": VALUE}, "state_dict": NETWORK}, "state_dict"),
        ({"model": {"x": {"y": VALUE}}, "state_dict": {"teacher": NETWORK}}, "teacher"),
        ({"ema": {"module": NETWORK}, "model": NETWORK}, "module"),
        ({"module": {"decay": VALUE}, "net": {"model": NETWORK}}, "module"),
        (NETWORK | {"ema": {"decay": 0.999}}, ""),
    ],
)
def test_the_container_with_a_network_is_taken(content: dict, container: str) -> None:
    found = translate("w.pth", content)
    assert found.container == container
    assert (len(found.tensors) == len(NAMES)) == (found.layout is not None)


def test_a_container_inside_itself() -> None:
    content: dict = {"x": 1}
    content["model"] = content["ema"] = content
    with pytest.raises(InputError, match=r"^w\.pth: contains no weights"):
        translate("w.pth", content)
    deep: dict = {"w": VALUE}
    for _ in range(5000):
        deep = {"x": deep}
    assert len(translate("w.pth", {"model": deep, "state_dict": NETWORK}).tensors) == len(NAMES)


def test_types_of_numbers_that_pytorch_does_not_have(tmp_path: Path) -> None:
    """Another byte order, which protocol 5 keeps, and long numbers."""
    arrays = {name: np.arange(3, dtype=">f4") for name in NAMES}
    content = arrays | {"fc.weight": np.ones(2, np.longdouble)}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": content}, protocol=5))
    found = read_and_translate(str(tmp_path / "w.pkl"))
    assert all(found.tensors[n].tolist() == [0, 1, 2] for n in found.tensors if n[:3] == "res")
    assert found.tensors["linear.weight"].tolist() == [1, 1]
    beside = {"state_dict": NETWORK, "best": np.longdouble(1), "all": np.ones(2, np.longdouble)}
    assert len(translate("w.pth", beside).tensors) == len(NAMES)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_types_that_nothing_is_computed_in_are_named(name: str, tmp_path: Path) -> None:
    torch.save(NETWORK | {NAMES[2]: torch.ones(3).to(getattr(torch, name))}, tmp_path / "w.pth")
    with pytest.raises(InputError) as error:
        read_and_translate(str(tmp_path / "w.pth"))
    assert str(error.value).endswith(
        f"w.pth: {NAMES[2]} has the type {name}; save it as one of float32, float64, float16, "
        "bfloat16"
    )


@pytest.mark.parametrize("attribute", ["items", "keys", "values", "get", "__iter__"])
def test_a_dict_whose_methods_are_numbers(attribute: str) -> None:
    """A pickle can set the attributes of an OrderedDict."""
    state = OrderedDict(NETWORK)
    outer = OrderedDict(model=state, lambda_det=OrderedDict(hidden={}, images=None))
    for each in (state, outer, outer["lambda_det"]):
        setattr(each, attribute, 1)
    assert len(translate("w.pth", outer).tensors) == len(NAMES)
    assert len(translate("w.pth", state).tensors) == len(NAMES)


def test_shapes_that_no_network_has() -> None:
    layer = "layer4.0.conv2."
    names = ("conv_qkv.weight", "norm_q.weight", "norm_v.weight", "lambda_conv.bias")
    theirs = {layer + name: torch.tensor(1.0) for name in names}
    with pytest.raises(InputError, match=r"'layer4\.0\.conv2\.conv_qkv\.weight' of the shape \(\)"):
        translate("w.pth", theirs | {"layer1.0.conv1.weight": torch.tensor(1.0)})
    found = translate("w.pth", {n: torch.tensor(1.0) for n in ("conv1.weight", *NAMES)})
    with pytest.raises(InputError):
        found.architecture()
