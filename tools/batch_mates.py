#!/usr/bin/env python3
"""Measure how much an image's features and detections depend on its neighbours in a batch."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studies.benchmarks.batch_mates import main

if __name__ == "__main__":
    sys.exit(main())
