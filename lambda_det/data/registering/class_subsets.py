"""Test sets that list a part of the model's classes, as some tools export a split without the
classes that have no object in it.

The model keeps the class ids of its training. The metadata of such a test set hold under
:data:`MODEL_CATEGORY_IDS` the category id of each of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from detectron2.data import MetadataCatalog

from lambda_det.data.reading.display_names import plain_name, registered_categories
from lambda_det.data.reading.layouts import REST, SHARE, find_layout
from lambda_det.data.reading.values import whole
from lambda_det.data.registering.coco_folder import PREFIX
from lambda_det.errors import InputError
from lambda_det.io import read_json

MODEL_CATEGORY_IDS = "model_category_ids"

Pairs = list[tuple[int | None, str]]
"""``(json's category id or None, class name)`` in the order of the contiguous ids."""


def check_categories(train: Sequence[str], test: Sequence[str]) -> str | None:
    """Check that the categories of registered datasets agree: those of all training sets are the
    same, and those of a test set are a part of them, with the same ids.

    Args:
        train, test: names of the datasets. Those whose classes are not known are not checked.

    Returns:
        The dataset that has the model's classes: a training set, or without one the test set with
        most classes. None if no classes are known.

    Raises:
        InputError: they do not agree.
    """
    known = {name: pairs for name in dict.fromkeys((*train, *test)) if (pairs := _pairs(name))}
    if not known:
        return None
    names = list(known)
    if not any(name in train for name in names):
        names.sort(key=lambda name: -len(known[name]))
    first = names[0]
    for name in names:
        is_same = _agree(known[first], known[name])
        if not is_same and (name in train or not is_part(known[name], known[first])):
            detail = _difference(known[first], known[name], name not in train)
            raise InputError(f"datasets {first!r} and {name!r} have different categories: {detail}")
        if name in test:
            set_model_categories(name, None if is_same else known[first])
    return first


def is_part(pairs: Pairs, of: Pairs) -> bool:
    """Return whether all ``pairs`` have ids and are among those of another dataset."""
    plain = {(number, plain_name(number, name)) for number, name in of}
    own = {(number, plain_name(number, name)) for number, name in pairs}
    return own <= plain and all(number is not None for number, _ in own)


def set_model_categories(name: str, pairs: Pairs | None) -> None:
    """Write the ids of the model's categories into the metadata of a test set that lists a part of
    them; None = it lists all."""
    metadata = MetadataCatalog.get(name)
    vars(metadata).pop(MODEL_CATEGORY_IDS, None)  # detectron2 refuses a change
    if pairs is not None:
        metadata.set(**{MODEL_CATEGORY_IDS: tuple(number for number, _ in pairs)})


def categories_of_training(name: str, folder: str) -> Pairs:
    """Return the categories of a training set that an evaluation has not registered; empty if the
    set or its json is not on this machine.

    Args:
        name: of the dataset, as :func:`~lambda_det.data.resolve_datasets` returns it.
        folder: in COCO layout; "" = none.
    """
    if not name.startswith(PREFIX):
        metadata = MetadataCatalog.get(name)
        pairs, json_file = registered_categories(metadata), metadata.get("json_file")
    else:
        pairs, json_file = [], None
        split = name.removeprefix(PREFIX)
        for end in ("", REST, SHARE):  # a part has the classes of the whole
            with contextlib.suppress(InputError):
                json_file = find_layout(folder).split(split.removesuffix(end)).json_file
    if not pairs and json_file is not None:
        with contextlib.suppress(InputError, KeyError, TypeError):
            categories = read_json(json_file)["categories"]
            pairs = sorted((whole(one["id"]), one["name"]) for one in categories)
    return pairs


def _pairs(name: str) -> Pairs:
    pairs = registered_categories(MetadataCatalog.get(name))
    return [(number, plain_name(number, text)) for number, text in pairs]


def _agree(mine: Pairs, theirs: Pairs) -> bool:
    if None in (mine[0][0], theirs[0][0]):  # registered without ids
        return [name for _, name in mine] == [name for _, name in theirs]
    return mine == theirs


def _difference(mine: Pairs, theirs: Pairs, may_be_part: bool) -> str:
    foreign = [pair for pair in theirs if pair not in mine]
    if may_be_part and foreign and None not in (mine[0][0], theirs[0][0]):
        return f"the former has no class with (id, name) {foreign[0]}"
    both = enumerate(zip(mine, theirs, strict=False))
    at = next((i for i, (a, b) in both if a != b), None)
    if at is None:
        return f"{len(mine)} and {len(theirs)} of them"
    return f"class {at} has (id, name) {mine[at]} and {theirs[at]}"
