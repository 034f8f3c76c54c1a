#!/usr/bin/env python3
"""Run a suite of models and seeds, and compare them in one table."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lambda_det.commands.compare import main

if __name__ == "__main__":
    sys.exit(main())
