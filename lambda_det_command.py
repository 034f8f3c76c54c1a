"""The command ``lambda_det``, for those who lack torch or detectron2, too.

Beside the package and not in it: its import needs both, and the tools named here are those that
say what is missing and install it.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

ALONE = ("doctor", "install_detectron2")
"""Tools that import nothing of the package."""


def main() -> int:
    """Run the tool that the command line names.

    Returns:
        The exit status; 1 where a package is missing.

    Raises:
        SystemExit: the tool's own.
    """
    name = "".join(sys.argv[1:2]).removesuffix(".py")
    if name in ALONE:
        package = Path(__file__).resolve().parent / "lambda_det"
        shipped = package / "shipped"  # as in lambda_det/project.py
        root = shipped if shipped.is_dir() else package.parent
        del sys.argv[1]
        runpy.run_path(str(root / "tools" / f"{name}.py"), run_name="__main__")
        return 0
    try:
        from lambda_det.__main__ import main as run_tool
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("lambda_det"):
            raise
        print(f"error: {error}; 'lambda_det doctor' says what is missing", file=sys.stderr)
        return 1
    return run_tool()
