#!/usr/bin/env python3
"""Time layers (layers) or whole backbones (backbones) beside their alternatives."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studies.benchmarks.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
