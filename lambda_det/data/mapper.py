"""detectron2's dataset mapper with large-scale jitter, mixed mask formats and clear errors."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, Keypoints, PolygonMasks

from lambda_det.config import PILLOW_LIMIT
from lambda_det.data.augmentations import keep_one_pixel, large_scale_jitter
from lambda_det.data.images.image_files import ImageReading, expected_size, read_image
from lambda_det.errors import InputError, UnreadableImageError

WITH_MASK = "gt_with_mask"
"""Field of an image's instances: False for those whose ``gt_masks`` is not to be learned, because
their annotation has no mask. Images in which all have one do not have it."""


class LambdaDatasetMapper(DatasetMapper):
    """detectron2's :class:`~detectron2.data.DatasetMapper` for COCO data as people export them.

    It is built as detectron2's: ``LambdaDatasetMapper(cfg, is_train)``, or with detectron2's
    explicit arguments. It differs in the following:

    - With ``INPUT.LSJ.ENABLED``, large-scale jitter replaces the resizing of the training images,
      as in detectron2's ``new_baselines``, and the boxes are recomputed after the crop.
    - A recomputed box encloses what the crop leaves of the object's polygons, as in detectron2;
      only the box of an object stored as RLE is computed from its bitmask. Bitmasks drawn from
      polygons lose fractions of pixels, which is a third of the box of an object of 3 pixels.
    - With ``INPUT.MASK_FORMAT`` ``"polygon"``, an image that has an object stored as RLE gets
      bitmasks for all of its objects; other images get polygons. With ``"bitmask"``, all get
      bitmasks.
    - An image that cannot be decoded or whose size is not that of the json raises an
      :class:`~lambda_det.errors.UnreadableImageError`, and an annotation whose mask cannot be used
      an :class:`~lambda_det.errors.InputError`, that name the file.
    - An object without a mask, beside others that have one, gets its box as a mask, and its image
      the field ``gt_with_mask`` (N,) bool, by which :func:`lambda_det.engine.run` leaves it out of
      the loss of masks; another trainer would learn the box.
    - An object without keypoints, beside others that have some, gets invisible ones.
    - Objects that a crop removes are dropped in both mask formats (detectron2 v0.5 stops with an
      error on a polygon that is cropped to nothing). Polygons of fewer than 3 points are dropped
      too. An image without objects has an empty ``gt_masks``.
    - ``exif``, ``white_level`` and ``max_pixels`` are those of
      :class:`~lambda_det.data.images.image_files.ImageReading`.
    - 16-bit grey is scaled to 8 bits (Pillow clips it to white), and the shorter side of a long
      thin image keeps at least one pixel.
    - Coordinates stored as integers are converted to float first, because fvcore's transforms write
      into their input array and would truncate them.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        exif: str = "auto",
        white_level: int = 0,
        max_pixels: int = PILLOW_LIMIT,
        **arguments: Any,
    ) -> None:
        super().__init__(is_train, **arguments)
        self.reading = ImageReading(exif, white_level, max_pixels)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Read the constructor's arguments from a config.

        Raises:
            InputError: a value of ``INPUT.LSJ`` or ``INPUT.RANDOM_FLIP`` is not valid, or
                ``INPUT.CROP`` is enabled together with ``INPUT.LSJ``.
        """
        flip = cfg.INPUT.RANDOM_FLIP
        if is_train and flip not in ("horizontal", "vertical", "none"):
            raise InputError(
                f"INPUT.RANDOM_FLIP {flip!r}: 'horizontal', 'vertical' or 'none' is allowed"
            )
        if cfg.MODEL.KEYPOINT_ON and not is_train:  # detectron2 wants the training sets' metadata
            cfg = cfg.clone()
            cfg.defrost()
            cfg.MODEL.KEYPOINT_ON = False
        arguments = super().from_config(cfg, is_train)
        if is_train and cfg.INPUT.LSJ.ENABLED:
            if cfg.INPUT.CROP.ENABLED:
                raise InputError(
                    "INPUT.CROP.ENABLED and INPUT.LSJ.ENABLED are both True; "
                    "large-scale jitter crops by itself, so only one of them may be True"
                )
            arguments["augmentations"] = large_scale_jitter(
                scale=cfg.INPUT.LSJ.SCALE, size=cfg.INPUT.LSJ.SIZE, flip=flip
            )
            arguments["recompute_boxes"] = cfg.MODEL.MASK_ON
        arguments["augmentations"] = keep_one_pixel(arguments["augmentations"])
        return {**arguments, **vars(ImageReading.from_config(cfg))}

    def __call__(self, dataset_dict: dict) -> dict:
        """Read one image, transform it and its objects, and convert them to tensors.

        Args:
            dataset_dict: one image in detectron2's dataset format; it is not changed.

        Returns:
            A dict in the input format of detectron2's models: ``image`` (3, H, W) uint8, and in
            training ``instances`` with ``gt_boxes`` (x1, y1, x2, y2 in pixels), ``gt_classes`` and,
            if they are on, ``gt_masks`` and ``gt_keypoints``.

        Raises:
            InputError: the image or an annotation cannot be used, see the class.
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
        """Read the image (H, W, 3) in ``image_format`` and check its size against the json."""
        path = dataset_dict["file_name"]
        image = read_image(
            path,
            self.image_format,
            reading=self.reading,
            expected=expected_size(dataset_dict),
        )
        try:
            detection_utils.check_image_size(dataset_dict, image)
        except detection_utils.SizeMismatchError as error:
            raise UnreadableImageError(
                f"image {path} is {image.shape[1]} x {image.shape[0]} pixels (width x height), "
                f"but its json says {dataset_dict['width']} x {dataset_dict['height']}"
            ) from error
        return image

    def _prepare(self, annotation: dict, dataset_dict: dict) -> None:
        """Check one annotation and convert it, in place, to what its transformation needs."""
        if not self.use_keypoint:
            annotation.pop("keypoints", None)
        else:  # a class without keypoints, beside one that has them
            annotation["keypoints"] = annotation.get("keypoints") or [0.0] * 3 * len(
                self.keypoint_hflip_indices
            )
        annotation["bbox"] = [float(value) for value in annotation["bbox"]]
        if not self.use_instance_mask:
            annotation.pop("segmentation", None)
            return
        path, segmentation = dataset_dict["file_name"], annotation.get("segmentation")
        if not segmentation:  # beside others that have one; see WITH_MASK
            x, y, right, bottom = BoxMode.convert(
                annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS
            )
            rectangle = np.array([x, y, right, y, right, bottom, x, bottom])
            annotation.update(segmentation=[rectangle], **{WITH_MASK: False})
            return
        if isinstance(segmentation, list):
            polygons = [np.asarray(p, dtype=np.float64) for p in segmentation]
            for polygon in polygons:
                if polygon.ndim != 1 or len(polygon) % 2:
                    raise InputError(
                        f"image {path}: a polygon is not a list x0, y0, x1, y1 ... but has shape "
                        f"{polygon.shape}; a segmentation is a list of such lists"
                    )
            # The intake drops short polygons already; a user's own dataset may still have them.
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
        """Transform the objects and keep those that are still visible."""
        kept = []
        for annotation in annotations:
            transformed = detection_utils.transform_instance_annotations(
                annotation,
                transforms,
                height_width,
                keypoint_hflip_indices=self.keypoint_hflip_indices,
            )
            # v0.5 cannot convert an empty list, as of polygons outside the crop, to a bitmask.
            segmentation = transformed.get("segmentation")
            if not (isinstance(segmentation, list) and not segmentation):
                kept.append(_plain(transformed))
        if not kept:
            return self._no_instances(height_width)
        has_rle = any(isinstance(a.get("segmentation"), np.ndarray) for a in kept)
        instances = detection_utils.annotations_to_instances(
            kept, height_width, mask_format="bitmask" if has_rle else self.instance_mask_format
        )
        with_mask = [a.get(WITH_MASK, True) for a in kept]
        if not all(with_mask):
            instances.set(WITH_MASK, torch.tensor(with_mask))
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
        if self.use_keypoint:
            shape = 0, len(self.keypoint_hflip_indices), 3
            instances.gt_keypoints = Keypoints(torch.zeros(shape))
        return instances


def _tight_box(segmentation: list[np.ndarray] | np.ndarray) -> Boxes:
    """The box around an object's polygons, or around its bitmask (H, W) if it has no polygons."""
    if isinstance(segmentation, list):
        return PolygonMasks([segmentation]).get_bounding_boxes()
    return BitMasks(torch.as_tensor(segmentation)[None]).get_bounding_boxes()


def _plain(annotation: dict) -> dict:
    """Convert values to types that PyTorch accepts without a warning: lists, writable arrays."""
    annotation["bbox"] = [float(value) for value in annotation["bbox"]]
    if "keypoints" in annotation:
        annotation["keypoints"] = annotation["keypoints"].tolist()
    if isinstance(annotation.get("segmentation"), np.ndarray):
        annotation["segmentation"] = annotation["segmentation"].copy()
    return annotation
