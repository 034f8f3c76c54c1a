#!/usr/bin/env python3
"""Draw what a network's lambda layers do with an image, and its effective receptive field."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studies.views.visualize_lambdas import main

if __name__ == "__main__":
    sys.exit(main())
