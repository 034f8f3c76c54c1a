#!/usr/bin/env python3
"""Write the generated shapes dataset (COCO layout, or an ImageFolder) and print its statistics."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lambda_det.commands.make_shapes_dataset import main

if __name__ == "__main__":
    sys.exit(main())
