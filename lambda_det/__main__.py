"""``python -m lambda_det TOOL …``, or the command ``lambda_det``: the tools, from any folder.

The tools are the files in ``tools/`` of the checkout. A wheel carries them beside the package as
they are, and this runs them by their path.
"""

from __future__ import annotations

import ast
import difflib
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from lambda_det.errors import InputError, exit_on_input_error
from lambda_det.project import IN_CHECKOUT, ROOT


def tools() -> dict[str, Path]:
    """Name -> file of every tool that there is here."""
    return {path.stem: path for path in sorted((ROOT / "tools").glob("*.py"))}


def summary(path: Path) -> str:
    """What a tool says of itself, in one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> int:
    """Run a tool with the words behind its name; list the tools where none is named.

    Raises:
        SystemExit: the tool's own.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    known = tools()
    if not words or words[0] in ("-h", "--help"):
        print(
            "usage: lambda_det TOOL …    (or: python -m lambda_det TOOL …; TOOL --help says more)"
        )
        width = max(map(len, known), default=0)
        for name, path in known.items():
            print(f"  {name:{width}}  {summary(path)}")
        return 0
    name = words[0].removesuffix(".py")
    if name not in known:
        near = difflib.get_close_matches(name, known) or known
        where = "" if IN_CHECKOUT else " here (some are in a checkout only)"
        raise InputError(f"{words[0]!r}: there is no such tool{where}; {', '.join(near)}")
    sys.argv[1:] = words[1:]
    runpy.run_path(str(known[name]), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
