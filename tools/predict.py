#!/usr/bin/env python3
"""Predict on images and videos: draw boxes, masks, keypoints and scores, and write COCO results."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lambda_det.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
