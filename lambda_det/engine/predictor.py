"""A detector with its weights, for pictures: as detectron2's DefaultPredictor, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from PIL import Image

from lambda_det.checkpoint import load_weights
from lambda_det.data.augmentations import keep_one_pixel
from lambda_det.errors import InputError
from lambda_det.evaluation.instances import at_least

Key = TypeVar("Key")

_WAITING = 4  # batches' worth of pictures of all sizes that may wait for companions


def need_weights(cfg: CfgNode) -> None:
    """Raise InputError where MODEL.WEIGHTS is empty: what random weights find is nothing."""
    if not cfg.MODEL.WEIGHTS:
        raise InputError(
            "MODEL.WEIGHTS is empty: predicting needs the weights of a trained model "
            "(--weights FILE)"
        )


class Predictor:
    """``Predictor(cfg)`` loads ``MODEL.WEIGHTS``; pictures are resized by ``INPUT.*_TEST``.

    A picture's result is the one it has alone: only pictures that are padded to the same size share
    a batch, because padding reaches every lambda layer's keys (and the heads of any network).

    Args:
        cfg: a checked config.

    Raises:
        InputError: MODEL.WEIGHTS is empty, cannot be read or does not fill the whole model.
    """

    def __init__(self, cfg: CfgNode) -> None:
        need_weights(cfg)
        self.cfg = cfg.clone()
        self.model = build_model(self.cfg).eval()
        load_weights(self.model, cfg.MODEL.WEIGHTS, complete=True, cfg=cfg)
        self._resize = T.AugmentationList(
            keep_one_pixel(detection_utils.build_augmentation(self.cfg, is_train=False))
        )
        backbone = getattr(self.model, "backbone", None)
        self._multiple = max(1, getattr(backbone, "size_divisibility", 0))

    def from_bgr(self, frame: np.ndarray) -> np.ndarray:
        """A frame (H, W, 3) of OpenCV in the model's ``INPUT.FORMAT``."""
        rgb = Image.fromarray(np.ascontiguousarray(frame[:, :, ::-1]))
        return detection_utils.convert_PIL_to_numpy(rgb, self.cfg.INPUT.FORMAT)

    def to_bgr(self, image: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`from_bgr`, to draw on."""
        if self.cfg.INPUT.FORMAT == "BGR":
            return image
        if self.cfg.INPUT.FORMAT == "YUV-BT.601":
            image = detection_utils.convert_image_to_rgb(image, self.cfg.INPUT.FORMAT)
        if image.shape[2] == 1:  # grey
            image = np.repeat(image, 3, axis=2)
        return np.ascontiguousarray(image[:, :, ::-1].round().clip(0, 255).astype(np.uint8))

    def predict(
        self, images: Sequence[np.ndarray], score_threshold: float = 0.0
    ) -> Iterator[Instances]:
        """Detections in pixels of the pictures as they came, on the CPU, best first.

        One picture's at a time: a hundred masks of a large one are more than a GB.

        Args:
            images: each (H, W, C) uint8 in ``INPUT.FORMAT``, all padded to the same size.
            score_threshold: the others have no masks made of them.

        Raises:
            InputError: the model gives no instances.
        """
        return self._of_inputs([self.prepare(image) for image in images], score_threshold)

    def stream(
        self,
        images: Iterable[tuple[Key, np.ndarray]],
        batch_size: int,
        score_threshold: float = 0.0,
    ) -> Iterator[tuple[Key, Instances]]:
        """:meth:`predict` of many pictures of any size, in batches, in whatever order is ready.

        Args:
            images: pictures by what names them; read as they are needed.
            batch_size: at most so many at once.
            score_threshold: as in :meth:`predict`.

        Raises:
            InputError: the model gives no instances.
        """
        waiting: dict[tuple[int, int], list[tuple[Key, dict]]] = {}
        for key, image in images:
            prepared = self.prepare(image)
            size = tuple(
                -(-side // self._multiple) * self._multiple for side in prepared["image"].shape[1:]
            )
            waiting.setdefault(size, []).append((key, prepared))
            if len(waiting[size]) == batch_size:
                yield from self._of_batch(waiting.pop(size), score_threshold)
            elif sum(map(len, waiting.values())) >= _WAITING * batch_size:
                yield from self._of_batch(waiting.pop(next(iter(waiting))), score_threshold)
        while waiting:
            yield from self._of_batch(waiting.pop(next(iter(waiting))), score_threshold)

    def prepare(self, image: np.ndarray) -> dict:
        """What the model takes for one picture (H, W, C): it resized, and the size that it had."""
        resized = T.AugInput(image)
        self._resize(resized)
        tensor = torch.as_tensor(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))
        return {"image": tensor, "height": image.shape[0], "width": image.shape[1]}

    def _of_batch(
        self, batch: list[tuple[Key, dict]], threshold: float
    ) -> Iterator[tuple[Key, Instances]]:
        keys, inputs = zip(*batch, strict=True)
        return zip(keys, self._of_inputs(inputs, threshold), strict=True)

    def _of_inputs(self, inputs: Sequence[dict], threshold: float) -> Iterator[Instances]:
        if type(self.model) is GeneralizedRCNN:  # else masks of a whole batch as large as pictures
            with torch.no_grad():
                outputs = self.model.inference(list(inputs), do_postprocess=False)
            for found, given in zip(outputs, inputs, strict=True):
                found = at_least(found, threshold)
                yield detector_postprocess(found, given["height"], given["width"]).to("cpu")
            return
        with torch.no_grad():
            outputs = self.model(list(inputs))
        for output in outputs:
            if "instances" not in output:
                name = self.cfg.MODEL.META_ARCHITECTURE
                raise InputError(f"MODEL.META_ARCHITECTURE={name!r}: gives no instances")
            yield at_least(output["instances"], threshold).to("cpu")
