#!/usr/bin/env python3
"""Say what of the environment works and how to mend the rest: versions that fit each other, which
detectron2, GPU, datasets, disk, a training step. Exit status 0 without a problem, 1 with one."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
# Of a checkout, and of a package that carries the tools with it (lambda_det/shipped/tools).
FOLDERS = (TOOLS.parent / "lambda_det" / "doctor", TOOLS.parent.parent / "doctor")


def main() -> int:
    if sys.version_info < (3, 10):  # noqa: UP036  (this line is for those who have no other)
        sys.stderr.write("error: Python 3.10 or later is needed\n")
        return 1
    folder = next(folder for folder in FOLDERS if folder.is_dir())
    # Without lambda_det around it, which needs detectron2 for its own import.
    spec = importlib.util.spec_from_file_location(
        "lambda_det_doctor", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])
    return importlib.import_module(f"{spec.name}.command").main()


if __name__ == "__main__":
    sys.exit(main())
