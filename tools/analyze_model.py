#!/usr/bin/env python3
"""Count a detector's parameters, multiply-adds and activation memory, and time it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lambda_det.commands.analyze_model import main

if __name__ == "__main__":
    sys.exit(main())
