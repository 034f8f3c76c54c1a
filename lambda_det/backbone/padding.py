"""Passes the sizes of the images in a padded batch from a detector to its backbone.

detectron2 pads the images of a batch to one size, and a meta-architecture gives its backbone the
padded tensor only. The sizes are therefore stored as an attribute of that tensor, so that they
exist as long as the tensor and belong to no other one. :func:`share_image_sizes` makes a model
attach them.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

_ATTRIBUTE = "lambda_det_image_sizes"
_METHOD = "preprocess_image"


def attach_image_sizes(batch: Tensor, image_sizes: Sequence) -> Tensor:
    """Attach the sizes of its images to a padded batch, unless no image is padded.

    Call it in the forward of your own meta-architecture if that has no ``preprocess_image``. A
    tensor that is made from ``batch`` (in another dtype, on another device) does not inherit the
    sizes. Neither does the tensor that ``torch.utils.checkpoint(use_reentrant=True)`` around a
    whole backbone passes to it in the backward pass; checkpointing single blocks is correct either
    way.

    Args:
        batch: (N, C, H, W), images in the upper left corner, zeros elsewhere.
        image_sizes: (height, width) of every image in pixels, as in detectron2's ``ImageList``.

    Returns:
        ``batch``. Sizes that were attached before are removed; sizes that do not fit ``batch`` are
        not attached.
    """
    if hasattr(batch, _ATTRIBUTE):  # the caller may reuse one buffer for many batches
        delattr(batch, _ATTRIBUTE)
    if torch.jit.is_tracing():  # here sizes are tensors, and the traced graph must keep them so
        sizes = torch.stack([torch.as_tensor(size, device=batch.device) for size in image_sizes])
        setattr(batch, _ATTRIBUTE, sizes)
        return batch
    full = tuple(batch.shape[-2:])
    sizes = [(int(height), int(width)) for height, width in image_sizes]
    fits = len(sizes) == batch.shape[0] and all(
        height <= full[0] and width <= full[1] for height, width in sizes
    )
    if fits and any(size != full for size in sizes):
        # A blocking copy would wait until the GPU has finished the iteration before.
        on_device = torch.tensor(sizes).to(batch.device, non_blocking=True)
        setattr(batch, _ATTRIBUTE, on_device)
    return batch


def padding_mask(batch: Tensor, stride: int) -> Tensor | None:
    """Compute which positions of a feature map are padding.

    A position of the feature map represents ``stride`` x ``stride`` pixels and belongs to the image
    if the upper left one of them does. An image of H rows thus has ceil(H / stride) rows of
    features, as many as without padding, and ``mask[:, ::2, ::2]`` is the mask at twice the stride.

    Args:
        batch: (N, C, H, W), the input of the backbone.
        stride: stride of the feature map in pixels.

    Returns:
        (N, ceil(H / stride), ceil(W / stride)) bool, True in the padding. None if ``batch`` has no
        sizes attached, which is also the case if no image is padded.
    """
    sizes = getattr(batch, _ATTRIBUTE, None)
    if sizes is None:
        return None
    height, width = batch.shape[-2:]
    below = torch.arange(0, height, stride, device=batch.device) >= sizes[:, :1]
    right = torch.arange(0, width, stride, device=batch.device) >= sizes[:, 1:]
    return below[:, :, None] | right[:, None, :]


def share_image_sizes(model: nn.Module) -> bool:
    """Make ``model.preprocess_image`` attach the sizes of the images to the batch that it returns.

    This changes only the given model, not its class; copies of the model by ``copy.deepcopy`` and
    pickle have the change too. Assigning a backbone with ``mask_padding`` to a model does this
    automatically, see :func:`watch_for_models`. Call the function yourself if you put such a
    backbone into a submodule of a finished model.

    Returns:
        Whether the model has a method ``preprocess_image``.
    """
    if not isinstance(inspect.getattr_static(type(model), _METHOD, None), types.FunctionType):
        return False
    setattr(model, _METHOD, _AttachingSizes(model))
    return True


class _AttachingSizes:
    """Calls ``preprocess_image`` of the model's class and attaches the sizes to its result.

    An object that holds the model: ``copy.deepcopy`` and pickle take it along with the model and
    bind it to the copy, which a closure or a bound method would not allow.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        images = getattr(type(self.model), _METHOD)(self.model, *args, **kwargs)
        sizes, batch = getattr(images, "image_sizes", None), getattr(images, "tensor", None)
        if sizes is not None and isinstance(batch, Tensor):
            attach_image_sizes(batch, sizes)
        return images


@functools.cache
def watch_for_models() -> None:
    """From now on, call :func:`share_image_sizes` for every model that gets a masking backbone.

    detectron2's ``build_model`` and ``instantiate`` build a detector after its backbone, and the
    builder of a backbone does not learn which detector it is for. This function therefore registers
    PyTorch's global hook that is called when one module is assigned to another
    (``register_module_module_registration_hook``). The hook changes no class of detectron2 and
    needs no step in a user's script. PyTorch calls it for every such assignment in the process; it
    returns at once for modules without a ``preprocess_image``.
    """
    register_module_module_registration_hook(_share_if_it_masks)


def _share_if_it_masks(model: nn.Module, _name: str, part: nn.Module | None) -> None:
    if part is None or not hasattr(type(model), _METHOD):
        return
    if any(getattr(module, "mask_padding", False) for module in part.modules()):
        share_image_sizes(model)
