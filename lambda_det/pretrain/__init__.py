"""ImageNet-style pretraining of lambda_det's backbones with timm's transforms and optimisers.

Importing this package also registers the networks with timm:
``timm.create_model("lambda_resnet101")``. timm is an optional dependency:
``pip install "lambda_det[pretrain]"``.
"""

try:
    import timm  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "timm":
        raise
    raise ModuleNotFoundError(
        "pretraining needs timm, which is not installed: pip install timm", name="timm"
    ) from None

from lambda_det.pretrain.keys import add_pretrain_config, get_pretrain_cfg
from lambda_det.pretrain.parts import pretrain, pretrain_parts
from lambda_det.pretrain.timm_models import TimmLambdaResNet

__all__ = [
    "TimmLambdaResNet",
    "add_pretrain_config",
    "get_pretrain_cfg",
    "pretrain",
    "pretrain_parts",
]
