"""A clean copy of a dataset, or of a few of its images, in COCO layout."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np

from lambda_det.data.checking.changes import categories_of, changes_of
from lambda_det.data.checking.split_content import SplitContent
from lambda_det.data.reading.layouts import KEYPOINTS
from lambda_det.data.reading.values import id_order
from lambda_det.errors import InputError, writing
from lambda_det.io import new_folder, read_json, write_bytes, write_json

CHANGES = "changes.json"
"""Name of the file that gives an account of the changes: split -> its changes."""

_ANNOTATIONS = "annotations"


@contextlib.contextmanager
def clean_folder(output: str, splits: Sequence[str], *, flag: str = "--write") -> Iterator[str]:
    """Make a folder for :func:`write_split` that appears complete or not at all.

    If ``output`` is such a folder already, the new splits are added to it.

    Args:
        output: the folder.
        splits: names of the splits that will be written.
        flag: the command-line flag that error messages name.

    Yields:
        The folder to write to, which becomes ``output``.

    Raises:
        InputError: ``output`` exists and is not a folder that was written by this function, or it
            has one of the splits; its account is damaged; a split has a name that cannot be that of
            a folder; or it cannot be written.
    """
    output = os.path.abspath(output)
    for split in splits:
        _check_name(split)
    where = f"{flag} {output}"
    earlier = _account_of(output, splits, where) if os.path.lexists(output) else None
    with contextlib.ExitStack() as stack:
        with writing(where):
            if earlier is None:
                folder = stack.enter_context(new_folder(output))
            else:
                parent, name = os.path.split(output)
                made = tempfile.TemporaryDirectory(prefix=name, dir=parent)
                folder = stack.enter_context(made)
        yield folder
        with writing(where):  # not around the block, whose errors may be of other files
            if earlier is not None:
                _add(folder, output, splits, earlier)
            stack.close()


def choose_images(
    data: SplitContent,
    *,
    image_ids: Sequence[str] = (),
    count: int | None = None,
    seed: int | None = None,
) -> list[int | str]:
    """Choose images of a split and return their ids; without arguments, all.

    Args:
        data: the split.
        image_ids: the ids as text, whatever their type in the json.
        count: number of images: the first ones by id, or, with a seed, random ones.
        seed: seed of the choice.

    Raises:
        InputError: an id is not in the split, or ``count`` is not a number of its images.
    """
    known = sorted(data.paths, key=id_order)
    if image_ids:
        by_text = {str(image_id): image_id for image_id in known}
        if missing := [text for text in image_ids if text not in by_text]:
            raise InputError(
                f"--image-ids {' '.join(missing)}: no such image in {data.source}, which has "
                f"{len(known)} (such as {known[0]})"
            )
        return sorted({by_text[text] for text in image_ids}, key=id_order)
    if count is None:
        return known
    if not 1 <= count <= len(known):
        raise InputError(f"--count {count}: {data.source} has {len(known)} images")
    if seed is None:
        return known[:count]
    chosen = np.random.default_rng(seed).permutation(len(known))[:count]
    return [known[index] for index in sorted(chosen)]


def write_split(
    folder: str, data: SplitContent, chosen: Sequence[int | str], *, copy: bool = False
) -> int:
    """Write images of a split, their clean json, and an account of what was changed.

    What else is in the json (``info``, ``licenses``, all fields of the categories) is kept.

    Args:
        folder: a folder of :func:`clean_folder`.
        data: a split that was read with ``all_places``.
        chosen: ids of the images.
        copy: whether the images are copied; else they are symbolic links.

    Returns:
        The number of objects (crowd regions not counted).

    Raises:
        OSError: something cannot be written.
    """
    wanted = set(chosen)
    names = _names({i: path for i, path in data.paths.items() if i in wanted}, data.image_root)
    for image_id, name in names.items():
        target = os.path.join(folder, _folder_of(data.name), name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.lexists(target):  # two images of one file
            continue
        if copy:
            shutil.copyfile(data.paths[image_id], target)
        else:
            os.symlink(os.path.abspath(data.paths[image_id]), target)
    listed = [image for image in data.found.images if image["id"] in wanted]
    images = [
        image if image["file_name"] == names[image["id"]] else
        {**image, "file_name": names[image["id"]]}
        for image in listed
    ]  # fmt: skip
    annotations = [a for a in data.found.annotations if a["image_id"] in wanted]
    clean = {**data.content, "images": images, "categories": categories_of(data)}
    if data.found.summary.is_labelled:
        clean["annotations"] = annotations
    # Fields that nobody reads may hold NaN, which write_json refuses.
    write_bytes(json.dumps(clean).encode(), _json_of(folder, data.name))
    renamed = [
        {"image_id": old["id"], "from": old["file_name"], "to": new["file_name"]}
        for old, new in zip(listed, images, strict=True)
        if old is not new
    ]
    account = {
        "source": data.source,
        "images": len(images),
        "images_of_source": len(data.found.images),
        "changes": changes_of(data, wanted),
        "renamed_files": renamed,
    }
    path = os.path.join(folder, CHANGES)
    earlier = read_json(path) if os.path.exists(path) else {}
    write_json({**earlier, data.name: account}, path)
    return sum(not a["iscrowd"] for a in annotations)


def _check_name(split: str) -> None:
    name = _folder_of(split)
    is_plain = name and name == os.path.basename(name) and not name.startswith(".")
    if not is_plain or name.casefold() in (_ANNOTATIONS, CHANGES):
        raise InputError(
            f"--split {split!r}: the name of a split becomes that of the folder of its images; it "
            f"has no folders in it, does not begin with a dot and is not {_ANNOTATIONS!r}"
        )


def _account_of(output: str, splits: Sequence[str], where: str) -> dict:
    """The account of a folder to which splits can be added."""
    if not os.path.isfile(os.path.join(output, CHANGES)):
        raise InputError(
            f"{where}: exists already; name a folder that does not, or one that check_data wrote, "
            "to which a split is added"
        )
    for split in splits:
        for path in (_json_of(output, split), os.path.join(output, _folder_of(split))):
            if os.path.lexists(path):
                raise InputError(f"{where}: has the split {split!r} already ({path})")
    account = read_json(output, CHANGES)
    if not isinstance(account, dict):
        raise InputError(
            f"{where}: {os.path.join(output, CHANGES)} is damaged: it holds a "
            f"{type(account).__name__}, not an object with an account of each split"
        )
    return account


def _add(folder: str, output: str, splits: Sequence[str], earlier: dict) -> None:
    """Move splits, all or none, from the folder where they were written."""
    account, new, old = (os.path.join(folder, name) for name in (CHANGES, "new.json", "old.json"))
    write_json(earlier | read_json(account), new)
    names = dict.fromkeys(map(_folder_of, splits))
    moves = [(os.path.join(folder, name), os.path.join(output, name)) for name in names]
    moves += [(os.path.join(output, CHANGES), old), (new, os.path.join(output, CHANGES))]
    # The jsons are last, because a split is there once it has one.
    moves += [(_json_of(folder, split), _json_of(output, split)) for split in splits]
    done: list[tuple[str, str]] = []
    try:
        for source, target in moves:
            os.replace(source, target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            os.replace(target, source)
        raise


def _folder_of(split: str) -> str:
    return split.removeprefix(KEYPOINTS)


def _json_of(folder: str, split: str) -> str:
    name = split if split.startswith(KEYPOINTS) else f"instances_{split}"
    return os.path.join(folder, _ANNOTATIONS, f"{name}.json")


def _names(paths: dict[int | str, str], root: str) -> dict[int | str, str]:
    """Image id -> a name of its file below a folder: that below ``root``, or, for a file elsewhere,
    its name without folders, with a number if that is taken."""
    names: dict[str, str] = {}
    taken = set()
    # Those below the root come first, so that they keep their names.
    own = {path: os.path.relpath(path, root) for path in paths.values()}
    for path in sorted(own, key=lambda path: own[path].startswith(os.pardir)):
        name = own[path]
        if name.startswith(os.pardir + os.sep):
            base = name = os.path.basename(path)
            number = 1
            while name in taken:
                number += 1
                stem, ending = os.path.splitext(base)
                name = f"{stem}_{number}{ending}"
        taken.add(name)
        names[path] = name
    return {image_id: names[path] for image_id, path in paths.items()}
