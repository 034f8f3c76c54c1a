"""ImageNet-style pretraining of the family's backbones on timm's parts.

Importing this package registers the family with timm: ``timm.create_model("lambda_resnet101")``.
timm is an optional requirement, ``pip install "lambda_det[pretrain]"``.
"""

try:
    import timm  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "timm":
        raise
    raise ModuleNotFoundError(
        "pretraining needs timm, which is not installed: pip install timm", name="timm"
    ) from None

from lambda_det.pretrain.config import add_pretrain_config, get_pretrain_cfg
from lambda_det.pretrain.run import pretrain
from lambda_det.pretrain.timm_models import TimmLambdaResNet
from lambda_det.pretrain.trainer import Pretrainer

__all__ = [
    "Pretrainer",
    "TimmLambdaResNet",
    "add_pretrain_config",
    "get_pretrain_cfg",
    "pretrain",
]
