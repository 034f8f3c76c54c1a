"""The configs and suites that come with the package, found by name.

``"mask_rcnn_lambda_R_101_FPN_lsj"`` is the file ``configs/COCO-InstanceSegmentation/…lsj.yaml`` of
the checkout, or the copy of it in an installed wheel. The folder, ``configs/`` before it and
``.yaml`` after it may be left out.
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
"""The folder that holds ``configs/``: the root of the checkout, or a part of an installed wheel."""

CONFIGS = ROOT / "configs"


@dataclass(frozen=True)
class _Shipped:
    """The shipped files of one kind.

    Attributes:
        kind: the word for it in messages.
        folders: of ``configs/``.
        suffix: of the files.
        missing: the message of a file that does not exist.
    """

    kind: str
    folders: tuple[str, ...] = ("COCO-Detection", "COCO-InstanceSegmentation", "pretrain", "quick")
    suffix: str = ".yaml"
    missing: str = "--config-file {}: no such file"

    def names(self) -> list[str]:
        """``folder/name`` of each."""
        paths = (path for f in self.folders for path in (CONFIGS / f).glob(f"*{self.suffix}"))
        return sorted(f"{path.parent.name}/{path.stem}" for path in paths)

    def matching(self, word: str) -> list[str]:
        word = word.replace(os.sep, "/").removeprefix("configs/").removesuffix(self.suffix)
        return [name for name in self.names() if name == word or name.endswith(f"/{word}")]

    def near(self, word: str) -> list[str]:
        word = os.path.basename(word).removesuffix(self.suffix)
        short = {name.rpartition("/")[2]: name for name in self.names()}
        return [short[name] for name in difflib.get_close_matches(word, short)]

    def path(self, name: str) -> str:
        """Path of the one with that name.

        Raises:
            InputError: there is none, or there are several; the line names near ones.
        """
        found = self.matching(name)
        if len(found) == 1:
            return str(CONFIGS / f"{found[0]}{self.suffix}")
        said = f"{self.kind} {name!r}"
        if found:
            raise InputError(f"{said}: may be {' or '.join(found)}; name the folder too")
        if not (names := self.names()):
            raise InputError(f"{said}: the folder of the configs, {CONFIGS}, does not exist")
        near = self.near(name)
        hint = f"near it: {', '.join(near)}" if near else f"there are {', '.join(names)}"
        raise InputError(f"{said}: no shipped {self.kind} has that name; {hint}")

    def find(self, path_or_name: str) -> str:
        """A path that exists as it is, or else the path of the one with that name.

        Raises:
            InputError: neither.
        """
        # The folder of a run may well be called as its config is.
        if not path_or_name or (os.path.lexists(path_or_name) and not os.path.isdir(path_or_name)):
            return path_or_name
        if self.matching(path_or_name):
            return self.path(path_or_name)
        if os.path.isdir(path_or_name):
            return path_or_name  # whose reader says what is wrong with it
        said = self.missing.format(path_or_name)
        if near := self.near(path_or_name):
            said += f"; shipped with a name near it: {', '.join(near)}"
        elif not path_or_name.endswith(self.suffix):
            said += f", and no shipped {self.kind} has that name"
        raise InputError(said)


_YAML = _Shipped("config")
_LAZY = _Shipped("LazyConfig", suffix=".py")
_SUITES = _Shipped("suite", ("suites",), missing="suite {} cannot be read: no such file")


def config_names() -> list[str]:
    """``folder/name`` of every config to train with, without ``.yaml``."""
    return _YAML.names()


def lazy_config_names() -> list[str]:
    """``folder/name`` of every shipped LazyConfig, without ``.py``: one for each recipe."""
    return _LAZY.names()


def suite_names() -> list[str]:
    """``suites/name`` of every suite of ``compare``, without ``.yaml``."""
    return _SUITES.names()


def config_path(name: str) -> str:
    """Path of the shipped config of that name.

    Raises:
        InputError: there is none, or there are several; the line names near ones.
    """
    return _YAML.path(name)


def find_config(path_or_name: str) -> str:
    """What ``--config-file`` means: a path that exists, or else the name of a shipped config.

    Raises:
        InputError: neither.
    """
    return _YAML.find(path_or_name)


def find_lazy_config(path_or_name: str) -> str:
    """A path that exists, or else the name of a shipped LazyConfig.

    Raises:
        InputError: neither.
    """
    return _LAZY.find(path_or_name)


def find_suite(path_or_name: str) -> str:
    """What ``--suite`` means: a path that exists, or else the name of a shipped suite.

    Raises:
        InputError: neither.
    """
    return _SUITES.find(path_or_name)
