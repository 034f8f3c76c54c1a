#!/usr/bin/env python3
"""Say what of the environment works and how to mend the rest: versions that fit each other,
detectron2, GPU, datasets, disk. Exit status 0 without a problem, 1 with one."""

from __future__ import annotations

import faulthandler
import importlib.util
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
# Of a checkout, and of a package that carries the tools with it (lambda_det/shipped/tools).
FILES = (TOOLS.parent / "lambda_det" / "doctor.py", TOOLS.parent.parent / "doctor.py")

if __name__ == "__main__":
    if sys.version_info < (3, 10):  # noqa: UP036  (this line is for those who have no other)
        sys.exit("error: Python 3.10 or later is needed")
    faulthandler.enable()  # libraries that do not fit each other may end the process
    # Without lambda_det around it, which needs detectron2 for its own import.
    file = next(file for file in FILES if file.is_file())
    spec = importlib.util.spec_from_file_location("lambda_det_doctor", file)
    doctor = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(doctor)
    sys.exit(doctor.main())
