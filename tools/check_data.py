#!/usr/bin/env python3
"""Read a dataset as a training would, report what is odd in it, and write it clean."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lambda_det.commands.check_data import main

if __name__ == "__main__":
    sys.exit(main())
