#!/usr/bin/env python3
"""Pretrain a backbone on an ImageFolder: train/CLASS/*.jpg and val/CLASS/*.jpg."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lambda_det.commands.pretrain import main

if __name__ == "__main__":
    sys.exit(main())
