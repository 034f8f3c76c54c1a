"""Predicts instances on images in batches, and turns instances into COCO results and drawings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from PIL import Image

from lambda_det.backbone import build_detector
from lambda_det.checkpoint import load_weights
from lambda_det.data.augmentations import keep_one_pixel
from lambda_det.errors import InputError
from lambda_det.evaluation.drawn_objects import (
    LEAST_KEYPOINT_SCORE,
    DrawnObject,
    colour_of_class,
    draw_objects,
    visible_points,
)
from lambda_det.predict.class_names import ClassNames

Key = TypeVar("Key")

_WAITING = 4  # batches of images that may wait, over all sizes, for others of their size
_READABLE = 400  # pixels; a smaller image is enlarged so that its labels can be read


def need_weights(cfg: CfgNode) -> None:
    """Check that MODEL.WEIGHTS is set, because a model with random weights detects nothing.

    Raises:
        InputError: MODEL.WEIGHTS is empty.
    """
    if not cfg.MODEL.WEIGHTS:
        raise InputError(
            "MODEL.WEIGHTS is empty: predicting needs the weights of a trained model "
            "(--weights FILE)"
        )


class Predictor:
    """detectron2's DefaultPredictor in batches, with weights that are checked.

    ``Predictor(cfg)`` loads ``MODEL.WEIGHTS``; images are resized by ``INPUT.*_TEST``. An image
    has the same result in a batch as alone: only images that are padded to the same size share a
    batch, because padding reaches the keys of every lambda layer (and the heads of any network).

    Args:
        cfg: a checked config.

    Raises:
        InputError: MODEL.WEIGHTS is empty, cannot be read or does not fill the whole model.
    """

    def __init__(self, cfg: CfgNode) -> None:
        need_weights(cfg)
        self.cfg = cfg.clone()
        self.model = build_detector(self.cfg).eval()
        load_weights(self.model, cfg.MODEL.WEIGHTS, complete=True, cfg=cfg)
        self._resize = T.AugmentationList(
            keep_one_pixel(detection_utils.build_augmentation(self.cfg, is_train=False))
        )
        backbone = getattr(self.model, "backbone", None)
        self._multiple = max(1, getattr(backbone, "size_divisibility", 0))

    def from_bgr(self, frame: np.ndarray) -> np.ndarray:
        """Convert a frame (H, W, 3) uint8 BGR, as OpenCV reads it, to the model's
        ``INPUT.FORMAT``."""
        rgb = Image.fromarray(np.ascontiguousarray(frame[:, :, ::-1]))
        return detection_utils.convert_PIL_to_numpy(rgb, self.cfg.INPUT.FORMAT)

    def to_bgr(self, image: np.ndarray) -> np.ndarray:
        """Convert an image (H, W, C) in ``INPUT.FORMAT`` to (H, W, 3) uint8 BGR, to draw on."""
        if self.cfg.INPUT.FORMAT == "BGR":
            return image
        if self.cfg.INPUT.FORMAT == "YUV-BT.601":
            image = detection_utils.convert_image_to_rgb(image, self.cfg.INPUT.FORMAT)
        if image.shape[2] == 1:  # a grey image
            image = np.repeat(image, 3, axis=2)
        return np.ascontiguousarray(image[:, :, ::-1].round().clip(0, 255).astype(np.uint8))

    def stream(
        self,
        images: Iterable[tuple[Key, np.ndarray]],
        batch_size: int,
        score_threshold: float = 0.0,
    ) -> Iterator[tuple[Key, Instances]]:
        """Predict on images, which are read as they are needed.

        Images that are padded to one size keep their order; images of another size may overtake
        them. Masks are made for one image at a time, because a hundred masks of a large image take
        more than a GB.

        Args:
            images: pairs of a key and an image (H, W, C) uint8 in ``INPUT.FORMAT``, of any size.
            batch_size: largest number of images in a batch.
            score_threshold: detections with a lower score are left out before masks are made.

        Yields:
            Pairs of the key and the detections of an image, on the CPU, in pixels of the image as
            it was given, sorted by falling score.

        Raises:
            InputError: the model does not return instances.
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
        """The model's input for an image (H, W, C) in ``INPUT.FORMAT``: ``image``, the resized
        tensor (C, H', W'), and ``height`` and ``width`` of the original in pixels."""
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
        if type(self.model) is GeneralizedRCNN:  # its masks can be made image by image
            with torch.no_grad():
                outputs = self.model.inference(list(inputs), do_postprocess=False)
            for found, given in zip(outputs, inputs, strict=True):
                found = found[found.scores >= threshold]
                yield detector_postprocess(found, given["height"], given["width"]).to("cpu")
            return
        with torch.no_grad():
            outputs = self.model(list(inputs))
        for output in outputs:
            if "instances" not in output:
                name = self.cfg.MODEL.META_ARCHITECTURE
                raise InputError(
                    f"MODEL.META_ARCHITECTURE={name!r}: this model returns no instances"
                )
            found = output["instances"]
            yield found[found.scores >= threshold].to("cpu")


def coco_results(instances: Instances, image_id: int, classes: ClassNames) -> list[dict]:
    """Convert instances to the entries of a COCO results json.

    Boxes become x, y, width, height in pixels, masks become compressed RLE, and keypoints x, y,
    score of each in pixels.

    Args:
        instances: predictions of one image, on the CPU.
        image_id: id of the image in the json.
        classes: gives the ``category_id`` of each class.
    """
    if instances.has("pred_keypoints"):  # detectron2 subtracts half a pixel in place
        instances = Instances(instances.image_size, **instances.get_fields())
        instances.pred_keypoints = instances.pred_keypoints.clone()
    entries = instances_to_coco_json(instances, image_id)
    for entry in entries:
        entry["category_id"] = classes.ids[entry["category_id"]]
    return entries


def draw_instances(
    image: np.ndarray, instances: Instances, classes: ClassNames, *, same_size: bool = False
) -> np.ndarray:
    """Draw boxes, masks, keypoints, class names and scores on a copy of an image.

    Args:
        image: (H, W, 3) uint8 BGR.
        instances: predictions for this image, on the CPU.
        classes: names of the classes.
        same_size: whether to keep the size. Otherwise, an image whose sides are both below 400
            pixels is enlarged.

    Returns:
        The drawing (H, W, 3) uint8 BGR.
    """
    objects = []
    for index in instances.scores.argsort().tolist():  # the best is drawn last
        one = instances[index]
        x0, y0, x1, y1 = one.pred_boxes.tensor[0].tolist()
        number = int(one.pred_classes)
        points = one.pred_keypoints.flatten().tolist() if one.has("pred_keypoints") else []
        objects.append(
            DrawnObject(
                box=(x0, y0, x1 - x0, y1 - y0),
                mask=one.pred_masks[0].numpy() if one.has("pred_masks") else None,
                label=f"{classes.names[number]} {float(one.scores):.2f}",
                colour=colour_of_class(number),
                points=visible_points(points, LEAST_KEYPOINT_SCORE),
            )
        )
    small = max(image.shape[:2]) < _READABLE and not same_size
    return draw_objects(image, objects, longest=_READABLE if small else None)
