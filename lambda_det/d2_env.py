"""Use lambda_det in detectron2's own scripts: set ``DETECTRON2_ENV_MODULE=lambda_det.d2_env``.

When detectron2 is imported, it imports the module in this environment variable and calls its
``setup_environment``. This happens before a script creates a config. If you already use the
variable for another module, call :func:`setup_environment` in that module's function.
"""

from __future__ import annotations

import logging
import os

logger = logging.getLogger(__name__)


def setup_environment() -> None:
    """Register the backbones, weights addresses and datasets, and extend detectron2's get_cfg.

    After this call, ``detectron2.config.get_cfg()`` includes the keys of lambda_det. If the
    environment variable LAMBDA_DET_COCO_FOLDER is set, the splits of that folder are registered as
    the datasets ``coco_folder_<split>``; their json files are read when they are first used.
    Repeated calls are allowed.
    """
    # These imports are inside the function, because ``import lambda_det`` may be what imports
    # detectron2; lambda_det is then only partly imported when detectron2 calls this function.
    from detectron2.config import defaults

    import lambda_det.backbone  # noqa: F401  (registers the backbones)
    from lambda_det.checkpoint.addresses import register_addresses
    from lambda_det.config import add_lambda_config

    register_addresses()
    add_lambda_config(defaults._C)  # get_cfg returns a clone of this node
    _register_folder()


def _register_folder() -> None:
    from lambda_det.data.registering.coco_folder import ENVIRONMENT_VARIABLE, register_splits

    folder = os.environ.get(ENVIRONMENT_VARIABLE)
    if not folder:
        return
    if not register_splits(folder):
        logger.warning(
            "%s=%s: this folder has no split in COCO layout, so no dataset is registered",
            ENVIRONMENT_VARIABLE, folder,
        )  # fmt: skip
