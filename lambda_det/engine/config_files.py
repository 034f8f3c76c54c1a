"""A config file and those that it is based on, looked through before anything is merged."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

import yaml
from detectron2.config import CfgNode

from lambda_det.engine.config_numbers import TAG, read_yaml
from lambda_det.errors import InputError, reason_of

BASE_KEY = "_BASE_"


def check_yaml(path: str, known: CfgNode, chain: tuple[str, ...] = ()) -> None:
    """Look through a config file, and through every file that its ``_BASE_`` names.

    Files at ``http(s)://`` are left to detectron2.

    Args:
        path: of a YAML file.
        known: a config with every key.
        chain: real paths of the files that led to it.

    Raises:
        InputError: a file is missing, is no YAML mapping, names code, or is based on itself; the
            line names that very file.
    """
    name = f"--config-file {path}" if not chain else f"{BASE_KEY} {path} (of {chain[-1]})"
    if os.path.realpath(path) in chain:
        raise InputError(f"{name}: is based on itself")
    try:
        with open(path, encoding="utf-8") as file:
            content = read_yaml(file)
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error})") from error
    except yaml.constructor.ConstructorError as error:
        raise InputError(
            f"{name}: refused, it has {' '.join(str(error.problem).split())}; plain YAML is "
            "needed, nothing of it was run"
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{name}: is no YAML: {reason_of(error)}") from error
    if not isinstance(content, dict):
        raise InputError(
            f"{name}: its top level is a {type(content).__name__}; keys and values are needed"
        )
    if wrong := [key for key in content if not isinstance(key, str)]:
        raise InputError(f"{name}: key {wrong[0]!r} is no text; keys like MODEL are needed")
    for key, value in content.items():
        if isinstance(known.get(key), CfgNode) and not isinstance(value, dict):
            raise InputError(f"{name}: {key}={value!r}: expected keys and values")
    for base in _bases(content):
        if not isinstance(base, str):
            raise InputError(f"{name}: {BASE_KEY} {base!r} is not the name of a file")
        if _is_local(base):
            check_yaml(_beside(path, base), known, (*chain, os.path.realpath(path)))


@contextlib.contextmanager
def as_plain_yaml(path: str) -> Iterator[str]:
    """A file with the content of ``path`` that detectron2's own reader takes without its ``eval``.

    Args:
        path: of a file that :func:`check_yaml` has let pass.

    Yields:
        ``path`` itself, or a copy of it and of the files that it is based on, for as long as the
        block runs, where one of them has numbers to work out.
    """
    chain = dict.fromkeys(_chain(path))
    if not any(_has_tag(file) for file in chain):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="lambda_det_config_") as folder:
        names = {file: os.path.join(folder, f"{n}.yaml") for n, file in enumerate(chain)}
        for file, copy in names.items():
            content = _read(file)
            if BASE_KEY in content:
                content[BASE_KEY] = [
                    names[_beside(file, base)] if _is_local(base) else base
                    for base in _bases(content)
                ]
            with open(copy, "w", encoding="utf-8") as target:
                yaml.safe_dump(content, target)
        yield names[path]


def _chain(path: str) -> Iterator[str]:
    """The file and all that it is based on, as :func:`_beside` spells them."""
    yield path
    for base in filter(_is_local, _bases(_read(path))):
        yield from _chain(_beside(path, base))


def _read(path: str) -> dict:
    with open(path, encoding="utf-8") as file:
        return read_yaml(file)


def _has_tag(path: str) -> bool:
    with open(path, encoding="utf-8") as file:
        return any(TAG in (getattr(event, "tag", None) or "") for event in yaml.parse(file))


def _bases(content: dict) -> list:
    bases = content.get(BASE_KEY, [])
    return bases if isinstance(bases, list) else [bases]


def _is_local(base: str) -> bool:
    return not base.startswith(("http://", "https://"))


def _beside(path: str, base: str) -> str:
    """A base's path: relative to the file that names it, as detectron2 has it."""
    return os.path.join(os.path.dirname(path), os.path.expanduser(base))
