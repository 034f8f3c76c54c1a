#!/usr/bin/env python3
"""Run every case of bad input and write studies/bad_input.md, or compare with it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studies.corpus.corpus import main

if __name__ == "__main__":
    sys.exit(main())
