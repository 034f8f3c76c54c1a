"""The dataset mapper: detectron2's, with large-scale jitter and errors a person can act on."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from lambda_det.data.images import read_image
from lambda_det.data.jitter import large_scale_jitter
from lambda_det.data.resizing import keep_one_pixel
from lambda_det.errors import InputError


class LambdaDatasetMapper(DatasetMapper):
    """``LambdaDatasetMapper(cfg, is_train)`` or detectron2's explicit arguments.

    As :class:`detectron2.data.DatasetMapper`, and in addition:

    - ``INPUT.LSJ.ENABLED``: large-scale jitter replaces the resizing of the training images (the
      augmentation of detectron2's ``new_baselines``), and boxes are recomputed after the crop.
    - A recomputed box is that of what the crop leaves of the object's polygons, as in detectron2;
      only an object stored as RLE has its bitmask's box. A bitmask drawn from polygons loses
      their fractions of pixels, and with them a third of the box of an object of 3 pixels.
    - With ``INPUT.MASK_FORMAT`` ``"polygon"`` an image with an object stored as RLE has bitmasks
      for all of its objects, the others polygons; ``"bitmask"`` makes bitmasks of all.
    - An image that cannot be decoded, has another size than its json says, or an annotation whose
      mask cannot be used, is an :class:`InputError` that names the file.
    - Objects that a crop removes are dropped for both mask formats (detectron2 v0.5 stops on
      a polygon cropped to nothing), as are polygons of fewer than 3 points, and an image without
      objects has an empty ``gt_masks``.
    - 16-bit grey is scaled to 8 bits (Pillow clips it to white), and a long thin picture keeps a
      pixel of its shorter side.
    - Coordinates stored as integers are transformed in floating point (fvcore's transforms write
      into the array that they are given, which cuts integers).
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Explicit arguments from a configuration.

        Raises:
            InputError: a bad ``INPUT.LSJ`` or ``INPUT.RANDOM_FLIP`` value, or ``INPUT.CROP``
                enabled together with ``INPUT.LSJ``.
        """
        flip = cfg.INPUT.RANDOM_FLIP
        if is_train and flip not in ("horizontal", "vertical", "none"):
            raise InputError(
                f"INPUT.RANDOM_FLIP {flip!r}: 'horizontal', 'vertical' or 'none' is allowed"
            )
        arguments = super().from_config(cfg, is_train)
        if is_train and cfg.INPUT.LSJ.ENABLED:
            if cfg.INPUT.CROP.ENABLED:
                raise InputError(
                    "INPUT.CROP.ENABLED and INPUT.LSJ.ENABLED are both True; "
                    "large-scale jitter crops by itself, so only one of them may be"
                )
            arguments["augmentations"] = large_scale_jitter(
                scale=cfg.INPUT.LSJ.SCALE, size=cfg.INPUT.LSJ.SIZE, flip=flip
            )
            arguments["recompute_boxes"] = cfg.MODEL.MASK_ON
        arguments["augmentations"] = keep_one_pixel(arguments["augmentations"])
        return arguments

    def __call__(self, dataset_dict: dict) -> dict:
        """One image and its objects, read, transformed and made into tensors.

        Args:
            dataset_dict: one image in detectron2's dataset format; not changed.

        Returns:
            The format of detectron2's models: ``image`` (3, H, W) uint8, and in training
            ``instances`` with ``gt_boxes``, ``gt_classes`` and, with masks, ``gt_masks``.

        Raises:
            InputError: see the class.
        """
        dataset_dict = copy.deepcopy(dataset_dict)
        image = self._read_image(dataset_dict)
        semantic = dataset_dict.pop("sem_seg_file_name", None)
        if semantic is not None:
            semantic = detection_utils.read_image(semantic, "L").squeeze(2)

        augmentation_input = T.AugInput(image, sem_seg=semantic)
        transforms = self.augmentations(augmentation_input)
        image, semantic = augmentation_input.image, augmentation_input.sem_seg
        height_width = image.shape[:2]
        dataset_dict["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if semantic is not None:
            dataset_dict["sem_seg"] = torch.as_tensor(semantic.astype("long"))
        if self.proposal_topk is not None:
            detection_utils.transform_proposals(
                dataset_dict, height_width, transforms, proposal_topk=self.proposal_topk
            )

        annotations = dataset_dict.pop("annotations", None)
        if self.is_train and annotations is not None:
            objects = [a for a in annotations if a.get("iscrowd", 0) == 0]
            for annotation in objects:
                self._prepare(annotation, dataset_dict)
            dataset_dict["instances"] = self._instances(objects, transforms, height_width)
        return dataset_dict

    def _read_image(self, dataset_dict: dict) -> np.ndarray:
        """The image (H, W, 3) in ``image_format``, of the size that the json says."""
        path = dataset_dict["file_name"]
        image = read_image(path, self.image_format)
        try:
            detection_utils.check_image_size(dataset_dict, image)
        except detection_utils.SizeMismatchError as error:
            raise InputError(
                f"image {path} is {image.shape[1]} x {image.shape[0]} pixels (width x height), "
                f"but its json says {dataset_dict['width']} x {dataset_dict['height']}"
            ) from error
        return image

    def _prepare(self, annotation: dict, dataset_dict: dict) -> None:
        """Bring one annotation, in place, into the form that its transformation needs."""
        if not self.use_keypoint:
            annotation.pop("keypoints", None)
        annotation["bbox"] = [float(value) for value in annotation["bbox"]]
        if not self.use_instance_mask:
            annotation.pop("segmentation", None)
            return
        path, segmentation = dataset_dict["file_name"], annotation.get("segmentation")
        if segmentation is None:
            raise InputError(f"image {path}: an annotation has no segmentation, but masks are on")
        if isinstance(segmentation, list):
            polygons = [np.asarray(p, dtype=np.float64) for p in segmentation]
            for polygon in polygons:
                if polygon.ndim != 1 or len(polygon) % 2:
                    raise InputError(
                        f"image {path}: a polygon is no list x0, y0, x1, y1 ... but has shape "
                        f"{polygon.shape}; a segmentation is a list of such lists"
                    )
            # detectron2's reader of COCO jsons leaves these out; a dataset of one's own may not.
            annotation["segmentation"] = [p for p in polygons if len(p) >= 6]
            return
        size, expected = list(segmentation["size"]), [dataset_dict["height"], dataset_dict["width"]]
        if size != expected:
            raise InputError(
                f"image {path}: an RLE mask has size {size}, the image {expected} (height, width)"
            )

    def _instances(
        self, annotations: list[dict], transforms: T.TransformList, height_width: tuple[int, int]
    ) -> Instances:
        """The transformed objects that are still to be seen."""
        kept = []
        for annotation in annotations:
            transformed = detection_utils.transform_instance_annotations(
                annotation,
                transforms,
                height_width,
                keypoint_hflip_indices=self.keypoint_hflip_indices,
            )
            # A polygon outside the crop is an empty list, which v0.5 cannot make into a bitmask.
            if not _is_cropped_away(transformed):
                kept.append(_plain(transformed))
        if not kept:
            return self._no_instances(height_width)
        has_rle = any(isinstance(a.get("segmentation"), np.ndarray) for a in kept)
        instances = detection_utils.annotations_to_instances(
            kept, height_width, mask_format="bitmask" if has_rle else self.instance_mask_format
        )
        if self.recompute_boxes:
            instances.gt_boxes = Boxes.cat([_tight_box(a["segmentation"]) for a in kept])
        return detection_utils.filter_empty_instances(instances)

    def _no_instances(self, height_width: tuple[int, int]) -> Instances:
        instances = Instances(height_width)
        instances.gt_boxes = Boxes(torch.zeros(0, 4))
        instances.gt_classes = torch.zeros(0, dtype=torch.int64)
        if self.use_instance_mask:
            instances.gt_masks = (
                PolygonMasks([])
                if self.instance_mask_format == "polygon"
                else BitMasks(torch.zeros(0, *height_width, dtype=torch.bool))
            )
        return instances


def _is_cropped_away(annotation: dict) -> bool:
    segmentation = annotation.get("segmentation")
    return isinstance(segmentation, list) and not segmentation


def _tight_box(segmentation: list[np.ndarray] | np.ndarray) -> Boxes:
    """The box of an object's polygons, or of its bitmask (H, W) where the json has no polygons."""
    if isinstance(segmentation, list):
        return PolygonMasks([segmentation]).get_bounding_boxes()
    return BitMasks(torch.as_tensor(segmentation)[None]).get_bounding_boxes()


def _plain(annotation: dict) -> dict:
    """The annotation in the types that PyTorch takes without warnings: a list, a writable array."""
    annotation["bbox"] = [float(value) for value in annotation["bbox"]]
    if isinstance(annotation.get("segmentation"), np.ndarray):
        annotation["segmentation"] = annotation["segmentation"].copy()
    return annotation
