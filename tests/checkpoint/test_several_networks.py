"""Several networks in one file: they are listed, and one is chosen by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lambda_det.backbone import build_lambda_resnet
from lambda_det.checkpoint import load_weights
from lambda_det.checkpoint.loading import read_weights
from lambda_det.checkpoint.networks import split_network
from lambda_det.checkpoint.rules import LoadingRules
from lambda_det.commands import convert_weights
from lambda_det.errors import InputError

NAMES = ["conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv3.weight", "layer4.2.bn3.bias"]
OURS = {"stem.conv1.weight", "res2.0.conv1.weight", "res2.0.conv3.weight", "res5.2.conv3.norm.bias"}


def network(value: float, prefix: str = "", more: int = 0) -> dict[str, torch.Tensor]:
    """With so many blocks more in one stage."""
    names = [*NAMES, *(f"layer3.{block}.conv3.weight" for block in range(more))]
    return {prefix + name: torch.full((2,), value) for name in names}


FILES = {
    "dino": {
        "student": network(1.0, "module.backbone.") | {"module.head.weight": torch.ones(2)},
        "teacher": network(2.0, "backbone.") | {"head.weight": torch.ones(2)},
        "dino_loss": {"center": torch.ones(2)}, "optimizer": {"state": {}}, "epoch": 3,
    },
    "moco": {
        "state_dict": network(1.0, "module.encoder_q.") | network(2.0, "module.encoder_k.")
        | {"module.queue": torch.ones(2)}, "arch": "resnet50",
    },
    "averaged": {"model": network(1.0), "model_ema": {"module": network(2.0)}},
    "inside": {"net": network(1.0, "encoder_q.") | network(2.0, "encoder_k.")},
    "plain": network(1.0) | network(2.0, "momentum."),
    "depths": {"state_dict": network(1.0, "student.") | network(2.0, "teacher.", 4)},
    "ends": {"state_dict": network(1.0, "backbone.") | network(2.0, "teacher.backbone.", 4)},
    "last": {"state_dict": network(1.0, "model.", 4) | network(2.0, "ema.module.")},
    "one": {"state_dict": network(1.0)},
    "nested": {"state_dict": {"online": network(1.0), "target": {"model": network(2.0)}}},
}  # fmt: skip


def write(folder: Path, kind: str, name: str = "w.pth") -> str:
    torch.save(FILES[kind], folder / name)
    return str(folder / name)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("dino", "student", 1), ("dino", "teacher", 2), ("moco", "encoder_q", 1),
        ("moco", "encoder_k", 2), ("moco", "module.encoder_k", 2), ("averaged", "model", 1),
        ("averaged", "model_ema", 2), ("averaged", None, 2), ("nested", "online", 1),
        ("nested", "target", 2), ("inside", "encoder_k", 2),
        ("plain", ".", 1), ("plain", "momentum", 2), ("ends", "backbone", 1), ("last", None, 2),
        ("depths", "student", 1),
    ],
)  # fmt: skip
def test_the_named_network_is_read(kind: str, name: str, value: float, tmp_path: Path) -> None:
    path = write(tmp_path, kind)
    found = read_weights(path if name is None else f"{path}#{name}")
    assert set(found.tensors) == OURS
    assert all((tensor == value).all() for tensor in found.tensors.values())


@pytest.mark.parametrize(
    ("kind", "listing", "known"),
    [
        ("dino", "'student' (5 tensors), 'teacher' (5 tensors)", "'student', 'teacher'"),
        ("moco", "'module.encoder_q' (4 tensors), 'module.encoder_k' (4 tensors)",
         "'module.encoder_k', 'module.encoder_q'"),
        ("plain", "'.' (4 tensors), 'momentum' (4 tensors)", "'.', 'momentum'"),
        ("depths", "'student' (4 tensors), 'teacher' (8 tensors)", "'student', 'teacher'"),
        ("ends", "'backbone' (4 tensors), 'teacher.backbone' (8 tensors)",
         "'backbone', 'teacher.backbone'"),
        ("nested", "'online' (4 tensors), 'target' (4 tensors)", "'online', 'target'"),
    ],
)  # fmt: skip
def test_they_are_listed(kind: str, listing: str, known: str, tmp_path: Path) -> None:
    path = write(tmp_path, kind)
    with pytest.raises(InputError) as error:
        read_weights(path)
    assert str(error.value) == (
        f"MODEL.WEIGHTS={path!r}: contains several networks: {listing}; choose one with FILE#NAME, "
        "or convert_weights --network NAME"
    )
    with pytest.raises(InputError) as error:
        read_weights(f"{path}#other")
    assert str(error.value) == (
        f"MODEL.WEIGHTS='{path}#other': contains no network 'other'; it contains {known}"
    )


@pytest.mark.parametrize("name", ["teacher", "layer1", "layer3.0"])
def test_one_network_needs_no_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read_weights(f"{write(tmp_path, 'one')}#{name}")
    assert str(error.value).endswith(
        f": contains no network {name!r}; it contains one network, which needs no name: leave out "
        f"'#{name}' (or --network)"
    )


def test_the_res5_of_a_head_is_no_network(tmp_path: Path) -> None:
    """As in detectron2's detectors without FPN."""
    state = {f"backbone.res{stage}.0.conv1.weight": torch.ones(1) for stage in (2, 3, 4)}
    head = {f"roi_heads.res5.{block}.conv1.weight": torch.ones(1) for block in range(9)}
    torch.save(state | head, tmp_path / "w.pth")
    found = read_weights(str(tmp_path / "w.pth"))
    assert len(found.tensors) == 3 and found.others.keys() == head.keys()


def test_a_file_with_the_sign_in_its_name(tmp_path: Path) -> None:
    path = write(tmp_path, "averaged", "run#model")
    assert (read_weights(path).tensors["stem.conv1.weight"] == 2).all()
    assert split_network(path) == (path, None)
    assert split_network(f"{path}#model") == (path, "model")
    (tmp_path / "a#b").mkdir()
    assert split_network(f"{tmp_path}/a#b/none.pth") == (f"{tmp_path}/a#b/none.pth", None)
    assert split_network("timm://resnet50#x") == ("timm://resnet50", "x")
    with pytest.raises(InputError, match="no such file"):
        read_weights(str(tmp_path / "none#model"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A file with a whole network twice, and what ``teacher`` is."""
    state = build_lambda_resnet(50, "resnet", stem="v1").state_dict()
    content = {"student": {n: torch.zeros(1) for n in state}, "teacher": state}
    path = tmp_path_factory.mktemp("two") / "two.pth"
    torch.save(content, path)
    return path, {name: t for name, t in state.items() if t.is_floating_point()}


@pytest.mark.slow
def test_the_command_and_a_model(two, tmp_path: Path, capsys) -> None:
    safe_open = pytest.importorskip("safetensors", reason="safetensors is missing").safe_open
    path, teacher = two
    model = build_lambda_resnet(50, "resnet", stem="v1")
    load_weights(model, f"{path}#teacher", complete=True, rules=LoadingRules())
    for name, tensor in teacher.items():
        assert torch.equal(model.state_dict()[name], tensor), name

    out = tmp_path / "out.safetensors"
    assert convert_weights.main(["--network", "teacher", str(path), str(out)]) == 0
    found = read_weights(str(out))
    with safe_open(str(out), framework="pt") as file:
        assert f"{path}#teacher (" in file.metadata()["lambda_det"]
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in teacher.items())
    assert convert_weights.main([f"{path}#teacher", str(tmp_path / "out.pth")]) == 0
    assert convert_weights.main([str(path), str(tmp_path / "none.pth")]) == 2
    assert "'student' (" in capsys.readouterr().err and not (tmp_path / "none.pth").exists()
