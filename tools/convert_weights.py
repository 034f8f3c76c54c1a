#!/usr/bin/env python3
"""Convert weights of timm, torchvision, detectron2 or d-li14 to the backbone's names."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lambda_det.commands.convert_weights import main

if __name__ == "__main__":
    sys.exit(main())
