"""For detectron2's own scripts, unchanged: ``DETECTRON2_ENV_MODULE=lambda_det.d2_env``.

detectron2 imports the module that this environment variable names and calls its
``setup_environment`` while it is imported itself, before any script makes a config. One variable
names one module: where it is taken, call :func:`setup_environment` from that module's.
"""

from __future__ import annotations

import logging
import os

logger = logging.getLogger(__name__)


def setup_environment() -> None:
    """Register the backbones and addresses, and put our keys into detectron2's default config.

    With ``LAMBDA_DET_COCO_FOLDER`` the splits of that folder are datasets too, under the names
    ``coco_folder_<split>``; their jsons are read when they are used. Safe to call again.
    """
    # Not at the top, and never from the package itself: lambda_det may be what imports detectron2,
    # and is then half imported at this point.
    from detectron2.config import defaults

    import lambda_det.backbone  # noqa: F401  (registers the backbones)
    from lambda_det.checkpoint.addresses import register_addresses
    from lambda_det.config import add_lambda_config

    register_addresses()
    add_lambda_config(defaults._C)  # which detectron2's get_cfg clones
    _register_folder()


def _register_folder() -> None:
    from lambda_det.data.coco_folder import ENVIRONMENT_VARIABLE, register_splits

    folder = os.environ.get(ENVIRONMENT_VARIABLE)
    if not folder:
        return
    if not register_splits(folder):
        logger.warning(
            "%s=%s: no split in COCO layout there, no dataset is registered",
            ENVIRONMENT_VARIABLE, folder,
        )  # fmt: skip
