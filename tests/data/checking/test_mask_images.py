"""Folders of images and mask images, read as a dataset."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from data_helpers import single_line, warnings
from PIL import Image

from lambda_det.commands import check_data
from lambda_det.data.checking.mask_images import read_mask_images
from lambda_det.data.checking.split_content import readers_of
from lambda_det.data.reading.intake import load_coco
from lambda_det.errors import InputError

HEIGHT, WIDTH = 30, 40


def masks(count: int = 3) -> list[np.ndarray]:
    """(H, W) bool, of objects that do not overlap."""
    found = []
    for index in range(count):
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[2 + index : 12, 10 * index + 1 : 10 * index + 8] = True
        found.append(mask)
    return found


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_image(path: Path) -> None:
    save(path, np.full((HEIGHT, WIDTH, 3), 90, np.uint8))


def numbered(numbers: list[int], dtype: type) -> np.ndarray:
    pixels = np.zeros((HEIGHT, WIDTH), dtype)
    for number, mask in zip(numbers, masks(len(numbers)), strict=True):
        pixels[mask] = number
    return pixels


def one_file(root: Path, dtype: type, numbers: list[int]) -> None:
    save_image(root / "images" / "a.jpg")
    save(root / "masks" / "a.png", numbered(numbers, dtype))


def in_colours(root: Path) -> None:
    save_image(root / "images" / "a.jpg")
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[..., 3] = 255
    for colour, mask in zip(((0, 0, 9), (9, 0, 0), (0, 9, 0)), masks(), strict=True):
        pixels[mask, :3] = colour
    save(root / "masks" / "a.png", pixels)


def with_palette(root: Path) -> None:
    save_image(root / "images" / "a.jpg")
    image = Image.fromarray(numbered([1, 2, 3], np.uint8), mode="P")
    image.putpalette([0, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7, 7])  # a colour is not a number
    (root / "masks").mkdir()
    image.save(root / "masks" / "a.png")


def a_file_each(root: Path, folder: str = "masks/a", image: str = "images/a.jpg") -> None:
    save_image(root / image)
    for index, mask in enumerate(masks()):
        save(root / folder / f"{index}.png", mask.astype(np.uint8) * 255)
    (root / folder / "._0.png").write_text("of another system")


LAYOUTS = {
    "8 bits": lambda root: one_file(root, np.uint8, [1, 2, 255]),
    "16 bits": lambda root: one_file(root, np.uint16, [7, 256, 40000]),
    "colours": in_colours,
    "palette": with_palette,
    "a file each": a_file_each,
    "data science bowl": lambda root: a_file_each(root, "0a7e/masks", "0a7e/images/0a7e.png"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_masks_become_objects(tmp_path: Path, name: str):
    root, output = tmp_path / "data", tmp_path / "clean"
    root.mkdir()
    LAYOUTS[name](root)
    assert check_data.main([str(root), "--write", str(output)]) == 0
    json_file = output / "annotations" / "instances_train2017.json"
    assert json.loads(json_file.read_text())["categories"] == [{"id": 1, "name": "object"}]
    (image,) = load_coco(str(json_file), str(output / "train2017"))
    assert Path(image["file_name"]).is_file()
    found = [mask_util.decode(a["segmentation"]).astype(bool) for a in image["annotations"]]
    assert len(found) == 3
    for wanted in masks():
        assert any((mask == wanted).all() for mask in found)
    boxes = sorted(a["bbox"] for a in image["annotations"])
    assert boxes == [[1, 2, 7, 10], [11, 3, 7, 9], [21, 4, 7, 8]]


def test_real_masks(project: Path, tmp_path: Path):
    """Three of the images of the Data Science Bowl, and masks made of its objects."""
    source = project.parent / "shared" / "nuclei"
    if not source.is_dir():
        pytest.skip(f"no images at {source}")
    dicts = load_coco(str(source / "annotations/instances_val2017.json"), str(source / "val2017"))
    wanted = {}
    for image in dicts[:3]:
        path, codes = Path(image["file_name"]), [a["segmentation"] for a in image["annotations"]]
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / path.name).symlink_to(path)
        pixels = np.zeros((image["height"], image["width"]), np.uint16)
        for number, code in enumerate(codes, start=1):
            pixels[mask_util.decode(code) > 0] = number
        save(tmp_path / "masks" / f"{path.stem}.tif", pixels)
        wanted[path.name] = len(np.unique(pixels)) - 1, int((pixels > 0).sum())
    found = readers_of(str(tmp_path), "val")["val"]().found
    assert not found.summary.findings.counts
    for image in found.images:
        own = [a for a in found.annotations if a["image_id"] == image["id"]]
        assert (len(own), sum(a["area"] for a in own)) == wanted[image["file_name"]]
        assert len(own) > 5


def test_folders_of_splits(tmp_path: Path):
    for split in ("train", "val"):
        for name in "ab":
            save_image(tmp_path / split / "images" / f"{name}.jpg")
            save(tmp_path / split / "masks" / f"{name}.png", numbered([1, 2], np.uint8))
    assert set(readers_of(str(tmp_path))) == {"train", "val"}
    assert readers_of(str(tmp_path), "val")["val"]().found.summary.num_objects == 4


def test_objects_are_not_in_memory_together(tmp_path: Path):
    side = 512
    save(tmp_path / "images" / "a.png", np.zeros((side, side), np.uint8))
    numbers = np.repeat(np.arange(256, dtype=np.uint8), side * side // 256)
    save(tmp_path / "masks" / "a.png", numbers.reshape(side, side))
    tracemalloc.start()
    try:
        content, _ = read_mask_images(str(tmp_path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(content["annotations"]) == 255
    assert peak < 20 * side * side  # bytes; 255 masks are 255 * side * side


def test_what_is_odd_is_said(tmp_path: Path, log):
    for name in "abc":
        save_image(tmp_path / "images" / f"{name}.jpg")
    for name, numbers in (("a", [255]), ("b", [])):
        save(tmp_path / "masks" / f"{name}.png", numbered(numbers, np.uint8))
    found = readers_of(str(tmp_path), "train")["train"]().found
    assert [image["file_name"] for image in found.images] == ["a.jpg", "b.jpg"]
    assert [a["image_id"] for a in found.annotations] == [1]
    missing, alone = warnings(log)
    assert "1 of 3 images have no mask; left out (first: c.jpg)" in missing
    assert "no image has more than one object" in alone


def wrong_size(root: Path) -> None:
    save(root / "masks" / "a.png", np.ones((HEIGHT, WIDTH + 1), np.uint8))


def jpeg(root: Path) -> None:
    save(root / "masks" / "a.jpg", numbered([1], np.uint8))


def broken(root: Path) -> None:
    (root / "masks").mkdir()
    (root / "masks" / "a.png").write_text("no image")


def other_name(root: Path) -> None:
    save(root / "masks" / "other.png", numbered([1], np.uint8))


def no_numbers(root: Path) -> None:
    """An image that is no mask: nearly every pixel has a colour of its own."""
    numbers = np.arange(1, 257 * 256 + 1).reshape(257, 256)
    save(root / "images" / "a.jpg", np.zeros((257, 256, 3), np.uint8))
    colours = np.stack([numbers >> shift & 255 for shift in (0, 8, 16)], axis=-1)
    save(root / "masks" / "a.png", colours.astype(np.uint8))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (wrong_size, "has 41 x 30 pixels .*, its image 40 x 30"),
        (jpeg, "is a JPEG, which changes"),
        (no_numbers, "has 65792 different values or colours besides 0; .* 65535 are allowed"),
        (broken, "cannot be read: "),
        (other_name, "no image has a mask of the same name .1 images"),
    ],
)
def test_what_is_refused(tmp_path: Path, spoil, said: str):
    save_image(tmp_path / "images" / "a.jpg")
    spoil(tmp_path)
    with pytest.raises(InputError, match=said) as error:
        readers_of(str(tmp_path), "train")["train"]()
    single_line(error)


def test_only_via_has_attributes(tmp_path: Path, capsys):
    one_file(tmp_path, np.uint8, [1, 2])
    assert check_data.main([str(tmp_path), "--class-attribute", "kind"]) == 2
    assert "--class-attribute kind: only a json of VIA" in capsys.readouterr().err
