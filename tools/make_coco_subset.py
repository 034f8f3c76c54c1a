#!/usr/bin/env python3
"""Make a small COCO-layout folder out of a few images of a large one."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lambda_det.commands.make_coco_subset import main

if __name__ == "__main__":
    sys.exit(main())
