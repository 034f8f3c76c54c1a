"""The names of classes as people read them: no two are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from detectron2.data.catalog import Metadata


def display_names(categories: Iterable[tuple[int | None, str]]) -> list[str]:
    """Return a name for each category; those of one name are told apart as ``name (id)``.

    Exports of some tools list a root category that has the name of one of its classes.

    Args:
        categories: ``(id, name)`` pairs; no id occurs twice.

    Returns:
        The names in the same order, all different. Names that are different already stay.
    """
    pairs = list(categories)
    names = [name for _, name in pairs]
    for _ in pairs:  # a new name may be that of a third category
        counts = Counter(names)
        if len(counts) == len(names):
            break
        names = [
            f"{name} ({number})" if counts[name] > 1 else name
            for (number, _), name in zip(pairs, names, strict=True)
        ]
    return names


def plain_name(number: int | None, name: str) -> str:
    """Return the name of a category without the ids that :func:`display_names` may have added."""
    while number is not None and name.endswith(ending := f" ({number})"):
        name = name.removesuffix(ending)
    return name


def registered_categories(metadata: Metadata) -> list[tuple[int | None, str]]:
    """Return ``(json's category id or None, name)`` of the classes of a registered dataset, in the
    order of the contiguous ids; empty if they are not known."""
    names = metadata.get("thing_classes") or []
    to_contiguous = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    ids = {contiguous: number for number, contiguous in to_contiguous.items()}
    return [(ids.get(index), name) for index, name in enumerate(names)]


def registered_names(metadata: Metadata) -> list[str]:
    """Return :func:`display_names` of a registered dataset; a class without an id has its
    contiguous one."""
    pairs = registered_categories(metadata)
    return display_names(
        (index if number is None else number, name) for index, (number, name) in enumerate(pairs)
    )
