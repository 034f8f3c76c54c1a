"""Finds the configs and suites that are shipped with the package by name.

The name ``"mask_rcnn_lambda_R_101_FPN_lsj"`` stands for the file
``configs/COCO-InstanceSegmentation/mask_rcnn_lambda_R_101_FPN_lsj.yaml`` of the checkout, or for
its copy in an installed wheel. A name may also have the folder, ``configs/`` before it and
``.yaml`` after it.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from lambda_det.errors import InputError

_PACKAGE = Path(__file__).resolve().parent
_SHIPPED = _PACKAGE / "shipped"  # made by setup.py when it builds a wheel

ROOT = _SHIPPED if _SHIPPED.is_dir() else _PACKAGE.parent
"""The folder with ``configs/``: the root of the checkout, or ``lambda_det/shipped`` of a wheel."""

CONFIGS = ROOT / "configs"


@dataclass(frozen=True)
class _Shipped:
    """The shipped files of one kind.

    Attributes:
        kind: the name of the kind in messages.
        folders: the folders of ``configs/`` that hold them.
        suffix: suffix of the files' names.
        missing: message for a path that does not exist, with ``{}`` for the path.
    """

    kind: str
    folders: tuple[str, ...] = ("COCO-Detection", "COCO-InstanceSegmentation", "pretrain", "quick")
    suffix: str = ".yaml"
    missing: str = "--config-file {}: no such file"

    def names(self) -> list[str]:
        """The names of all files, as ``folder/name`` without the suffix."""
        paths = (path for f in self.folders for path in (CONFIGS / f).glob(f"*{self.suffix}"))
        return sorted(f"{path.parent.name}/{path.stem}" for path in paths)

    def matching(self, word: str) -> list[str]:
        """The names that ``word`` can stand for."""
        word = word.replace(os.sep, "/").removeprefix("configs/").removesuffix(self.suffix)
        return [name for name in self.names() if name == word or name.endswith(f"/{word}")]

    def near(self, word: str) -> list[str]:
        """The names that are similar to ``word``, for messages."""
        word = os.path.basename(word).removesuffix(self.suffix)
        short = {name.rpartition("/")[2]: name for name in self.names()}
        return [short[name] for name in difflib.get_close_matches(word, short)]

    def path(self, name: str) -> str:
        """The path of the file called ``name``.

        Raises:
            InputError: no file or more than one file has that name; the message gives similar
                names.
        """
        found = self.matching(name)
        if len(found) == 1:
            return str(CONFIGS / f"{found[0]}{self.suffix}")
        said = f"{self.kind} {name!r}"
        if found:
            raise InputError(f"{said} can be {' or '.join(found)}: add the folder to the name")
        if not (names := self.names()):
            raise InputError(f"{said}: the folder of the configs, {CONFIGS}, does not exist")
        near = self.near(name)
        hint = f"near it: {', '.join(near)}" if near else f"expected one of {', '.join(names)}"
        raise InputError(f"{said}: no shipped {self.kind} has that name; {hint}")

    def find(self, path_or_name: str) -> str:
        """Return ``path_or_name`` if that file exists, else the path of the file of that name.

        Raises:
            InputError: it is neither a file nor the name of a shipped one.
        """
        # A folder is no file: the output folder of a run often has the name of its config.
        if not path_or_name or (os.path.lexists(path_or_name) and not os.path.isdir(path_or_name)):
            return path_or_name
        if self.matching(path_or_name):
            return self.path(path_or_name)
        if os.path.isdir(path_or_name):
            return path_or_name  # reading it raises an error that says that it is a folder
        said = self.missing.format(path_or_name)
        if near := self.near(path_or_name):
            said += f"; shipped with a name near it: {', '.join(near)}"
        elif not path_or_name.endswith(self.suffix):
            said += f", and no shipped {self.kind} has that name"
        raise InputError(said)


# names() lists what is shipped, path(name) is the file of a shipped one, and find(path_or_name) is
# a file of the user's or a shipped one.
_YAML = _Shipped("config")
_LAZY = _Shipped("LazyConfig", suffix=".py")
_SUITES = _Shipped("suite", ("suites",), missing="suite {} cannot be read: no such file")

config_names, config_path, find_config = _YAML.names, _YAML.path, _YAML.find
lazy_config_names, find_lazy_config = _LAZY.names, _LAZY.find
suite_names, find_suite = _SUITES.names, _SUITES.find
