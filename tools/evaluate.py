#!/usr/bin/env python3
"""Compute COCO's AP and AR of a config with weights, or of saved predictions."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lambda_det.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
