"""The generated ImageFolder."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest

from lambda_det.data import generate_shapes_folder
from lambda_det.data.generated.shapes_folder import CLASSES, draw_class_image
from lambda_det.data.generated.shapes_scene import CLASS_NAMES
from lambda_det.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return generate_shapes_folder(
        tmp_path_factory.mktemp("x") / "folder", num_train=20, num_val=10, seed=3
    )


def file_bytes(root) -> dict[str, bytes]:
    import pathlib

    root = pathlib.Path(root)
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*.jpg"))}


def test_ten_classes_with_equally_many_different_images(folder):
    found = file_bytes(folder)
    assert len(CLASSES) == 10 and len(found) == 30 and len(set(found.values())) == 30
    for name in CLASSES:
        assert sum(path.startswith(f"train/{name}/") for path in found) == 2
        assert sum(path.startswith(f"val/{name}/") for path in found) == 1


def test_the_same_parameters_give_the_same_bytes_and_are_kept(folder, tmp_path):
    again = generate_shapes_folder(tmp_path / "again", num_train=20, num_val=10, seed=3)
    assert file_bytes(again) == file_bytes(folder)
    assert generate_shapes_folder(again, num_train=20, num_val=10, seed=3) == again
    with pytest.raises(InputError, match=r"exists and has 2 images in train/disc_0, expected 3"):
        generate_shapes_folder(again, num_train=30, num_val=10)


def test_a_class_is_a_shape_and_a_turn_of_its_hue():
    """The most frequent strong hue is that of the class; the turn is the class's."""
    hues = {}
    for name in ("disc_0", "disc_60", "disc_120"):
        rng = np.random.default_rng(5)  # the same scene three times
        hsv = cv2.cvtColor(draw_class_image(rng, name), cv2.COLOR_BGR2HSV)
        strong = hsv[..., 0][(hsv[..., 1] > 130) & (hsv[..., 2] > 90)]
        assert strong.size > 100
        angles = strong.astype(float) * np.pi / 90
        hues[name] = np.angle(np.exp(1j * angles).mean()) * 90 / np.pi
    assert (hues["disc_60"] - hues["disc_0"]) % 180 == pytest.approx(60, abs=4)
    assert (hues["disc_120"] - hues["disc_0"]) % 180 == pytest.approx(120, abs=4)
    assert {name.split("_")[0] for name in CLASSES} == set(CLASS_NAMES)


@pytest.mark.parametrize("counts", [{"num_train": 15}, {"num_val": 0}])
def test_a_number_that_cannot_be_shared(counts, tmp_path):
    with pytest.raises(InputError, match="positive multiple of 10"):
        generate_shapes_folder(tmp_path / "x", **counts)
    assert not (tmp_path / "x").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("x")
    with pytest.raises(InputError, match="name a new folder"):
        generate_shapes_folder(tmp_path / "mine")
    assert (tmp_path / "mine" / "file").read_text() == "x"
    shutil.rmtree(tmp_path / "mine")
