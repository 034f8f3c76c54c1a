#!/usr/bin/env python3
"""Train or evaluate a detector of a LazyConfig with detectron2's usual flags."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lambda_det.commands.lazyconfig_train_net import main

if __name__ == "__main__":
    sys.exit(main())
