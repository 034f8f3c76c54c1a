"""The configs that come with this package, by name.

``"mask_rcnn_lambda_R_101_FPN_lsj"`` is the file ``configs/COCO-InstanceSegmentation/…lsj.yaml`` of
the checkout, or the copy of it in an installed wheel. The folder, ``configs/`` before it and
``.yaml`` after it may be said and need not be.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode

from lambda_det.config import get_cfg
from lambda_det.errors import InputError

__all__ = [
    "config_names",
    "config_path",
    "find_config",
    "find_lazy_config",
    "find_suite",
    "get_config",
    "lazy_config_names",
    "suite_names",
]

_PACKAGE = Path(__file__).resolve().parent
_SHIPPED = _PACKAGE / "shipped"  # made by setup.py when it builds a wheel

ROOT = _SHIPPED if _SHIPPED.is_dir() else _PACKAGE.parent
"""The folder that holds ``configs/``: the root of the checkout, or a part of an installed wheel."""

_FOLDERS = ("COCO-Detection", "COCO-InstanceSegmentation", "pretrain", "quick")
_SUITES = ("suites",)
_PRETRAIN = "pretrain"
_SUFFIX, _LAZY_SUFFIX = ".yaml", ".py"


def config_names() -> list[str]:
    """``folder/name`` of every config to train with, without ``.yaml``."""
    return _names(_FOLDERS)


def suite_names() -> list[str]:
    """``suites/name`` of every suite of ``compare``, without ``.yaml``."""
    return _names(_SUITES)


def config_path(name: str) -> str:
    """Path of the shipped config of that name.

    Raises:
        InputError: there is none, or there are several; the line names near ones.
    """
    return _path(name, config_names(), "config")


def get_config(name: str) -> CfgNode:
    """detectron2's config with our keys and the shipped config of that name merged into it.

    Raises:
        InputError: as :func:`config_path`; or the config is one of the pretraining of backbones,
            which has other keys.
    """
    path = config_path(name)
    if os.path.basename(os.path.dirname(path)) == _PRETRAIN:
        raise InputError(
            f"config {name!r}: is one of the pretraining of backbones, which has other keys; it is "
            "read by lambda_det.pretrain"
        )
    cfg = get_cfg()
    cfg.merge_from_file(path, allow_unsafe=False)
    return cfg


def find_config(path_or_name: str) -> str:
    """What ``--config-file`` means: a path that exists, or else the name of a shipped config.

    Raises:
        InputError: neither.
    """
    said = f"--config-file {path_or_name}: no such file"
    return _find(path_or_name, config_names(), "config", said)


def lazy_config_names() -> list[str]:
    """``folder/name`` of every shipped LazyConfig, without ``.py``: one for each recipe."""
    return _names(_FOLDERS, _LAZY_SUFFIX)


def find_lazy_config(path_or_name: str) -> str:
    """A path that exists, or else the name of a shipped LazyConfig.

    Raises:
        InputError: neither.
    """
    said = f"--config-file {path_or_name}: no such file"
    return _find(path_or_name, lazy_config_names(), "LazyConfig", said, _LAZY_SUFFIX)


def find_suite(path_or_name: str) -> str:
    """What ``--suite`` means: a path that exists, or else the name of a shipped suite.

    Raises:
        InputError: neither.
    """
    said = f"suite {path_or_name} cannot be read: no such file"
    return _find(path_or_name, suite_names(), "suite", said)


def _names(folders: Sequence[str], suffix: str = _SUFFIX) -> list[str]:
    root = ROOT / "configs"
    return sorted(f"{f}/{path.stem}" for f in folders for path in (root / f).glob(f"*{suffix}"))


def _matching(word: str, names: Sequence[str], suffix: str) -> list[str]:
    word = word.replace(os.sep, "/").removeprefix("configs/").removesuffix(suffix)
    return [name for name in names if name == word or name.endswith(f"/{word}")]


def _near(word: str, names: Sequence[str], suffix: str) -> list[str]:
    word = os.path.basename(word).removesuffix(suffix)
    short = {name.rpartition("/")[2]: name for name in names}
    return [short[name] for name in difflib.get_close_matches(word, short)]


def _path(name: str, names: Sequence[str], kind: str, suffix: str = _SUFFIX) -> str:
    found = _matching(name, names, suffix)
    if len(found) == 1:
        return str(ROOT / "configs" / f"{found[0]}{suffix}")
    if found:
        raise InputError(f"{kind} {name!r}: may be {' or '.join(found)}; name the folder too")
    if not names:
        raise InputError(f"{kind} {name!r}: {ROOT / 'configs'} is not there, where they are")
    near = _near(name, names, suffix)
    hint = f"near it: {', '.join(near)}" if near else f"there are {', '.join(names)}"
    raise InputError(f"{kind} {name!r}: no shipped {kind} has that name; {hint}")


def _find(
    path_or_name: str, names: Sequence[str], kind: str, said: str, suffix: str = _SUFFIX
) -> str:
    # The folder of a run may well be called as its config is.
    if not path_or_name or (os.path.lexists(path_or_name) and not os.path.isdir(path_or_name)):
        return path_or_name
    if _matching(path_or_name, names, suffix):
        return _path(path_or_name, names, kind, suffix)
    if os.path.isdir(path_or_name):
        return path_or_name  # whose reader says what is wrong with it
    if near := _near(path_or_name, names, suffix):
        said += f"; shipped with a name near it: {', '.join(near)}"
    elif not path_or_name.endswith(suffix):
        said += f", and no shipped {kind} has that name"
    raise InputError(said)
