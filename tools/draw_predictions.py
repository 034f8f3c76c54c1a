#!/usr/bin/env python3
"""Draw predictions beside ground truth into one PNG."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lambda_det.commands.draw_predictions import main

if __name__ == "__main__":
    sys.exit(main())
