#!/usr/bin/env python3
"""Repeat a training step whose loss or gradient was not finite, and find where that begins."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lambda_det.commands.replay_step import main

if __name__ == "__main__":
    sys.exit(main())
