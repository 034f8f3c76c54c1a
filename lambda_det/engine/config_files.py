"""A config file and those that it is based on, looked through before anything is merged."""

from __future__ import annotations

import os

import yaml
from detectron2.config import CfgNode

from lambda_det.errors import InputError

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
            content = yaml.safe_load(file)
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error})") from error
    except yaml.constructor.ConstructorError as error:
        raise InputError(
            f"{name}: refused, it has {' '.join(str(error.problem).split())}; plain YAML is "
            "needed, nothing of it was run"
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name}: is no YAML: {reason}") from error
    if not isinstance(content, dict):
        raise InputError(
            f"{name}: its top level is a {type(content).__name__}; keys and values are needed"
        )
    if wrong := [key for key in content if not isinstance(key, str)]:
        raise InputError(f"{name}: key {wrong[0]!r} is no text; keys like MODEL are needed")
    for key, value in content.items():
        if isinstance(known.get(key), CfgNode) and not isinstance(value, dict):
            raise InputError(f"{name}: {key}={value!r}: expected keys and values")
    bases = content.get(BASE_KEY, [])
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str):
            raise InputError(f"{name}: {BASE_KEY} {base!r} is not the name of a file")
        base = os.path.expanduser(base)
        if not base.startswith(("http://", "https://")):
            # relative to the file that names it, as detectron2 has it
            base = os.path.join(os.path.dirname(path), base)
            check_yaml(base, known, (*chain, os.path.realpath(path)))
