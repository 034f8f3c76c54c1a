"""An account of what the intake changed in a json: old and new values, by kind of finding."""

from __future__ import annotations

import json
from collections.abc import Collection

from lambda_det.data.checking.split_content import SplitContent
from lambda_det.data.reading.findings import KEPT, KINDS, Place
from lambda_det.data.reading.values import whole

FORM = "form"
"""Kind of the changes that have no finding: the value is the same, in another form."""

_IMAGE_ID = {"annotations": "image_id", "images": "id"}


def changes_of(data: SplitContent, chosen: Collection[int | str]) -> dict[str, dict]:
    """Return the changes of the entries of some images, and of the categories.

    Args:
        data: a split that was read with ``all_places``.
        chosen: ids of the images.

    Returns:
        kind -> what it is, what was done, and its entries. An entry has the list in which it stands
        (``section``), its place in that (``index``), its ``id``, and ``changed`` (field -> ``from``
        and ``to``, without ``from`` if there was no such field) or, if it is left out, the old
        ``entry``.
    """
    findings = data.found.summary.findings

    def original(place: Place) -> dict:
        return data.content[place.section][place.index]

    kinds: dict[str, dict] = {}
    seen = set()
    is_subset = len(chosen) < len(data.found.images)
    for kind, places in findings.places.items():
        if KINDS[kind].treatment == KEPT:
            continue
        seen.update((place.section, place.index) for place in places)
        entries = [
            _entry(place, *findings.changed.get(place[:2], [original(place)] * 2))
            for place in places
            if place.image_id in chosen
            or place.section == "categories"
            or (place.image_id is None and not is_subset)
        ]
        if entries:
            kinds[kind] = {
                "treatment": KINDS[kind].treatment,
                "what": KINDS[kind].what,
                "done": KINDS[kind].done,
                "entries": entries,
            }
    forms = [
        _entry(Place(section, index), old, new)
        for (section, index), (old, new) in findings.changed.items()
        if new is not None
        and new != old
        and (section, index) not in seen
        and (section == "categories" or new[_IMAGE_ID[section]] in chosen)
    ]
    if forms:
        what = "entries have a value of the same meaning in another form"
        done = "it is written as COCO writes it"
        kinds[FORM] = {"treatment": "mended", "what": what, "done": done, "entries": forms}
    return kinds


def categories_of(data: SplitContent) -> list[dict]:
    """The categories in full, each once, with a whole number as the id."""
    found = {}
    for entry in data.content["categories"]:
        found.setdefault(whole(entry["id"]), {**entry, "id": whole(entry["id"])})
    return list(found.values())


def _entry(place: Place, old: dict, new: dict | None) -> dict:
    entry = {"section": place.section, "index": place.index, "id": _plain(old.get("id"))}
    if new is None:
        return {**entry, "entry": _plain(old)}
    changed = {}
    for field, value in new.items():
        if field not in old:
            changed[field] = {"to": value}
        elif type(old[field]) is not type(value) or old[field] != value:
            changed[field] = {"from": _plain(old[field]), "to": value}
    return {**entry, "changed": changed}


def _plain(value: object) -> object:
    """A value that JSON can hold; NaN and infinity, which it cannot, as text."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        if isinstance(value, dict):
            return {name: _plain(one) for name, one in value.items()}
        return repr(value)
    return value
