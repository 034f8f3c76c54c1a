"""Safe reading: what is no checkpoint gets its own line, and nothing in a file is run."""

from __future__ import annotations

import io
import os
import pickle
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from lambda_det.checkpoint.reading import read_file
from lambda_det.checkpoint.tensors import check_finite, find_tensors
from lambda_det.errors import InputError

ARRAYS = {"conv1_w": np.arange(6, dtype=np.float32).reshape(2, 3), "epoch": 3, "names": ["a", None]}


class Attack:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def refused(path: Path) -> str:
    with pytest.raises(InputError) as error:
        read_file(str(path))
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


def test_the_attack_would_work(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Attack(tmp_path / "made")))
    assert (tmp_path / "made").is_dir()


@pytest.mark.parametrize("name", ["weights.pkl", "weights.pth", "weights.bin"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickle_that_runs_code(name: str, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / name
    content = {"model": {"w": np.zeros(2)}, "extra": Attack(tmp_path / "made")}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    assert f"refused, because it refers to {os.mkdir.__module__}.mkdir" in refused(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "state", [{"attribute": 1}, (None, {"__defaults__": (1,), "__module__": "other"})]
)
@pytest.mark.parametrize("name", ["numeric\n_frombuffer", "multiarray\n_reconstruct"])
def test_pickle_that_changes_a_function(name: str, state, tmp_path: Path) -> None:
    reduce = {"numeric\n_frombuffer": 5, "multiarray\n_reconstruct": 2}
    function = np.zeros(1).__reduce_ex__(reduce[name])[0]
    before = (getattr(function, "__defaults__", None), function.__module__)
    named = b"\x80\x02cnumpy.core." + name.encode() + b"\n"
    build = pickle.dumps(state, protocol=2)[2:-1] + b"b."
    (tmp_path / "w.pkl").write_bytes(named + build)
    assert "cannot be read" in refused(tmp_path / "w.pkl")
    assert (getattr(function, "__defaults__", None), function.__module__) == before
    assert not hasattr(function, "attribute")


@pytest.mark.parametrize("codec", ["rot13", "utf-8"])
def test_pickle_with_another_codec(codec: str, tmp_path: Path) -> None:
    arguments = pickle.dumps(("text", codec), protocol=2)[2:-1]
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02c_codecs\nencode\n" + arguments + b"R.")
    assert f"_codecs.encode to '{codec}'" in refused(tmp_path / "w.pkl")


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl"])
def test_pytorch_file_that_runs_code(name: str, is_zip: bool, tmp_path: Path) -> None:
    content = {"model": {"w": torch.zeros(2)}, "extra": Attack(tmp_path / "made")}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=is_zip)
    assert f"refused, because it refers to {os.mkdir.__module__}.mkdir" in refused(tmp_path / name)
    assert not (tmp_path / "made").exists()


def test_a_hole_in_a_file_of_pytorch_is_seen(tmp_path: Path) -> None:
    torch.save({"w": torch.rand(2000)}, tmp_path / "w.pth")
    content = bytearray((tmp_path / "w.pth").read_bytes())
    content[3000:3100] = bytes(100)
    (tmp_path / "w.pth").write_bytes(content)
    assert "damaged (Bad CRC-32" in refused(tmp_path / "w.pth")


def test_pickled_module_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    assert "torch.nn.modules.linear.Linear" in refused(tmp_path / "module.pth")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_torchscript(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).eval()
    torch.jit.trace(module, torch.ones(1, 2)).save(tmp_path / "w.pt")
    found = find_tensors("file", read_file(str(tmp_path / "w.pt"), stand_ins=True)).tensors
    state = {n: t for n, t in module.state_dict().items() if t.is_floating_point()}
    assert found.keys() == state.keys() and all(torch.equal(found[n], state[n]) for n in state)


@pytest.mark.parametrize("protocol", range(6))
def test_tensors_of_pytorch_in_a_bare_pickle(protocol: int, tmp_path: Path) -> None:
    """As ``pickle.dump`` of a state dict writes them."""
    base = torch.arange(6.0)
    content = {"model": OrderedDict(w=base.view(2, 3), v=torch.nn.Parameter(base[2:4].half()))}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    found = read_file(str(tmp_path / "w.pkl"))["model"]
    for name, tensor in content["model"].items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype


def test_code_in_the_bytes_of_a_storage(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(Attack(tmp_path / "made"), buffer, _use_new_zipfile_serialization=False)
    inner = pickle.dumps(buffer.getvalue(), protocol=4)[2:-1]
    program = b"\x80\x04ctorch.storage\n_load_from_bytes\n" + inner + b"\x85R."
    (tmp_path / "w.pkl").write_bytes(program)
    assert f"refused, because it refers to {os.mkdir.__module__}.mkdir" in refused(
        tmp_path / "w.pkl"
    )
    assert not (tmp_path / "made").exists()


@pytest.mark.skipif(not hasattr(torch, "quantize_per_tensor"), reason="newer PyTorch has none")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_tensors_do_not_matter_beside_the_weights(tmp_path: Path) -> None:
    quantised = torch.quantize_per_tensor(torch.ones(2), 0.5, 0, torch.qint8)
    torch.save({"model": {"w": torch.ones(2)}, "other": quantised}, tmp_path / "w.pth")
    assert read_file(str(tmp_path / "w.pth"), stand_ins=True)["model"]["w"].sum() == 2


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_pickle(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    arrays = ARRAYS | {"more": OrderedDict(x=np.float64(2.5)), "fortran": np.eye(3)[:, :2].T}
    path.write_bytes(pickle.dumps(arrays, protocol=protocol))
    found = read_file(str(path))
    assert np.array_equal(found["conv1_w"], arrays["conv1_w"])
    assert np.array_equal(found["fortran"], arrays["fortran"])
    assert found["more"]["x"] == 2.5 and found["names"] == ["a", None]


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_pytorch_file(is_zip: bool, tmp_path: Path) -> None:
    """With the extras that training scripts of timm and detectron2 save."""
    content = {
        "model": {"w": torch.arange(3.0)},
        "args": Namespace(lr=0.1),
        "best": np.float64(71.5),
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}},
    }
    path = tmp_path / "weights.pth"
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    assert torch.equal(read_file(str(path))["model"]["w"], torch.arange(3.0))


def test_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    path = tmp_path / "weights.pth"  # the content counts, not the name
    safetensors.save_file({"w": torch.arange(3.0)}, path, metadata={"key": "text"})
    found = read_file(str(path))
    assert torch.equal(found["model"]["w"], torch.arange(3.0)) and found["key"] == "text"


def test_safetensors_without_its_package(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "w.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    assert "pip install safetensors" in refused(tmp_path / "w.safetensors")


BYTES = {
    "empty": (b"", "is empty"),
    "html": (b"\n <!DOCTYPE html><title>404</title>", "web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
    "text": (b"just some words, no weights", "is not a checkpoint"),
    "noise": (bytes(range(128, 228)), "cannot be read as a checkpoint"),
}


@pytest.mark.parametrize("case", BYTES)
def test_other_files(case: str, tmp_path: Path) -> None:
    content, words = BYTES[case]
    (tmp_path / "w.pth").write_bytes(content)
    assert words in refused(tmp_path / "w.pth")


def test_another_zip_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", w=np.ones(2))
    assert "is a zip archive, but no checkpoint" in refused(tmp_path / "w.npz")


def test_folder_and_missing_file(tmp_path: Path) -> None:
    assert "is a folder" in refused(tmp_path)
    assert "no such file" in refused(tmp_path / "none.pth")


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "safetensors"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_truncated(kind: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"w": np.random.rand(200)}, protocol=2))
    elif kind == "safetensors":
        pytest.importorskip("safetensors.torch").save_file({"w": torch.rand(200)}, path)
    else:
        torch.save({"w": torch.rand(200)}, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "truncated" in refused(path)


def test_weights_are_found_in_their_containers() -> None:
    w, other = torch.ones(2), torch.zeros(2)
    plain = {"w": w, "n.num_batches_tracked": torch.tensor(3)}
    for content, container in (
        (plain, ""),
        ({"model": plain, "optimizer": {"state": {}}, "iteration": 3}, "model"),
        ({"state_dict": plain, "epoch": 1}, "state_dict"),
        ({"model_state": plain}, "model_state"),
        ({"state_dict": {"w": other}, "state_dict_ema": plain}, "state_dict_ema"),
        ({"model": {"w": other}, "model_ema": {"module": plain, "decay": 0.9}}, "module"),
        ({"blobs": {"w": w.numpy(), "w_momentum": other.numpy()}}, "blobs"),
    ):
        found = find_tensors("file", content)
        assert list(found.tensors) == ["w"] and torch.equal(found.tensors["w"], w), content
        assert found.container == container


INSIDE_ITSELF: dict = {}
INSIDE_ITSELF["model"] = INSIDE_ITSELF


@pytest.mark.parametrize(
    "content", [{}, {"epoch": 3}, [1, 2], torch.ones(2), {"model": {}}, INSIDE_ITSELF]
)
def test_no_weights_at_all(content) -> None:
    with pytest.raises(InputError, match="contains no weights"):
        find_tensors("file", content)


def test_tensors_larger_than_their_memory_are_refused_by_name(tmp_path: Path) -> None:
    huge = torch.zeros(1, 1).expand(10**10, 2048)
    torch.save({"model": {"a": torch.ones(2), "b.c": huge}}, tmp_path / "w.pth")
    found = find_tensors("file", read_file(str(tmp_path / "w.pth")))
    with pytest.raises(InputError, match=r"file: b\.c has the shape \(10000000000, 2048\)"):
        check_finite("file", found.tensors)
    array = np.broadcast_to(np.zeros((), np.float32), (10**10, 2048))
    with pytest.raises(InputError, match=r"file: b\.c has the shape"):
        find_tensors("file", {"b.c": array})
    check_finite("file", {"a": torch.ones(4, 6)[::2, 1:3].T})  # an ordinary view
    assert find_tensors("file", {"a": np.ones((4, 6))[::2, 1:3].T}).tensors["a"].shape == (2, 2)


def test_sparse_tensors_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="file: b is not a dense tensor"):
        check_finite("file", {"b": torch.eye(3).to_sparse()})
