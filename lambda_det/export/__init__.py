"""Exports networks to files that run without this package: TorchScript, ``torch.export``, ONNX."""

from lambda_det.export.checking import Difference, largest_difference
from lambda_det.export.exporting import export_config
from lambda_det.export.forms import BackboneForm, detector_form

__all__ = [
    "BackboneForm",
    "Difference",
    "detector_form",
    "export_config",
    "largest_difference",
]
