"""LambdaResNet backbones for detectron2.

Importing this package registers the backbones; ``add_lambda_config`` adds their config keys.
"""

import warnings

try:
    import detectron2  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "detectron2":
        raise
    raise ModuleNotFoundError(
        "lambda_det needs detectron2 (v0.5, v0.6 or main): see "
        "https://detectron2.readthedocs.io/tutorials/install.html, or run tools/setup_env.sh in a "
        "checkout of lambda_det for a ready environment without a compiler",
        name="detectron2",
    ) from None

with warnings.catch_warnings():  # detectron2 scripts two classes when it is imported
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
    import lambda_det.backbone  # noqa: F401  (registers the backbones)
from lambda_det.checkpoint.addresses import register_addresses
from lambda_det.config import add_lambda_config, get_cfg
from lambda_det.configs import get_config
from lambda_det.version import __version__

register_addresses()  # timm:// and torchvision:// for MODEL.WEIGHTS

__all__ = ["__version__", "add_lambda_config", "get_cfg", "get_config"]
