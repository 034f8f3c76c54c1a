"""Reads YAML configs.

The reader reads a config, and the files that its ``_BASE_`` names, once and as plain data. It never
runs code. detectron2's own ``merge_from_file`` does: it runs Python expressions in YAML tags.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from lambda_det.backbone.kinds import arguments_of_kind
from lambda_det.config import REMOVED_KEYS, flat, get_cfg
from lambda_det.errors import InputError, reason_of
from lambda_det.shipped_configs import (
    config_names,
    config_path,
    find_config,
    find_lazy_config,
    find_suite,
    lazy_config_names,
    suite_names,
)

__all__ = [
    "changed_values",
    "config_names",
    "config_path",
    "find_config",
    "find_lazy_config",
    "find_suite",
    "get_config",
    "lazy_config_names",
    "load_config",
    "merge_config",
    "read_config",
    "suite_names",
]

logger = logging.getLogger(__name__)

BASE_KEY = "_BASE_"

_LAYER = "MODEL.LAMBDA_RESNET.LAYER"
_OF_KINDS = tuple(f"{_LAYER}.{name}" for name in ("QUERY_DEPTH", "NUM_HEADS", "SCOPE"))

# Base-RetinaNet.yaml of every detectron2 version gives its anchor sizes by this expression.
_EVAL = "tag:yaml.org,2002:python/object/apply:eval"
_RETINANET_SIZES = "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"

# The exceptions that yacs raises for a value that does not fit its key.
_MERGE_ERRORS = (KeyError, ValueError, TypeError, AttributeError, AssertionError)

Layer = tuple[str, dict]
"""A config file: its name in error messages, and its content without ``_BASE_``."""


def get_config(name: str) -> CfgNode:
    """Return detectron2's config with the keys of lambda_det, into which a shipped config is
    merged.

    Args:
        name: name of a shipped config.

    Raises:
        InputError: as :func:`config_path`, or the config is one for pretraining a backbone, which
            has other keys.
    """
    path = config_path(name)
    if os.path.basename(os.path.dirname(path)) == "pretrain":
        raise InputError(
            f"config {name!r} is for pretraining a backbone and has other keys; read it with "
            "lambda_det.pretrain"
        )
    return load_config(path)


def load_config(
    config_file: str, overrides: Sequence[str] = (), *, defaults: CfgNode | None = None
) -> CfgNode:
    """Merge a config file with its bases, and then ``KEY VALUE`` pairs, into the defaults.

    Args:
        config_file: path of a YAML file, name of a shipped config, or "" (no file).
        overrides: keys and values in turn.
        defaults: a config with every key, which is changed and returned; None = detectron2's
            defaults with the keys of lambda_det.

    Raises:
        InputError: as :func:`read_config` and :func:`merge_config`.
    """
    return merge_config(read_config(config_file), overrides, defaults=defaults)


def read_config(config_file: str) -> list[Layer]:
    """Read a config file and its bases.

    Args:
        config_file: path of a YAML file, name of a shipped config, or "" (no file).

    Returns:
        The files in the order in which they are merged: the innermost base first and the config
        itself last.

    Raises:
        InputError: a file is missing, is not a YAML mapping, has a tag with code, or is based on
            itself; the message names that file.
    """
    path = find_config(config_file)
    return list(_chain(path, f"--config-file {path}")) if path else []


def merge_config(
    layers: Sequence[Layer], overrides: Sequence[str] = (), *, defaults: CfgNode | None = None
) -> CfgNode:
    """Merge what :func:`read_config` returned, and then ``KEY VALUE`` pairs, into the defaults.

    Args:
        layers: the files' names and contents; each file overrides those before it.
        overrides: keys and values in turn.
        defaults: a config with every key, which is changed and returned; None = detectron2's
            defaults with the keys of lambda_det.

    Raises:
        InputError: a key does not exist, or its value has the wrong type.
    """
    cfg = get_cfg() if defaults is None else defaults
    wanted = cfg.VERSION
    defaults_of_layer = {name: value for name, value in flat(cfg).items() if name in _OF_KINDS}
    for name, content in layers:
        _check_keys(content, cfg, name)
        if (said := content.get("VERSION", wanted)) != wanted:
            raise InputError(f"{name}: VERSION={said!r}: expected {wanted}")
        try:
            cfg.merge_from_other_cfg(CfgNode(content))
        except _MERGE_ERRORS as error:
            raise InputError(f"{name}: {reason_of(error)}") from error
    name = "KEY VALUE pairs"
    if len(overrides) % 2:
        raise InputError(
            f"{name}: {' '.join(overrides)!r} has an odd number of items, so a key or a value is "
            "missing"
        )
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        _check_keys(nested, cfg, name)
    try:
        cfg.merge_from_list(list(overrides))
    except _MERGE_ERRORS as error:
        raise InputError(f"{name}: {reason_of(error)}") from error
    given = {*overrides[::2]}
    for content in (flat(content) for _, content in layers):
        if f"{_LAYER}.OWN_DEFAULTS" not in content:  # a config that a training has written has all
            given.update(content)
    _warn_of_own_defaults(flat(cfg), defaults_of_layer, given)
    return cfg


def _warn_of_own_defaults(
    values: Mapping[str, Any], defaults: Mapping[str, Any], given: Collection[str]
) -> None:
    """Warn of values that were given and are not taken, because LAYER.OWN_DEFAULTS holds."""
    kind = values.get(f"{_LAYER}.KIND", "lambda")
    if kind == "lambda" or not values[f"{_LAYER}.OWN_DEFAULTS"]:
        return
    own = arguments_of_kind(kind)
    same = [
        name
        for name in defaults
        if name in given
        and values[name] == defaults[name]
        and own.get(name.rpartition(".")[2].lower(), values[name]) != values[name]
    ]
    if same:
        logger.warning(
            "%s: a layer of kind %r takes its own default instead; set %s.OWN_DEFAULTS False to "
            "have these values",
            ", ".join(f"{name} {values[name]}" for name in same), kind, _LAYER,
        )  # fmt: skip


def changed_values(saved: str, now: str, without_effect: Sequence[str] = ()) -> list[str]:
    """List the keys whose values differ between two configs.

    A key that only one of them has is ignored, because another version of detectron2 may have added
    it.

    Args:
        saved: the earlier config as YAML.
        now: the current config as YAML.
        without_effect: prefixes of keys that do not change the training.

    Returns:
        Lines ``KEY: old -> new``.
    """
    old, new = (flat(yaml.safe_load(text) or {}) for text in (saved, now))
    return [
        f"{key}: {old[key]!r} -> {new[key]!r}"
        for key in sorted(old.keys() & new.keys())
        if not key.startswith(tuple(without_effect)) and old[key] != new[key]
    ]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also accepts the anchor sizes of detectron2's Base-RetinaNet."""


def _retinanet_sizes(loader: _Loader, node: yaml.Node) -> list[list[float]]:
    if loader.construct_sequence(node) != [_RETINANET_SIZES]:
        problem = "a Python expression where a value is needed"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in (32, 64, 128, 256, 512)]


_Loader.add_constructor(_EVAL, _retinanet_sizes)


def _chain(path: str, name: str, above: tuple[str, ...] = ()) -> Iterator[Layer]:
    """Yield the files that ``path`` is based on, and then the file itself.

    Args:
        path: path or URL of the file.
        name: its name in error messages.
        above: real paths of the files whose ``_BASE_`` led to it.
    """
    real = os.path.realpath(path)
    if real in above:
        raise InputError(f"{name}: the file is based on itself")
    content = _read(path, name)
    bases = content.pop(BASE_KEY, [])
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str):
            raise InputError(f"{name}: {BASE_KEY} {base!r} is not the name of a file")
        if not base.startswith(("http://", "https://")):
            base = os.path.join(os.path.dirname(path), os.path.expanduser(base))
        yield from _chain(base, f"{BASE_KEY} {base} (of {path})", (*above, real))
    yield name, content


def _read(path: str, name: str) -> dict:
    try:
        with open(PathManager.get_local_path(path), encoding="utf-8") as file:
            content = _Loader(file).get_single_data()
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error})") from error
    except yaml.constructor.ConstructorError as error:
        problem = " ".join(str(error.problem).split())
        raise InputError(
            f"{name}: the file is refused ({problem}); only plain YAML is allowed, and no code in "
            "it was run"
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{name}: the file is not valid YAML: {reason_of(error)}") from error
    if not isinstance(content, dict):
        raise InputError(
            f"{name}: the top level is a {type(content).__name__}; expected keys and values"
        )
    return content


def _check_keys(content: Mapping, known: CfgNode, name: str, above: str = "") -> None:
    """Raise InputError for a key that ``known`` does not have, and for a node instead of a value.

    Args:
        content: the content of a file, or a node in it.
        known: the config or node with every key.
        name: the file's name in error messages.
        above: the key of ``known``, with a dot after it.
    """
    for key, value in content.items():
        if not isinstance(key, str):
            raise InputError(f"{name}: key {key!r} is not a string; expected keys such as MODEL")
        if f"{above}{key}" in REMOVED_KEYS:
            continue
        if key not in known:
            near = difflib.get_close_matches(key, known)
            hint = f"; near it: {', '.join(above + other for other in near)}" if near else ""
            raise InputError(f"{name}: Non-existent key: {above}{key}{hint}")
        if isinstance(known[key], CfgNode):
            if not isinstance(value, dict):
                raise InputError(f"{name}: {above}{key}={value!r}: expected keys and values")
            _check_keys(value, known[key], name, f"{above}{key}.")
        elif isinstance(value, dict):
            raise InputError(f"{name}: {above}{key}={value!r}: expected a value without keys")
