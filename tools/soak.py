#!/usr/bin/env python3
"""Train for a long time and say whether memory, file handles and threads stay what they are."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studies.endurance.soak import main

if __name__ == "__main__":
    sys.exit(main())
