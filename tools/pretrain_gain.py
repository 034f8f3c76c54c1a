#!/usr/bin/env python3
"""Pretrain a backbone on generated pictures; train detectors from it and from random weights."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studies.evidence.pretrain_gain import main

if __name__ == "__main__":
    sys.exit(main())
