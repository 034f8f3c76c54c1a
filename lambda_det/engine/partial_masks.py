"""Masks are learned from the objects that have one, where a dataset has masks for some only."""

from __future__ import annotations

import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from lambda_det.data.mapper import WITH_MASK


def learn_given_masks(model: nn.Module) -> None:
    """Let the mask head of an R-CNN learn from the objects that have a mask.

    All objects train the boxes and classes. A model without a mask head is left as it is.

    Args:
        model: a detector of detectron2, whose images come from our mapper.
    """
    head = getattr(getattr(model, "roi_heads", None), "mask_head", None)
    if isinstance(head, nn.Module):
        head.register_forward_pre_hook(_select)


def _select(head: nn.Module, inputs: tuple) -> tuple | None:
    """Leave out the objects without a mask from the inputs of a mask head.

    Args:
        head: the mask head.
        inputs: features of all regions (N, C, H, W), or of another form, and the instances of each
            image, N in all.
    """
    features, instances, *others = inputs
    if not head.training or not any(image.has(WITH_MASK) for image in instances):
        return None
    chosen = [_with_mask(image) for image in instances]
    if isinstance(features, Tensor):  # PointRend's head takes whole maps
        features = features[torch.cat(chosen)]
    return features, [i[mask] for i, mask in zip(instances, chosen, strict=True)], *others


def _with_mask(image: Instances) -> Tensor:
    if image.has(WITH_MASK):
        return image.get(WITH_MASK)
    return torch.ones(len(image), dtype=torch.bool, device=image.proposal_boxes.device)
