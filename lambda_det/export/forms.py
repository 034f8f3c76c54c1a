"""The modules that are exported: a backbone or a detector as a function of one tensor."""

from __future__ import annotations

import copy

from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes
from torch import Tensor, nn

from lambda_det.compat import tracing_adapter
from lambda_det.errors import InputError

FIELDS = ("pred_boxes", "pred_classes", "pred_masks", "scores")
"""The outputs of a detector, in this order; without ``pred_masks`` if it has no mask head."""


class BackboneForm(nn.Module):
    """A backbone, with or without FPN, that maps (N, C, H, W) to its features as a tuple.

    Args:
        backbone: the backbone; it is put into evaluation mode.

    Attributes:
        names: names of the features, in the order of the tuple.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone.eval()
        self.names = tuple(backbone.output_shape())
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone(x)
        return tuple(features[name] for name in self.names)


def detector_form(model: nn.Module, example: Tensor) -> nn.Module:
    """Make a module that maps one image (3, H, W) to the detections :data:`FIELDS` in it.

    The image is what detectron2 calls ``"image"`` in the input of a model. Boxes are in pixels of
    this image and masks are the output of the mask head (28 x 28 for each box): nothing is scaled
    to the size of another image.

    Args:
        model: a detector in evaluation mode.
        example: an image (3, H, W).

    Returns:
        The module to trace; its attribute ``names`` holds the names of its outputs.

    Raises:
        InputError: this kind of detector cannot be exported as a whole.
    """
    check_detector(model)
    names = tuple(n for n in FIELDS if n != "pred_masks" or model.roi_heads.mask_on)
    adapter = tracing_adapter()(_with_plain_group_norms(model), example, detect).eval()
    adapter.names = names
    return adapter


def check_detector(model: nn.Module) -> None:
    """Raise InputError for a kind of detector that cannot be exported as a whole."""
    # Panoptic FPN is a subclass of GeneralizedRCNN with another inference method.
    if getattr(type(model), "inference", None) is not GeneralizedRCNN.inference:
        raise InputError(
            f"--what detector: MODEL.META_ARCHITECTURE={type(model).__name__!r} cannot be exported "
            "as a whole, only GeneralizedRCNN can; --what backbone works for all"
        )


def detect(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """Run a detector on an image (3, H, W) and return its detections as tensors by name."""
    fields = model.inference([{"image": image}], do_postprocess=False)[0].get_fields()
    # FIELDS is in alphabetical order because detectron2's adapter sorts the keys of this dict.
    return {n: value.tensor if isinstance(value, Boxes) else value for n, value in fields.items()}


def _with_plain_group_norms(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in which plain operators replace GroupNorm.

    GroupNorm is exported to ONNX with a reshape that fails in onnxruntime if there is no box.
    """
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.GroupNorm:
                setattr(module, name, _PlainGroupNorm(child))
    return model


class _PlainGroupNorm(nn.Module):
    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        groups = x.reshape(x.shape[0], norm.num_groups, x.shape[1] // norm.num_groups, *x.shape[2:])
        axes = tuple(range(2, groups.dim()))
        centred = groups - groups.mean(axes, keepdim=True)
        scale = (centred.square().mean(axes, keepdim=True) + norm.eps).rsqrt()
        x = (centred * scale).reshape(x.shape)
        if not norm.affine:
            return x
        shape = (1, -1, *(1,) * (x.dim() - 2))
        return x * norm.weight.reshape(shape) + norm.bias.reshape(shape)
