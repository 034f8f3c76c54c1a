"""Checkpoints as training frameworks write them: what is not known in them is inert, and the
weights are there."""

from __future__ import annotations

import argparse
import collections
import copy
import dataclasses
import datetime
import enum
import functools
import logging
import os
import pathlib
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from lambda_det.checkpoint.reading import read_file
from lambda_det.checkpoint.translation import TranslatedWeights, read_and_translate, translate
from lambda_det.errors import InputError

MODULE = "framework_of_others"


@pytest.fixture(scope="module")
def network() -> dict[str, torch.Tensor]:
    """A ResNet-50's names, with few numbers each."""
    torch.manual_seed(0)
    state = torchvision.models.resnet50(weights=None).state_dict()
    return {n: torch.rand(3) if t.is_floating_point() else t for n, t in state.items()}


def framework() -> types.ModuleType:
    """Classes of all kinds, in a module that is gone when the file is read."""
    module = types.ModuleType(MODULE)

    class HistoryBuffer:
        def __init__(self) -> None:
            self._log_history, self._statistics = (
                np.arange(3.0),
                {"mean": functools.partial(max, 1)},
            )

    class DictConfig(dict):
        def __setstate__(self, state: object) -> None:
            raise AssertionError("it was called")

        def __getstate__(self) -> object:
            return {"_metadata": 1}

    class Slotted:
        __slots__ = ("value",)

    @dataclasses.dataclass
    class Arguments:
        rate: float = 0.1
        folder: pathlib.PurePath | None = None

    class Phase(enum.Enum):
        TRAIN = "train"

    class Reducing:
        def __reduce__(self) -> object:
            return Reducing, (1, {"a": [2]}), {"x": 1}, iter([1, 2]), iter([("k", 3)])

    class Outer:
        class Inner:
            value = 3

    for each in (HistoryBuffer, DictConfig, Slotted, Arguments, Phase, Reducing, Outer):
        each.__module__, each.__qualname__ = MODULE, each.__name__
        setattr(module, each.__name__, each)
    Outer.Inner.__module__, Outer.Inner.__qualname__ = MODULE, "Outer.Inner"
    module.helper = types.FunctionType(framework.__code__, {}, "helper")
    module.helper.__module__, module.helper.__qualname__ = MODULE, "helper"
    return module


def things(module: types.ModuleType) -> dict[str, object]:
    arguments = module.Arguments(0.1, pathlib.PurePosixPath("/a"))
    slotted = module.Slotted()
    slotted.value = 3
    keyed = {module.Phase.TRAIN: 1, slotted: 2}
    return {
        "history": module.HistoryBuffer(), "cfg": module.DictConfig(lr=0.1), "slotted": slotted,
        "arguments": arguments, "phase": module.Phase.TRAIN, "keyed": keyed,
        "inner": module.Outer.Inner(), "class": module.Outer.Inner, "function": module.helper,
        "partial": functools.partial(module.helper, 1, k=2), "when": datetime.datetime(2024, 1, 1),
        "path": pathlib.PurePosixPath("/a"), "set": {module.Phase.TRAIN}, "range": range(3),
        "deque": collections.deque([1]), "default": collections.defaultdict(list, a=[1]),
        "args": argparse.Namespace(data=pathlib.PurePosixPath("/x")), "slice": slice(1, 2),
        "rng": np.random.RandomState(0), "dates": np.array(["2024-01-01"], "M8[D]"),
        "record": np.zeros(2, [("a", "f4")]), "type": np.dtype("f4"), "dtype": torch.float16,
        "size": torch.Size([1]), "device": torch.device("cpu"), "objects": np.array([None, "a"]),
        "scalar": np.float32(0.5), "text": np.str_("a"), "sparse": torch.eye(2).to_sparse(),
        "generator": torch.get_rng_state(), "reducing": module.Reducing(),
    }  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Iterator:
    """Write a file, with the framework there, and remove the framework."""

    def function(make, *, legacy: bool = False) -> Path:
        module = sys.modules[MODULE] = framework()
        try:
            content = make(module)
            torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
        finally:
            del sys.modules[MODULE]
        return tmp_path / "w.pth"

    return function


def under(prefix: str, tensors: dict, add: float = 0.0) -> dict:
    return {prefix + n: t + add if t.is_floating_point() else t for n, t in tensors.items()}


def no_head(tensors: dict) -> dict:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}


def lightning(module, net):
    return {
        "state_dict": under("model.backbone.", net), "epoch": 1, "global_step": 10,
        "pytorch-lightning_version": "2.4.0", "hyper_parameters": things(module),
        "callbacks": {"ModelCheckpoint": {"dirpath": pathlib.PurePosixPath("/a")}}, "loops": {},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
    }  # fmt: skip


def mmdet(module, net):
    return {
        "meta": {"epoch": 12, "mmengine_version": "0.10.4", "cfg": "text"},
        "state_dict": under("backbone.", no_head(net)) | {"neck.conv.weight": torch.ones(2)},
        "message_hub": {"log_scalars": collections.OrderedDict(loss=module.HistoryBuffer())},
    }  # fmt: skip


def mmdet_ema(module, net):
    """The average is in the model's place, and the last weights are in the average's."""
    raw = under("module.backbone.", no_head(net), 1.0)
    return mmdet(module, net) | {"ema_state_dict": raw | {"steps": torch.tensor(3)}}


FILES = {
    "lightning": lightning,
    "mmdet": mmdet,
    "mmdet_ema": mmdet_ema,
    "timm": lambda module, net: {
        "epoch": 3, "arch": "resnet50", "state_dict": under("", net, 1.0), "version": 2,
        "state_dict_ema": net, "args": argparse.Namespace(**things(module)), "metric": 70.1,
        "optimizer": {}, "amp_scaler": {},
    },
    "hugging_face": lambda module, net: under("timm_model.", net) | {"args": module.Arguments()},
    "compiled": lambda module, net: {"model": under("_orig_mod.module.", net), **things(module)},
    "dino_alone": lambda module, net: {
        "teacher": under("backbone.", no_head(net)) | {"head.mlp.0.weight": torch.ones(2)},
        "optimizer": {"state": {0: {"step": torch.ones(1)}}}, "args": module.Arguments(),
        "dino_loss": {"center": torch.ones(1, 8)},
    },
    "swav": lambda module, net: {
        "state_dict": under("module.", no_head(net)) | {"module.prototypes.weight": torch.ones(2)},
        "optimizer": {}, "amp": None, "args": module.Arguments(),
    },
    "subclass": lambda module, net: module.DictConfig(model=module.DictConfig(net)),
    "parameters": lambda module, net: {
        n: torch.nn.Parameter(t) if t.is_floating_point() else t for n, t in net.items()
    },
    "attributes": lambda module, net: {n: with_attribute(t, module) for n, t in net.items()},
}  # fmt: skip


def with_attribute(tensor: torch.Tensor, module) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.origin = module.Arguments()
    return tensor


def same(found: TranslatedWeights, net: dict) -> None:
    expected = translate("plain", net).tensors
    expected |= {} if "linear.weight" in found.tensors else {"linear.weight": None}
    for name, tensor in expected.items():
        if not name.startswith("linear."):
            assert torch.equal(found.tensors[name], tensor), name
    assert found.tensors.keys() - expected.keys() == set()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", FILES)
def test_weights_are_found_and_equal(kind: str, legacy: bool, network, write, caplog) -> None:
    path = write(lambda module: FILES[kind](module, network), legacy=legacy)
    with caplog.at_level(logging.INFO):
        found = read_and_translate(str(path))
    same(found, network)
    lines = [r.getMessage() for r in caplog.records if "inert stand-ins" in r.getMessage()]
    assert len(lines) == (0 if kind == "parameters" else 1)
    assert all(MODULE in line or "pathlib" in line for line in lines)
    assert MODULE not in sys.modules


@pytest.mark.parametrize("protocol", range(6))
def test_every_kind_of_object_beside_weights_in_a_plain_pickle(protocol: int, tmp_path) -> None:
    module = sys.modules[MODULE] = framework()
    values = {k: v for k, v in things(module).items() if not isinstance(v, torch.Tensor)}
    values.pop("dtype"), values.pop("device"), values.pop("size")
    if protocol < 2:  # these versions of pickle cannot write it
        values = {k: v for k, v in values.items() if k not in ("slotted", "keyed")}
    array = np.arange(6, dtype=">f4").reshape(2, 3)
    content = pickle.dumps({"model": {"w": array}, **values}, protocol=protocol)
    del sys.modules[MODULE]
    (tmp_path / "w.pkl").write_bytes(content)
    found = read_file(str(tmp_path / "w.pkl"), stand_ins=True)
    assert (found["model"]["w"] == array).all()
    assert found["scalar"] == np.float32(0.5) and found["text"] == "a"
    assert list(found["objects"]) == [None, "a"] and dict(found["default"]) == {"a": [1]}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_tensors_are_those_of_torch_load(legacy: bool, tmp_path: Path) -> None:
    base = torch.arange(24.0)
    kinds = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool,
             torch.uint8, torch.complex64]  # fmt: skip
    content = {
        "views": [base, base[3:9].view(2, 3).T, base[::2], base[5]],
        "kinds": [torch.ones(3).to(kind) for kind in kinds],
        "empty": torch.zeros(0, 3),
        "expanded": torch.ones(1).expand(4),
    }
    if not legacy:
        content["new"] = [torch.ones(3).to(k) for k in (torch.uint16, torch.float8_e4m3fn)]
    path = tmp_path / "w.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    found, expected = read_file(str(path)), torch.load(path, weights_only=True)
    for name, value in expected.items():
        pairs = zip(value, found[name], strict=True) if name != "empty" else [(value, found[name])]
        for one, other in pairs:
            assert one.dtype == other.dtype and one.stride() == other.stride()
            assert torch.equal(
                one.view(-1).view(torch.uint8) if one.dtype.itemsize == 1 else one,
                other.view(-1).view(torch.uint8) if one.dtype.itemsize == 1 else other,
            )
    found["views"][0][4] = -1.0  # views of one memory stay so
    assert found["views"][1][1, 0] == -1.0


class Small(torch.nn.Module):
    """Has all that a state dict has: buffers that are kept and one that is not."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.backbone = inner
        self.register_buffer("passing", torch.ones(2), persistent=False)


def test_modules_pickled_whole(tmp_path: Path) -> None:
    net = torchvision.models.resnet50(weights=None)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.set_(torch.rand(3))
    expected = translate("plain", net.state_dict()).tensors
    average = copy.deepcopy(net)
    for number, content in enumerate((Small(net), {"model": net}, {"model": 1, "ema": average})):
        torch.save(content, tmp_path / f"{number}.pth")
        found = read_and_translate(str(tmp_path / f"{number}.pth"))
        assert found.tensors.keys() == expected.keys() and not found.others
        assert all(torch.equal(found.tensors[name], expected[name]) for name in expected)


class Attack:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_code_beside_weights_and_in_their_place_is_not_run(kind: str, tmp_path, caplog) -> None:
    made, path = tmp_path / "made", tmp_path / "w.pth"

    def write(content: object) -> None:
        if kind == "pickle":
            path.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")

    weights = {"w": np.ones(2) if kind == "pickle" else torch.ones(2)}
    write({"model": weights, "extra": Attack(made)})
    with caplog.at_level(logging.INFO):
        found = read_and_translate(str(path))
    assert found.others["w"].tolist() == [1, 1]
    assert f"functions in it: 1 ({os.mkdir.__module__}.mkdir)" in caplog.text
    write({"model": {"w": Attack(made)}})
    with pytest.raises(InputError, match="contains no weights"):
        read_and_translate(str(path))
    write(Attack(made))
    with pytest.raises(InputError, match=f"its content is a {os.mkdir.__module__}.mkdir"):
        read_and_translate(str(path))
    assert not made.exists()


def test_a_tensor_that_is_no_plain_one_is_named(network, tmp_path: Path) -> None:
    torch.save(network | {"x.weight": torch.eye(3).to_sparse()}, tmp_path / "w.pth")
    with pytest.raises(
        InputError, match=r"x\.weight is not a dense tensor \(torch\._utils\._rebui"
    ):
        read_and_translate(str(tmp_path / "w.pth"))
