#!/usr/bin/env python3
"""Fuzz the reading of annotations, detections and masks (studies/fuzz); record what was found."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studies.fuzz.fuzz import main

if __name__ == "__main__":
    sys.exit(main())
