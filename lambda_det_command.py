"""The command ``lambda_det NAME …``, which also works without torch and detectron2.

This module is beside the package and not in it, because importing the package registers backbones
and so needs both. It reads the list of commands from their files without importing them, so that it
answers at once.
"""

from __future__ import annotations

import ast
import difflib
import faulthandler
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).resolve().parent / "lambda_det"
SHIPPED = PACKAGE / "shipped"  # made by setup.py when it builds a wheel
ROOT = SHIPPED if SHIPPED.is_dir() else PACKAGE.parent

# These commands also work if the package cannot be imported.
ALONE = {
    "doctor": PACKAGE / "doctor.py",
    "install_detectron2": ROOT / "tools" / "install_detectron2.py",
}


def commands() -> dict[str, Path]:
    """Find the commands: name -> path of the file, sorted by name."""
    files = {path.stem: path for path in (PACKAGE / "commands").glob("[!_]*.py")}
    return dict(sorted((files | ALONE).items()))


def summary(path: Path) -> str:
    """The description of a command in one line: the first paragraph of its docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())


def version() -> str:
    """``__version__`` of the package."""
    tree = ast.parse((PACKAGE / "version.py").read_text(encoding="utf-8"))
    return next(ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign))


def load(name: str) -> ModuleType:
    """Import the module of a command."""
    if name not in ALONE:
        return importlib.import_module(f"lambda_det.commands.{name}")
    faulthandler.enable()  # incompatible libraries may crash the process
    spec = importlib.util.spec_from_file_location(f"lambda_det_{name}", ALONE[name])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look the module up there
    spec.loader.exec_module(module)
    return module


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names, with the other arguments; without arguments,
    list the commands.

    Returns:
        The exit status: that of the command; 1 if a package is missing, 2 if the command does not
        exist.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    known = commands()
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = ["usage: lambda_det COMMAND ...   (see also lambda_det COMMAND --help, --version)"]
        lines += [f"  {name:20}  {summary(path)}" for name, path in known.items()]
        print("\n".join(lines))  # one call: the reader may close the pipe early (| head)
        return 0
    if arguments[0] == "--version":
        print(f"lambda_det {version()}")
        return 0
    name = arguments[0].removesuffix(".py")
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known) or known)
        print(
            f"error: {arguments[0]!r} is not a command; choose from {near} (studies are run as "
            "python tools/NAME.py in a checkout)",
            file=sys.stderr,
        )
        return 2
    try:
        command = load(name)
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("lambda_det"):
            raise
        print(f"error: {error}; 'lambda_det doctor' says what is missing", file=sys.stderr)
        return 1
    return command.main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
