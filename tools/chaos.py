#!/usr/bin/env python3
"""Kill a training again and again, resume it, and compare its end with an undisturbed run's."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studies.endurance.chaos import main

if __name__ == "__main__":
    sys.exit(main())
