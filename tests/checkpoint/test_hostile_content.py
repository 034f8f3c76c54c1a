"""Files whose content is small and would take forever, or end in a traceback: one line instead."""

from __future__ import annotations

import pickle
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from pickle_programs import array
from torch import nn

from lambda_det.checkpoint import torch_files
from lambda_det.checkpoint.reading import read_file
from lambda_det.checkpoint.translation import read_and_translate
from lambda_det.errors import InputError

WEIGHTS = {"res2.0.conv1.weight": torch.ones(2, 2, 1, 1)}
LARGE = 10**7200


@pytest.fixture(autouse=True)
def _not_forever() -> Iterator[None]:
    def give_up(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def twice(levels: int) -> list:
    """A list that holds a list twice, which holds …; its ``repr`` doubles with every level."""
    value: list = []
    for _ in range(levels):
        value = [value, value]
    return value


def one_line(path: Path, read: Callable[[str], object] = read_and_translate) -> str:
    with pytest.raises(InputError) as error:
        read(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


def images(**entries: object) -> dict[str, object]:
    given = {"channel_order": "RGB", "pixel_mean": [1.0] * 3, "pixel_std": [1.0] * 3} | entries
    return {"hidden": {}, "images": given}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"hidden": twice(60)}, "hidden=a list"),
        ({"hidden": {LARGE: 1}}, "the argument a int"),
        ({"hidden": {"stride_in_1x1": twice(60)}}, "stride_in_1x1=a list"),
        ({"hidden": {}, "images": twice(60)}, "images=a list"),
        (images(pixel_mean=[LARGE, 1.0, 1.0]), "finite numbers"),
        ("[" * 200_000, "is not JSON"),
    ],
    ids=["hidden", "argument", "value", "images", "mean", "text"],
)
def test_metadata(metadata: object, expected: str, tmp_path: Path) -> None:
    torch.save({"model": WEIGHTS, "lambda_det": metadata}, tmp_path / "w.pth")
    assert expected in one_line(tmp_path / "w.pth")


@pytest.mark.parametrize("author", [twice(60), LARGE], ids=["list", "number"])
def test_an_author_that_is_no_text(author: object, tmp_path: Path) -> None:
    torch.save({"model": WEIGHTS, "__author__": author}, tmp_path / "w.pth")
    assert read_and_translate(str(tmp_path / "w.pth")).tensors


def test_keys_that_are_no_names(tmp_path: Path) -> None:
    torch.save({**WEIGHTS, LARGE: torch.ones(1), (1,): torch.ones(1)}, tmp_path / "w.pth")
    assert read_and_translate(str(tmp_path / "w.pth")).tensors.keys() == WEIGHTS.keys()


def test_tuples_that_hold_others_many_times(tmp_path: Path) -> None:
    inner = tuple((i,) for i in range(20_000))
    (tmp_path / "w.pkl").write_bytes(pickle.dumps((inner,) * 20_000))
    content = read_file(str(tmp_path / "w.pkl"))
    assert len(content) == 20_000 and content[0] == inner


def test_modules_that_hold_others_many_times(tmp_path: Path) -> None:
    module: nn.Module = nn.Linear(1, 1)
    for _ in range(40):
        module = nn.Sequential(module, module)
    torch.save(module, tmp_path / "w.pth")
    assert "100000 modules" in one_line(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "program",
    [array("U1", (2,), b"\xff" * 8), array("f4", (0, 2**47, 2**47), b"")],
    ids=["text", "sides"],
)
def test_impossible_arrays(program: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(b"\x80\x04" + program + b".")
    assert "impossible" in one_line(tmp_path / "w.pkl", read_file)


def test_a_pickle_that_is_compressed_too_well(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch_files, "_PICKLE_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", pickle.dumps({"model": {}, "zeros": bytes(100_000)}))
    assert "compressed more" in one_line(tmp_path / "w.pth", read_file)
