"""``timm://`` and ``torchvision://``: fetched by their owners, or taken from a mirror."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager

from lambda_det.backbone import build_lambda_resnet
from lambda_det.checkpoint import load_weights
from lambda_det.checkpoint.addresses import MIRROR_VARIABLE
from lambda_det.errors import InputError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or fills the user's caches."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv(MIRROR_VARIABLE, str(folder))
    return folder


@functools.cache
def resnet50(seed: int = 0) -> dict:
    torch.manual_seed(seed)
    return torchvision.models.resnet50(weights=None).state_dict()


def first_weight(model: torch.nn.Module) -> torch.Tensor:
    return model.stem.conv1.weight


@pytest.mark.parametrize(
    "name", ["resnet50-0676ba61.pth", "torchvision/resnet50/pytorch_model.bin"]
)
def test_torchvision_from_a_mirror(name: str, mirror: Path) -> None:
    """The first name is torchvision's own, as its URL ends."""
    (mirror / name).parent.mkdir(parents=True, exist_ok=True)
    weights = resnet50()
    torch.save(weights, mirror / name)
    network = build_lambda_resnet(50, "resnet", stem="v1")
    assert load_weights(network, "torchvision://resnet50").share() == 1
    assert torch.equal(first_weight(network), weights["conv1.weight"])


def test_timm_from_a_mirror_without_timm(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_lambda_resnet(50, "resnet", stem="v1")
    torch.save(resnet50(), mirror / "resnet50.a1_in1k.pth")
    monkeypatch.setitem(sys.modules, "timm", None)
    assert load_weights(network, "timm://resnet50.a1_in1k").share() == 1


@pytest.mark.slow
def test_timm_published_name_in_a_mirror(mirror: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    state = timm.create_model("resnetrs50").state_dict()
    torch.save(state, mirror / "resnetrs50_ema-6b53758b.pth")
    network = build_lambda_resnet(50, "se")
    assert load_weights(network, "timm://resnetrs50.tf_in1k").share() == 1
    assert torch.equal(first_weight(network), state["conv1.0.weight"])


def test_a_stock_trainer_reads_the_address(mirror: Path) -> None:
    """detectron2's own checkpointer, into a detector's names, by its matching of suffixes."""
    weights = resnet50()
    torch.save(weights, mirror / "resnet50.pth")
    model = torch.nn.Module()
    model.backbone = torch.nn.Module()
    model.backbone.bottom_up = build_lambda_resnet(50, "resnet", stem="v1")
    DetectionCheckpointer(model).load("torchvision://resnet50")
    assert torch.equal(first_weight(model.backbone.bottom_up), weights["conv1.weight"])
    assert not model.backbone.bottom_up.freeze(5).frozen_without_weights()


@pytest.mark.slow
def test_conversion_is_cached_and_follows_the_mirror(mirror: Path, own_cache: Path) -> None:
    torch.save(resnet50(0), mirror / "resnet50.pth")
    address = "torchvision://resnet50"
    first = PathManager.get_local_path(address)
    before = Path(first).stat().st_mtime_ns
    assert PathManager.get_local_path(address) == first
    assert Path(first).stat().st_mtime_ns == before
    assert own_cache in Path(first).parents

    changed = resnet50(1)
    torch.save(changed, mirror / "resnet50.pth")
    network = build_lambda_resnet(50, "resnet", stem="v1")
    load_weights(network, address)
    assert torch.equal(first_weight(network), changed["conv1.weight"])
    left = [path.suffix for path in own_cache.rglob("*") if path.is_file()]
    assert set(left) <= {".pth", ".lock"} and left.count(".pth") == 2  # nothing half-written


@pytest.mark.slow
def test_owner_fetches_with_a_checked_hash(monkeypatch, tmp_path: Path) -> None:
    asked = []

    def download(url: str, file: str, hash_prefix: str, progress: bool) -> None:
        asked.append((url.rpartition("/")[2], hash_prefix))
        torch.save(resnet50(), file)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setattr(torch, "load", None)  # the file is read by our own reader
    wanted = [("resnet50-0676ba61.pth", "0676ba61"), ("resnet50-11ad3fa6.pth", "11ad3fa6")]
    for number, name in enumerate(("resnet50", "resnet50.IMAGENET1K_V2")):
        network = build_lambda_resnet(50, "resnet", stem="v1")
        assert load_weights(network, f"torchvision://{name}").share() == 1
        assert asked == wanted[: number + 1] and (tmp_path / "checkpoints" / asked[-1][0]).exists()
    load_weights(network, "torchvision://resnet50")
    assert len(asked) == 2  # from the cache


def test_timm_fetches_with_its_own_pixel_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    create = timm.create_model
    made = []

    def create_model(name: str, pretrained: bool):
        assert pretrained
        made.append(create(name.split(".")[0]))
        made[-1].pretrained_cfg = {"mean": (0.5, 0.25, 0.125), "std": (0.5, 0.5, 1.0)}
        return made[-1]

    monkeypatch.setattr(timm, "create_model", create_model)
    path = PathManager.get_local_path("timm://resnetrs50.tf_in1k")
    saved = torch.load(path, weights_only=True)
    assert torch.equal(saved["model"]["stem.conv1.weight"], made[0].conv1[0].weight)
    images = saved["lambda_det"]["images"]
    assert images["pixel_mean"] == [127.5, 63.75, 31.875] and images["channel_order"] == "RGB"
    assert saved["lambda_det"]["architecture"]["variant"] == "se"


def refused(address: str) -> str:
    with pytest.raises(InputError) as error:
        load_weights(build_lambda_resnet(50, "resnet", stem="v1"), address)
    message = str(error.value)
    assert message.startswith(f"MODEL.WEIGHTS='{address}': ") and "\n" not in message
    return message


def test_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*arguments, **keywords):
        raise OSError("Temporary failure in name resolution\nand more lines")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    message = refused("torchvision://resnet50")
    assert "Temporary failure in name resolution" in message and MIRROR_VARIABLE in message
    assert "resnet50.pth" in message
    timm = pytest.importorskip("timm", reason="timm is not installed")
    monkeypatch.setattr(timm, "create_model", offline)
    message = refused("timm://resnetrs50.tf_in1k")
    assert "name resolution" in message and "resnetrs50.tf_in1k.safetensors" in message


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    message = refused("timm://resnetrs50.tf_in1k")
    assert "pip install timm" in message and MIRROR_VARIABLE in message


def test_names_that_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "no model 'resnet51'" in refused("torchvision://resnet51")
    assert "IMAGENET1K_V1, IMAGENET1K_V2" in refused("torchvision://resnet50.V9")
    assert "'htpp://' are not supported" in refused("htpp://host/w.pth")
    pytest.importorskip("timm", reason="timm is not installed")
    assert "resnetrs50 to resnetrs420" in refused("timm://resnetblur50.bt_in1k")
    assert "resnetrs50 to resnetrs420" in refused("timm://resnetrs51.tf_in1k")
    monkeypatch.setenv(MIRROR_VARIABLE, str(tmp_path / "none"))
    assert f"{MIRROR_VARIABLE}='{tmp_path / 'none'}'" in refused("torchvision://resnet50")


def test_a_bad_file_of_the_mirror_is_named_and_not_cached(mirror: Path, own_cache: Path) -> None:
    (mirror / "resnet50.pth").write_text("<html>")
    assert "resnet50.pth" in refused("torchvision://resnet50")
    torch.save(dict(list(resnet50().items())[::2]), mirror / "resnet50.pth")
    message = refused("torchvision://resnet50")
    assert "of the backbone" in message and "tensors are missing" in message
    assert not list(own_cache.rglob("*.pth"))
    assert not PathManager.isfile("torchvision://resnet50")


def test_asking_whether_an_address_exists_raises_nothing() -> None:
    for question in (PathManager.isfile, PathManager.exists):
        assert question("torchvision://resnet51") is False
