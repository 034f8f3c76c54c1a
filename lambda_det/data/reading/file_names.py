"""Where the images of a json are: one rule for the names that tools write, in every command.

A name that leads to no file as it is written is tried in other spellings, relative to other
folders, without its first folders, and last by the name of the file alone. It is taken when exactly
one file fits.
"""

from __future__ import annotations

import itertools
import logging
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote, unquote

from lambda_det.data.reading.values import shown
from lambda_det.errors import InputError

logger = logging.getLogger(__name__)

# What is changed in a name, and how a message says so.
_SPELLINGS = (
    ("with / for \\", lambda name: name.replace("\\", "/")),
    ("with the codes of a web address decoded", unquote),
    (
        "with the codes of a web address",
        lambda name: quote(name, safe="/\\:", errors="replace"),
    ),
    ("in the Unicode form NFC", lambda name: unicodedata.normalize("NFC", name)),
    ("in the Unicode form NFD", lambda name: unicodedata.normalize("NFD", name)),
)
_REPEATED = "without the repeated name of the folder"
_END = "by the end of the path"
_ALONE = "by the name of the file alone"
_LOOSE = (_END, _ALONE)  # two names may lead to one file, and then neither is taken

_LFS_START, _LFS_SIZE = b"version https://git-lfs", 1024  # bytes; a pointer has about 130


@dataclass
class FoundImages:
    """The files of the images that a json lists.

    Attributes:
        json_file: path of the json.
        names: the names, as the json has them.
        paths: path of each image; where none was found, that of the name as it is written.
        missing: index of an image whose file was not found -> the reason, the end of a sentence.
        changed: how names are read that lead to no file as they are written -> their indices.
    """

    json_file: str
    names: Sequence[str]
    paths: list[str] = field(default_factory=list)
    missing: dict[int, str] = field(default_factory=dict)
    changed: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def log(self) -> None:
        """Log one warning for each way in which names are read that are not as they are written."""
        for how, indices in self.changed.items():
            logger.warning(
                "annotation file %s: %d of the %d file names are read %s (first: %r is %s)",
                self.json_file, len(indices), len(self.paths), how, self.names[indices[0]],
                self.paths[indices[0]],
            )  # fmt: skip

    def refuse_missing(self, hint: str = "") -> None:
        """Raise InputError if a file is missing: the reason of the first, the number, the hint."""
        for index, reason in self.missing.items():
            raise InputError(
                f"image {self.paths[index]}, listed in {self.json_file}, {reason} "
                f"({len(self.missing)} of the {len(self.paths)} images listed are missing{hint})"
            )


def image_paths(file_names: Sequence[str], images: str, json_file: str) -> list[str]:
    """Return the path of each image, and log how names are read that are not as they are written.

    Args:
        file_names: as the json has them.
        images: folder of the images.
        json_file: path of the json.

    Raises:
        InputError: no file, or more than one, fits a name; a name is not text; or the files are
            pointers of Git LFS.
    """
    found = find_images(file_names, images, json_file)
    found.refuse_missing()
    found.log()
    return found.paths


def find_images(
    file_names: Sequence[str],
    images: str,
    json_file: str,
    among: Iterable[str] | None = None,
) -> FoundImages:
    """Do what :func:`image_paths` does, without log lines or errors for what is missing.

    This lists each folder once. Of a name that leads to a file as it is written, nothing more is
    looked at. The name of a file alone is looked for ``among`` these paths; None = all below
    ``images``.

    Raises:
        InputError: a name is not text.
    """
    search = _Search(images, json_file, among)
    found = FoundImages(json_file, file_names)
    top, start = search.files_of(images).files, os.path.join(images, "")
    for index, name in enumerate(file_names):
        if not isinstance(name, str):
            raise InputError(
                f"annotation file {json_file}: file_name {shown(name)} of images[{index}] is not "
                "text"
            )
        if name in top:
            found.paths.append(start + name)
            continue
        path = os.path.join(images, name)
        if not search.has(path):
            match = search.find(name)
            if match.path:
                path = match.path
                found.changed[match.how].append(index)
            else:
                found.missing[index] = match.how
        found.paths.append(path)
    _drop_shared(found)
    _find_pointers(found)
    return found


def is_lfs_pointer(path: str) -> bool:
    """Whether a file is a pointer of Git LFS, which stands for a file that was not downloaded."""
    try:
        if os.path.getsize(path) >= _LFS_SIZE:
            return False
        with open(path, "rb") as file:
            return file.read(len(_LFS_START)) == _LFS_START
    except OSError:
        return False


def _drop_shared(found: FoundImages) -> None:
    """Make missing what was found by a part of its name in a file that another name has, too."""
    loose = [how for how in found.changed if how.endswith(_LOOSE)]
    if not loose:
        return
    names = defaultdict(set)
    for index, path in enumerate(found.paths):
        names[os.path.normpath(path)].add(found.names[index])
    for how in loose:
        for index in list(found.changed[how]):
            name = found.names[index]
            others = names[os.path.normpath(found.paths[index])] - {name}
            if others:
                found.changed[how].remove(index)
                found.missing[index] = (
                    f"is meant by several names of the json, {name!r} and {min(others)!r}, and "
                    "there is one file for them"
                )
        if not found.changed[how]:
            del found.changed[how]
    found.missing = dict(sorted(found.missing.items()))


def _find_pointers(found: FoundImages) -> None:
    """Make pointers of Git LFS missing. All files are looked at only if one of three is such."""
    there = [index for index in range(len(found.paths)) if index not in found.missing]
    samples = {there[len(there) * part // 2 - (part == 2)] for part in range(3)} if there else ()
    if any(is_lfs_pointer(found.paths[index]) for index in samples):
        for index in there:
            if is_lfs_pointer(found.paths[index]):
                found.missing[index] = "is a pointer of Git LFS and not an image: run git lfs pull"


class _Match(NamedTuple):
    path: str  # "" = none
    how: str  # or else the reason


class _Listing(NamedTuple):
    files: frozenset[str]
    links: frozenset[str]  # their targets may be missing


class _Search:
    """Files that names may mean, from listings of the folders, each of which is made once."""

    def __init__(self, images: str, json_file: str, among: Iterable[str] | None) -> None:
        self._among = _files_in(images) if among is None else among
        of_json = os.path.dirname(os.path.abspath(json_file))
        # The dataset's folder has the json and the images in it.
        dataset = os.path.commonpath([of_json, os.path.abspath(images)])
        self._folders = {images: ""}
        if of_json != os.path.abspath(images):
            self._folders[of_json] = "relative to the folder of the json"
        if dataset != os.path.dirname(dataset):  # the root of the disk is no dataset
            self._folders.setdefault(dataset, "relative to the folder of the dataset")
        self._listings: dict[str, _Listing] = {}
        self._below: dict[str, list[str]] | None = None

    def files_of(self, folder: str) -> _Listing:
        if folder not in self._listings:
            files, links = set(), set()
            try:
                with os.scandir(folder or os.curdir) as entries:
                    for entry in entries:
                        if entry.is_symlink():
                            links.add(entry.name)
                        elif entry.is_file():
                            files.add(entry.name)
            except (OSError, ValueError):  # ValueError: a name with a NUL
                pass
            self._listings[folder] = _Listing(frozenset(files), frozenset(links))
        return self._listings[folder]

    def has(self, path: str) -> bool:
        folder, name = os.path.split(path)
        listing = self.files_of(folder)
        return name in listing.files or (name in listing.links and os.path.isfile(path))

    def find(self, name: str) -> _Match:
        """Find the file of a name that leads to none as it is written; the reason without one."""
        spellings = _spellings_of(name)
        for matches in self._steps(spellings):
            found = {os.path.normpath(match.path): match for match in reversed(matches)}
            if len(found) > 1:  # by links it may be one file
                found = {os.path.realpath(match.path): match for match in reversed(matches)}
            if len(found) == 1:
                return next(iter(found.values()))
            if found:
                first, second, *_ = sorted(found)
                return _Match("", f"does not exist, and {first} and {second} both fit its name")
        return _Match("", self._reason(name, spellings))

    def _steps(self, spellings: dict[str, str]) -> Iterator[list[_Match]]:
        """The files that a name may mean, those most like it first. Each step is looked at only if
        those before it find nothing."""
        parts = {text: _parts_of(text) for text in spellings}
        whole = [
            _Match(path, _listed(how, relative))
            for text, how in spellings.items()
            for folder, relative in self._folders.items()
            if self.has(path := os.path.join(folder, text))
        ]
        for (text, how), folder in itertools.product(spellings.items(), self._folders):
            left = parts[text]
            while len(left) > 1 and left[0] == os.path.basename(folder):
                left = left[1:]
                if self.has(path := os.path.join(folder, *left)):
                    whole.append(_Match(path, _listed(how, _REPEATED)))
        yield whole
        for length in range(max(map(len, parts.values())), 1, -1):
            yield [
                _Match(path, _listed(how, _END))
                for text, how in spellings.items()
                for folder in self._folders
                if len(parts[text]) >= length
                and self.has(path := os.path.join(folder, *parts[text][-length:]))
            ]
        yield [
            _Match(path, _listed(how, _ALONE))
            for text, how in spellings.items()
            for path in self._files_below().get(os.path.basename(text).casefold(), ())
            if os.path.basename(path) == os.path.basename(text) and self.has(path)
        ]

    def _files_below(self) -> dict[str, list[str]]:
        """The files of the last step, by name in small letters."""
        if self._below is None:
            self._below = defaultdict(list)
            for path in self._among:
                self._below[os.path.basename(path).casefold()].append(path)
        return self._below

    def _reason(self, name: str, spellings: dict[str, str]) -> str:
        for folder in self._folders:
            path = os.path.join(folder, name)
            if os.path.basename(path) in self.files_of(os.path.dirname(path)).links:
                return f"is a link to {os.readlink(path)}, which does not exist"
        for text in spellings:
            for path in self._files_below().get(os.path.basename(text).casefold(), ()):
                if self.has(path):
                    return f"does not exist; {path} does, upper and lower case differ"
        return "does not exist"


def _files_in(images: str) -> Iterator[str]:
    for folder, folders, files in os.walk(images):
        folders[:] = (name for name in folders if not name.startswith("."))
        yield from (os.path.join(folder, name) for name in files)


def _spellings_of(name: str) -> dict[str, str]:
    """Ways to spell a name -> how a message calls them; the name itself comes first."""
    found = {name: ""}
    for called, change in _SPELLINGS:
        for text, how in list(found.items()):
            found.setdefault(change(text), _listed(how, called))
    return found


def _parts_of(text: str) -> list[str]:
    """The folders and the file of a path, without its root and steps up."""
    return [part for part in text.split("/") if part not in ("", ".", "..")]


def _listed(*words: str) -> str:
    """Those of the words that are not empty, with commas."""
    return ", ".join(filter(None, words))
