#!/usr/bin/env python3
"""Say what of the environment works and how to mend the rest."""

import sys
from pathlib import Path

if sys.version_info < (3, 10):  # noqa: UP036  (this line is for those who have no other)
    sys.exit("error: Python 3.10 or later is needed")

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lambda_det_command import main

if __name__ == "__main__":
    sys.exit(main(["doctor", *sys.argv[1:]]))
