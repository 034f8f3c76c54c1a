"""Which part of a padded batch is image, from detectron2's meta-architectures to the blocks.

detectron2 pads the images of a batch to one size, and a meta-architecture hands the backbone the
padded tensor alone. The sizes therefore travel as an attribute of that tensor: they live as long
as it does, and no other tensor can be taken for it. :func:`share_image_sizes` makes a model of
such a meta-architecture attach them.
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
    """Note on a padded batch how large its images are; nothing where no image is padded.

    For the forward of a meta-architecture of your own without a ``preprocess_image``. A tensor that
    is made from ``batch`` (another type, another device) does not inherit the note; among these is
    what ``torch.utils.checkpoint`` hands a whole backbone in the backward pass with
    ``use_reentrant=True`` (around blocks either way is right).

    Args:
        batch: (N, C, H, W), images in the upper left corner, zeros elsewhere.
        image_sizes: (height, width) of every image, as in detectron2's ``ImageList``.

    Returns:
        ``batch``. Sizes that do not fit it are not noted; what was noted before is forgotten.
    """
    if hasattr(batch, _ATTRIBUTE):  # a buffer that is filled again and again
        delattr(batch, _ATTRIBUTE)
    if torch.jit.is_tracing():  # sizes are tensors, and the graph must hold for others
        sizes = torch.stack([torch.as_tensor(size, device=batch.device) for size in image_sizes])
        setattr(batch, _ATTRIBUTE, sizes)
        return batch
    full = tuple(batch.shape[-2:])
    sizes = [(int(height), int(width)) for height, width in image_sizes]
    fits = len(sizes) == batch.shape[0] and all(
        height <= full[0] and width <= full[1] for height, width in sizes
    )
    if fits and any(size != full for size in sizes):
        setattr(batch, _ATTRIBUTE, torch.tensor(sizes, device=batch.device))
    return batch


def padding_mask(batch: Tensor, stride: int) -> Tensor | None:
    """Which positions of a feature map are padding.

    A position belongs to the image when the upper left of the ``stride`` x ``stride`` pixels that
    it stands for does: an image of H rows has ceil(H / stride) rows of features, as many as if it
    were alone and convolutions rounded up. ``mask[:, ::2, ::2]`` is hence the mask at twice the
    stride.

    Args:
        batch: (N, C, H, W), the input of the backbone.
        stride: of the feature map.

    Returns:
        (N, ceil(H / stride), ceil(W / stride)) bool, True in the padding; None where no sizes were
        attached to ``batch``, that is also where every image fills it.
    """
    sizes = getattr(batch, _ATTRIBUTE, None)
    if sizes is None:
        return None
    height, width = batch.shape[-2:]
    below = torch.arange(0, height, stride, device=batch.device) >= sizes[:, :1]
    right = torch.arange(0, width, stride, device=batch.device) >= sizes[:, 1:]
    return below[:, :, None] | right[:, None, :]


def share_image_sizes(model: nn.Module) -> bool:
    """Let ``model.preprocess_image`` attach the sizes to the batch that it returns.

    Only this model is changed, not its class, and so are copies of it that ``copy.deepcopy`` and
    pickle make. Every model that is given a backbone with ``mask_padding`` is changed so anyway,
    see :func:`watch_for_models`; call this function where you put such a backbone deep into a
    finished model.

    Returns:
        Whether the model has such a method.
    """
    if not isinstance(inspect.getattr_static(type(model), _METHOD, None), types.FunctionType):
        return False
    setattr(model, _METHOD, _AttachingSizes(model))
    return True


class _AttachingSizes:
    """``preprocess_image`` of the model's class, with the sizes attached to the batch.

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
    """From now on call :func:`share_image_sizes` for every model that is given a masking backbone.

    A detector is made after its backbone, by detectron2's ``build_model`` or ``instantiate`` too,
    which know nothing of this package, and the builder of a backbone is not told which detector it
    works for. PyTorch's hook for a module that is assigned to another one is where the two meet: it
    leaves detectron2's classes alone and asks no step of a user's script. It is called for every
    such assignment of the process; only modules with a ``preprocess_image`` are looked into.
    """
    register_module_module_registration_hook(_share_if_it_masks)


def _share_if_it_masks(model: nn.Module, _name: str, part: nn.Module | None) -> None:
    if part is None or not hasattr(type(model), _METHOD):
        return
    if any(getattr(module, "mask_padding", False) for module in part.modules()):
        share_image_sizes(model)
