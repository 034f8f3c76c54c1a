"""Which part of a padded batch is image, from detectron2's meta-architectures to the blocks.

detectron2 pads the images of a batch to one size, and a meta-architecture hands the backbone the
padded tensor alone. The sizes therefore travel as an attribute of that tensor: they live as long
as it does, and no other tensor can be taken for it. :func:`share_image_sizes` makes a
meta-architecture attach them.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Sequence

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

_ATTRIBUTE = "lambda_det_image_sizes"
_METHOD = "preprocess_image"


def attach_image_sizes(batch: Tensor, image_sizes: Sequence) -> Tensor:
    """Note on a padded batch how large its images are; nothing where no image is padded.

    For the forward of a meta-architecture of your own that :func:`share_image_sizes` does not know
    how to treat. A tensor that is made from ``batch`` (another type, another device) does not
    inherit the note; among these is what ``torch.utils.checkpoint`` hands a whole backbone in the
    backward pass with ``use_reentrant=True`` (around blocks either way is right).

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


def share_image_sizes(meta_architecture: type[nn.Module] | object) -> bool:
    """Let a meta-architecture's ``preprocess_image`` attach the sizes to the batch it returns.

    The class that defines the method is changed, once, and computes what it did before.

    Returns:
        Whether it has such a method. (A function that builds a model, which detectron2's registry
        takes as well, has none.)
    """
    classes = getattr(meta_architecture, "__mro__", ())
    owners = [cls for cls in classes if isinstance(vars(cls).get(_METHOD), types.FunctionType)]
    if not owners:
        return False
    original = vars(owners[0])[_METHOD]
    if not hasattr(original, _ATTRIBUTE):
        setattr(owners[0], _METHOD, _attaching(original))
    return True


def share_all_image_sizes() -> None:
    """:func:`share_image_sizes` of every meta-architecture in detectron2's registry."""
    for _name, meta_architecture in META_ARCH_REGISTRY:
        share_image_sizes(meta_architecture)


def _attaching(original: types.FunctionType) -> types.FunctionType:
    attach = _attach_to_image_list

    def preprocess_image(self, *args, **kwargs):
        return attach(original(self, *args, **kwargs))

    # torch.jit.script reads the source of what is wrapped and looks its names up here.
    wrapped = types.FunctionType(
        preprocess_image.__code__, original.__globals__, closure=preprocess_image.__closure__
    )
    functools.update_wrapper(wrapped, original)
    setattr(wrapped, _ATTRIBUTE, True)
    return wrapped


def _attach_to_image_list(images: object) -> object:
    sizes, batch = getattr(images, "image_sizes", None), getattr(images, "tensor", None)
    if sizes is not None and isinstance(batch, Tensor):
        attach_image_sizes(batch, sizes)
    return images
