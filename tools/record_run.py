#!/usr/bin/env python3
"""Record a finished run in results/, or make the tables of the documents anew from the records."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studies.record_run import main

if __name__ == "__main__":
    sys.exit(main())
