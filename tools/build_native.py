#!/usr/bin/env python3
"""Compile the kernels of the back end "native" ahead of their first use."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lambda_det.commands.build_native import main

if __name__ == "__main__":
    sys.exit(main())
