"""The order of the images, their augmentation, and folders that are none."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("timm", reason="timm is not installed (pip install timm)")

import torch
from PIL import Image
from pretrain_helpers import CONFIG, TINY, write_images

from lambda_det.configs import load_config
from lambda_det.errors import InputError, one_line
from lambda_det.pretrain import get_pretrain_cfg
from lambda_det.pretrain.image_folder import (
    SeededImages,
    TrainingImages,
    build_val_loader,
    read_image_folder,
    training_order,
)
from lambda_det.randomness import seeded


def order(num_images: int = 23, batch_size: int = 4, **changes) -> list[list[tuple[int, int]]]:
    return list(
        training_order(num_images, batch_size, **{"start": 0, "stop": 10, "seed": 3} | changes)
    )


def test_an_epoch_takes_every_image_at_most_once_and_epochs_differ():
    batches = order()
    epochs = [
        [index for batch in batches[start : start + 5] for index, _ in batch] for start in (0, 5)
    ]
    for indices in epochs:
        assert len(indices) == len(set(indices)) == 20 and set(indices) <= set(range(23))
    assert epochs[0] != epochs[1]
    seeds = [seed for batch in batches for _, seed in batch]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("start", [1, 5, 7])
def test_a_later_start_is_the_rest_of_the_same_order(start):
    assert order(start=start) == order()[start:]


def test_processes_share_each_batch():
    shares = [order(rank=rank, num_processes=2) for rank in range(2)]
    for whole, first, second in zip(order(), *shares, strict=True):
        assert first + second == whole and len(first) == len(second)


def test_another_seed_is_another_order():
    assert order(seed=4) != order()


def test_an_image_depends_on_its_seed_alone_and_disturbs_no_generator(image_folder):
    data = read_image_folder(str(image_folder))

    def noisy(image: Image.Image) -> tuple[float, ...]:
        return (image.height, random.random(), float(np.random.rand()), float(torch.rand(())))

    images = SeededImages(data.train, noisy)
    first = images[4, 7]
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    assert images[4, 7] == first and images[4, 8] != first
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])
    with pytest.raises(KeyError), seeded(1):
        raise KeyError
    assert random.getstate() == states[0]


@pytest.fixture
def cfg(project):
    return load_config(str(project / CONFIG), TINY, defaults=get_pretrain_cfg())


def test_workers_change_nothing(cfg, image_folder):
    data = read_image_folder(str(image_folder))
    batches = []
    for workers in (0, 2):
        cfg.DATALOADER.NUM_WORKERS = workers
        loader = TrainingImages(cfg, data.train, 5, torch.device("cpu"))
        loader.start = 1
        batches.append(list(loader))
    assert len(batches[0]) == 4
    for (one, targets), (other, other_targets) in zip(*batches, strict=True):
        assert one.shape == (2, 3, 32, 32) and one.dtype == torch.float32
        assert torch.equal(one, other) and torch.equal(targets, other_targets)


def test_validation_images_are_normalised_centre_crops(cfg, tmp_path):
    """Against the definition, on images of one colour: (value - mean) / std in every pixel."""
    for split in ("train", "val"):
        for index, name in enumerate(("a", "b")):
            (tmp_path / split / name).mkdir(parents=True)
            colour = (40 * index, 100, 200)
            Image.new("RGB", (50, 41), colour).save(tmp_path / split / name / "0.png")
    val = read_image_folder(str(tmp_path)).val
    (batch,) = build_val_loader(cfg, val, torch.device("cpu"), 0, 1)
    images, targets = batch
    assert targets.tolist() == [0, 1] and images.shape == (2, 3, 32, 32)
    mean, std = (np.array(values) for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    for index, image in enumerate(images):
        expected = (np.array([40 * index, 100, 200]) - mean) / std
        assert np.allclose(image.numpy(), expected[:, None, None], atol=1e-5)


def test_every_validation_image_is_in_one_share(cfg, image_folder):
    val = read_image_folder(str(image_folder)).val
    shares = [list(build_val_loader(cfg, val, torch.device("cpu"), rank, 2)) for rank in range(2)]
    targets = sorted(int(t) for share in shares for _, batch in share for t in batch)
    assert targets == sorted(target for _, target in val) == [0, 1, 1, 2, 2]


def test_every_image_type_is_read_and_the_rest_is_counted(tmp_path, log):
    root = make_folder(tmp_path)
    folder = root / "train" / "class2"
    for ending in ("webp", "bmp", "tif", "jfif", "JPE", "jp2"):
        Image.open(folder / "0.png").save(
            folder / f"a.{ending}", {"jfif": "JPEG", "JPE": "JPEG"}.get(ending)
        )
    for name in ("b.heic", "notes.txt", "c.heic", "._0.png", ".DS_Store"):
        (folder / name).write_bytes(b"")
    data = read_image_folder(str(root))
    assert [Path(path).name for path, target in data.train if target == 0] == [
        "0.png", "a.bmp", "a.jfif", "a.jp2", "a.JPE", "a.tif", "a.webp",
    ]  # fmt: skip
    images = SeededImages(data.train, np.asarray)
    assert all(images[index, 0][0].shape == (40, 37, 3) for index in range(8))
    assert log.messages == [
        f"{root}/train: 3 files left out: .heic 2, .txt 1",
        f"{root}: 8 images to train on and 2 to validate with, 2 classes",
    ]


def test_hidden_folders_are_no_classes(tmp_path, log):
    root = make_folder(tmp_path)
    before = read_image_folder(str(root))
    for split in ("train", "validation"):
        write_images(root / split / ".ipynb_checkpoints", 1, seed=0)
        write_images(root / split / "class2" / ".ipynb_checkpoints", 1, seed=0)
    write_images(root / "train" / ".thumbnails" / "class10", 1, seed=0)
    assert read_image_folder(str(root)) == before and before.classes == ["class2", "class10"]


def make_folder(root: Path) -> Path:
    for split in ("train", "validation"):
        for name in ("class2", "class10"):
            write_images(root / split / name, 1, seed=0)
    return root


def test_classes_are_in_timms_order_and_validation_is_a_name_too(tmp_path):
    assert read_image_folder(str(make_folder(tmp_path))).classes == ["class2", "class10"]


def remove(*parts: str):
    return lambda root: shutil.rmtree(root.joinpath(*parts))


def empty_class(root: Path) -> None:
    (root / "train" / "class2" / "0.png").unlink()


def stray_image(root: Path) -> None:
    shutil.copy(root / "train" / "class2" / "0.png", root / "train" / "lost.png")


def no_classes(root: Path) -> None:
    remove("train")(root)
    (root / "train").mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (remove(), ["no such folder"]),
        (remove("train"), ["train does not exist", "one folder per class"]),
        (remove("validation"), ["val does not exist"]),
        (no_classes, ["train", "no folders"]),
        (empty_class, ["class2", "contains no image"]),
        (stray_image, ["lost.png", "class folder"]),
        (remove("validation", "class2"), ["class 'class2'", "not in"]),
        (remove("train", "class10"), ["class 'class10'", "not in train"]),
    ],
)
def test_a_folder_that_is_none(spoil, words, tmp_path):
    root = make_folder(tmp_path / "images")
    spoil(root)
    with pytest.raises(InputError) as caught:
        read_image_folder(str(root))
    line = str(caught.value)
    assert "\n" not in line and str(root) in line
    for word in words:
        assert word in line


def test_another_number_of_classes(tmp_path):
    root = make_folder(tmp_path)
    with pytest.raises(InputError, match=r"PRETRAIN.NUM_CLASSES=3: .* has 2 classes"):
        read_image_folder(str(root), num_classes=3)


@pytest.mark.parametrize("content", [b"", b"no image", "truncated"])
def test_a_broken_image_is_named(content, cfg, image_folder, tmp_path):
    path = tmp_path / "0.png"
    if content == "truncated":
        content = Path(read_image_folder(str(image_folder)).train[0][0]).read_bytes()[:900]
    path.write_bytes(content)
    cfg.PRETRAIN.BATCH_SIZE = 1
    with pytest.raises(InputError) as caught:
        list(TrainingImages(cfg, [(str(path), 0)], 1, torch.device("cpu")))
    assert one_line(caught.value).startswith(f"{path}: cannot be read as an image")
