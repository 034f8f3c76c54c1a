"""What is odd in a dataset's annotations, and what happens to each kind of it: one table.

docs/data.md has the same table for users.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from lambda_det.errors import InputError, key

logger = logging.getLogger(__name__)

MENDED, LEFT_OUT, KEPT = "mended", "left out", "kept"

EXAMPLES = 3
"""Number of examples that are remembered of a kind."""


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        treatment: :data:`MENDED` (its meaning is beyond doubt), :data:`LEFT_OUT` (it can never be
            learned or judged) or :data:`KEPT` (it may be meant; one is told of it).
        what: what a number of entries is or has, for a message.
        done: what happens to these entries.
    """

    treatment: str
    what: str
    done: str


KINDS: Mapping[str, Kind] = {
    "number": Kind(
        MENDED,
        "ids or sizes are text, or have a decimal point",
        "they are read as the whole numbers that they name",
    ),
    "image_size": Kind(
        MENDED, "images have no height or width above 0", "it is read from the header of the file"
    ),
    "repeated": Kind(MENDED, "images or categories are listed twice alike", "each is taken once"),
    "annotation_id": Kind(
        MENDED, "annotations have no id, or one that occurs before", "they get a new id"
    ),
    "box_side": Kind(MENDED, "boxes have a side just below 0", "the side is taken as 0"),
    "box_from_mask": Kind(
        MENDED, "objects have a mask and no box of any extent", "the box is that of the mask"
    ),
    "area": Kind(
        MENDED, "annotations have no valid area", "it is measured on the mask, or else on the box"
    ),
    "iscrowd": Kind(
        MENDED,
        "annotations have no iscrowd, or true, false or text",
        "it is read as 0 or 1, and as 0 where it is missing",
    ),
    "polygon_form": Kind(
        MENDED,
        "masks are a flat list of coordinates, or a list of points",
        "they are read as polygons",
    ),
    "odd_polygon": Kind(
        MENDED, "masks have a polygon with a coordinate too many", "its last number is dropped"
    ),
    "short_polygon": Kind(
        MENDED,
        "masks have a polygon of fewer than three points, or of a line, beside others",
        "that polygon is dropped",
    ),
    "no_extent": Kind(
        LEFT_OUT, "objects have no extent", "nothing of them can be learned or judged"
    ),
    "point_mask": Kind(
        LEFT_OUT,
        "masks have fewer than three points, or all on one line, or no pixel",
        "their objects are not learned or judged",
    ),
    "outside": Kind(
        LEFT_OUT, "objects lie outside of their image", "nothing of them can be learned or judged"
    ),
    "no_image": Kind(
        LEFT_OUT, "annotations are of images that are not listed", "they belong to nothing"
    ),
    "no_class": Kind(
        LEFT_OUT, "annotations are of categories that are not listed", "they have no class"
    ),
    "no_mask": Kind(
        KEPT,
        "objects have no mask, others have one",
        "masks are learned and judged without them, boxes with them",
    ),
    "all_crowds": Kind(
        KEPT,
        "objects, which are (nearly) all, are marked as crowd regions (iscrowd 1)",
        "crowd regions are not learned",
    ),
}


class Place(NamedTuple):
    """Where an entry stands.

    Attributes:
        section: list of the json, such as ``annotations``.
        index: its place in that list; None if it is not known.
        image_id: id of its image; None if it has none that is listed.
    """

    section: str
    index: int | None
    image_id: int | str | None = None


@dataclass
class Findings:
    """The findings of one annotation file.

    Attributes:
        source: name of the file, the subject of every message.
        counts: kind -> number of entries, in the order in which the kinds were met.
        examples: kind -> the first entries of the kind, as a message names them.
        places: kind -> where these entries stand; of all entries with ``all_places``.
        changed: list of the json and place in it -> the entry as it was and as it is, None = it is
            left out; only with ``all_places``.
        all_places: whether every place and change is remembered, for an account of them.
    """

    source: str
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    places: dict[str, list[Place]] = field(default_factory=dict)
    changed: dict[tuple[str, int], tuple[dict, dict | None]] = field(default_factory=dict)
    all_places: bool = False

    def add(self, kind: str, example: str, *, place: tuple | None = None) -> None:
        """Count an entry of a kind; ``example`` names it, and ``place`` has the values of its
        :class:`Place`."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        known = self.examples.setdefault(kind, [])
        if len(known) < EXAMPLES:
            known.append(example)
        places = self.places.setdefault(kind, [])
        if place is not None and (self.all_places or len(places) < EXAMPLES):
            places.append(Place(*place))

    def change(self, section: str, index: int, old: dict, new: dict | None) -> None:
        """Remember an entry that is not what it was."""
        if self.all_places and new is not old:
            self.changed[section, index] = old, new

    def line(self, kind: str) -> str:
        """One line that says how many entries are of a kind, what happens to them, and which is the
        first."""
        of = KINDS[kind]
        return (
            f"{self.source}: {self.counts[kind]} {of.what}; {of.treatment}: {of.done} "
            f"(first: {self.examples[kind][0]})"
        )

    def left_out(self) -> int:
        """Number of annotations that are left out."""
        return sum(
            count for kind, count in self.counts.items() if KINDS[kind].treatment == LEFT_OUT
        )

    def log(self) -> None:
        """Log one warning for each kind."""
        for kind in self.counts:
            logger.warning("%s", self.line(kind))

    def refuse(self) -> None:
        """Raise InputError if anything is mended or left out."""
        changed = [kind for kind in self.counts if KINDS[kind].treatment != KEPT]
        if changed:
            more = f"; {len(changed) - 1} more kinds of findings" if len(changed) > 1 else ""
            raise InputError(
                f"{self.line(changed[0])}{more}; {key('DATASETS.STRICT')} is True, so that nothing "
                "is mended or left out"
            )
