"""Loading of an ImageFolder with timm's transforms, in an order that a resumed run can continue."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from PIL import Image
from timm.data import create_transform
from timm.data.loader import PrefetchLoader, fast_collate
from timm.data.readers.reader_image_folder import find_images_and_targets
from torch.utils.data import DataLoader, Dataset

from lambda_det.data.images.image_files import eight_bits, image_endings, left_out
from lambda_det.data.loaders import finish_before_ending
from lambda_det.errors import InputError
from lambda_det.randomness import IMAGE, ORDER, seed_of, seeded

logger = logging.getLogger(__name__)

VAL_NAMES = ("val", "validation")

Sample = tuple[str, int]
"""(path of an image, index of its class)."""


@dataclass(frozen=True)
class ImageFolder:
    """The images in ``train/CLASS/`` and ``val/CLASS/``, and the names of the classes."""

    train: list[Sample]
    val: list[Sample]
    classes: list[str]


def read_image_folder(root: str, num_classes: int = 0) -> ImageFolder:
    """List the images and classes of an ImageFolder.

    The classes are sorted as timm does it: numbers in names are compared by value. Images are the
    files whose extension is that of a format that Pillow can decode; one line counts the others.
    Hidden files and folders, whose names begin with a dot, are neither read nor counted.

    Args:
        root: folder that contains ``train/`` and ``val/`` (or ``validation/``), each with one
            folder per class.
        num_classes: the required number of classes; 0 = any number.

    Raises:
        InputError: a folder is missing, a class has no image, an image is outside the class
            folders, the splits have different classes, or the number of classes is not
            ``num_classes``.
    """
    if not os.path.isdir(root):
        raise InputError(f"--data {root}: no such folder")
    train, classes = _read_split(os.path.join(root, "train"))
    present = [name for name in VAL_NAMES if os.path.isdir(os.path.join(root, name))]
    val_folder = os.path.join(root, (present or VAL_NAMES)[0])
    val, val_classes = _read_split(val_folder)
    if classes != val_classes:
        name = sorted(set(classes) ^ set(val_classes))[0]
        where, other = ("train", val_folder) if name in classes else (val_folder, "train")
        raise InputError(f"--data {root}: class {name!r} of {where} is not in {other}")
    if num_classes and num_classes != len(classes):
        raise InputError(
            f"PRETRAIN.NUM_CLASSES={num_classes}: {root} has {len(classes)} classes; set it to "
            f"{len(classes)}, or to 0 to accept any number"
        )
    logger.info(
        "%s: %d images to train on and %d to validate with, %d classes",
        root, len(train), len(val), len(classes),
    )  # fmt: skip
    return ImageFolder(train, val, classes)


def _read_split(folder: str) -> tuple[list[Sample], list[str]]:
    entries = os.scandir(folder) if os.path.isdir(folder) else ()
    names = {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")}
    if not names:
        fault = "contains no folders" if os.path.isdir(folder) else "does not exist"
        raise InputError(f"--data: {folder} {fault}; expected one folder per class")
    endings = image_endings()
    samples, numbers = find_images_and_targets(folder, types=endings)
    samples = [(path, number) for path, number in samples if not _is_hidden(path, folder)]
    used = {number for _, number in samples}
    classes = [name for name, number in numbers.items() if number in used]  # sorted
    unread = left_out(name for name in _visible_files(folder) if _ending(name) not in endings)
    if empty := sorted(names - set(classes)):
        raise InputError(
            f"--data: class folder {os.path.join(folder, empty[0])} contains no image that Pillow "
            "can open" + (f" ({folder}: {unread})" if unread else "")
        )
    if stray := sorted(set(classes) - names):
        path = next(path for path, number in samples if number == numbers[stray[0]])
        raise InputError(f"--data: {path} is not in a class folder of {folder}")
    if unread:
        logger.info("%s: %s", folder, unread)
    renumbered = {numbers[name]: index for index, name in enumerate(classes)}
    return [(path, renumbered[number]) for path, number in samples], classes


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_hidden(path: str, folder: str) -> bool:
    return any(part.startswith(".") for part in os.path.relpath(path, folder).split(os.sep))


def _visible_files(folder: str) -> Iterator[str]:
    """The names of the files in a folder and below it, without hidden ones."""
    for _, below, names in os.walk(folder, followlinks=True):
        below[:] = [name for name in below if not name.startswith(".")]
        yield from (name for name in names if not name.startswith("."))


class SeededImages(Dataset):
    """A dataset whose keys are (index, seed). The seed alone determines the augmentation.

    Args:
        samples: paths of images and indices of classes.
        transform: function of an RGB PIL image, such as timm's ``create_transform`` returns.

    Raises:
        InputError: from ``[]``, if an image cannot be read.
    """

    def __init__(self, samples: Sequence[Sample], transform) -> None:
        self.samples = samples
        self.transform = transform

    def __getitem__(self, key: tuple[int, int]):
        index, seed = key
        path, target = self.samples[index]
        try:
            with Image.open(path) as file:
                image = eight_bits(file).convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = str(error).replace(f" {path!r}", "")
            raise InputError(f"{path}: cannot be read as an image ({reason})") from error
        with seeded(seed):
            return self.transform(image), target


def training_order(
    num_images: int,
    batch_size: int,
    *,
    start: int,
    stop: int,
    seed: int,
    rank: int = 0,
    num_processes: int = 1,
) -> Iterator[list[tuple[int, int]]]:
    """Give the batches of (index, seed) of one process for a range of iterations.

    Every epoch has its own permutation of the images, which is cut into batches. The images after
    the last full batch are not used in that epoch. The processes get disjoint shares of a batch.

    Args:
        num_images: number of images in the training split.
        batch_size: images per iteration, summed over all processes.
        start: first iteration.
        stop: iteration after the last one.
        seed: determines the permutations and the seeds of the images.
        rank: number of this process.
        num_processes: number of processes.
    """
    per_epoch, share = num_images // batch_size, batch_size // num_processes
    order, order_epoch = np.empty(0, dtype=int), None
    for iteration in range(start, stop):
        epoch, step = divmod(iteration, per_epoch)
        if epoch != order_epoch:
            rng = np.random.default_rng([ORDER, seed, epoch])
            order, order_epoch = rng.permutation(num_images), epoch
        first = step * batch_size + rank * share
        mine = order[first : first + share].tolist()
        yield [(index, seed_of(IMAGE, seed, epoch, index)) for index in mine]


class TrainingImages:
    """Batches of augmented training images of this process, until the last iteration.

    Iteration starts with batch number ``start``. ``seed`` and ``start`` may be set until the first
    batch is read, as a resumed run does.

    Args:
        cfg: with the node PRETRAIN.
        samples: the training split.
        stop: number of iterations of the run.
        device: where the batches are put.

    Yields:
        Normalised images (N, 3, S, S) float32, S = PRETRAIN.IMAGE_SIZE, and classes (N,) int64.

    Raises:
        InputError: timm cannot read PRETRAIN.AUTO_AUGMENT.
    """

    def __init__(
        self, cfg: CfgNode, samples: Sequence[Sample], stop: int, device: torch.device
    ) -> None:
        self.seed, self.start, self.num_images = cfg.SEED, 0, len(samples)
        self.batch_size = cfg.PRETRAIN.BATCH_SIZE // comm.get_world_size()
        self._cfg, self._stop, self._device = cfg, stop, device
        self._images = SeededImages(samples, _training_transform(cfg))
        self._running: Generator | None = None

    def __iter__(self) -> Generator:
        self._running = self._batches()
        return self._running

    def close(self) -> None:
        """End the worker processes."""
        if self._running is not None:
            self._running.close()

    def _batches(self) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
        order = training_order(
            self.num_images,
            self._cfg.PRETRAIN.BATCH_SIZE,
            start=self.start,
            stop=self._stop,
            seed=self.seed,
            rank=comm.get_rank(),
            num_processes=comm.get_world_size(),
        )
        yield from _loader(self._cfg, self._images, order, self._device)


def _training_transform(cfg: CfgNode):
    node = cfg.PRETRAIN
    try:
        return create_transform(
            node.IMAGE_SIZE,
            is_training=True,
            scale=node.CROP_SCALE,
            hflip=node.FLIP,
            color_jitter=node.COLOR_JITTER or None,
            auto_augment=node.AUTO_AUGMENT or None,
            interpolation=node.INTERPOLATION,
            mean=_unit(cfg.MODEL.PIXEL_MEAN),
            use_prefetcher=True,
        )
    except (AssertionError, ValueError, KeyError) as error:
        raise InputError(
            f"PRETRAIN.AUTO_AUGMENT={node.AUTO_AUGMENT!r}: timm cannot read it; expected for "
            "example 'rand-m9-n2' or 'augmix-m3'"
        ) from error


def build_val_loader(
    cfg: CfgNode, samples: Sequence[Sample], device: torch.device, rank: int, num_processes: int
) -> PrefetchLoader:
    """Build the loader of this process's validation images; each image is in one process only."""
    node = cfg.PRETRAIN
    transform = create_transform(
        node.IMAGE_SIZE,
        interpolation=node.INTERPOLATION,
        crop_pct=node.TEST_CROP,
        use_prefetcher=True,
    )
    mine = [(index, 0) for index in range(rank, len(samples), num_processes)]
    size = max(1, node.BATCH_SIZE // num_processes)
    batches = [mine[i : i + size] for i in range(0, len(mine), size)]
    return _loader(cfg, SeededImages(samples, transform), batches, device)


def _loader(cfg: CfgNode, dataset: Dataset, batches, device: torch.device) -> PrefetchLoader:
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=fast_collate,
        worker_init_fn=finish_before_ending,
        pin_memory=device.type == "cuda",
        # Its own generator, so that the random numbers of the model do not change.
        generator=torch.Generator(),
    )
    return PrefetchLoader(
        loader, mean=_unit(cfg.MODEL.PIXEL_MEAN), std=_unit(cfg.MODEL.PIXEL_STD), device=device
    )


def _unit(values: Sequence[float]) -> tuple[float, ...]:
    """Convert detectron2's scale of pixels, 0 to 255, to timm's, 0 to 1."""
    return tuple(value / 255 for value in values)
