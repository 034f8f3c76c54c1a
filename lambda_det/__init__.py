"""LambdaResNet backbones for detectron2.

Importing this package registers the backbones. :func:`get_cfg` returns detectron2's default config
with the keys of lambda_det, :func:`add_lambda_config` adds these keys to a config, and
:func:`get_config` returns a config that comes with the package.
"""

import logging
import warnings

try:
    import detectron2  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "detectron2":
        raise
    raise ModuleNotFoundError(
        "lambda_det needs detectron2 (v0.5, v0.6 or main): install it as described at "
        "https://detectron2.readthedocs.io/tutorials/install.html, or run "
        "lambda_det install_detectron2, which needs no compiler",
        name="detectron2",
    ) from None

with warnings.catch_warnings():  # detectron2 scripts two classes when it is imported
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
    import lambda_det.backbone  # noqa: F401  (registers the backbones)
from lambda_det.checkpoint.addresses import register_addresses
from lambda_det.config import add_lambda_config, get_cfg
from lambda_det.configs import get_config
from lambda_det.version import __version__

# What shows detectron2's log, such as its setup_logger(), then shows the lines of lambda_det, too.
logging.getLogger("lambda_det").parent = logging.getLogger("detectron2")
register_addresses()  # MODEL.WEIGHTS then accepts timm:// and torchvision://

__all__ = ["__version__", "add_lambda_config", "get_cfg", "get_config"]
