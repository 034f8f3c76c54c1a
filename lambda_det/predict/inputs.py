"""Images and videos as a command line names them: files, folders, globs; names of the outputs."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lambda_det.errors import InputError

IMAGE_ENDINGS = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
VIDEO_ENDINGS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")


@dataclass(frozen=True)
class InputFile:
    """A file to predict on.

    Attributes:
        path: as it was named, or found in a folder that was.
        place: where it lies below the folder that was named; else its name alone.
    """

    path: str
    place: str

    @property
    def is_video(self) -> bool:
        return self.path.lower().endswith(VIDEO_ENDINGS)


def find_inputs(named: Sequence[str], *, recursive: bool = False) -> list[InputFile]:
    """The files that ``named`` stands for, each once, in the order of the words and of the names.

    A word is a file of any ending, a folder or a glob (``**`` is any number of folders); of the
    last two, what is hidden or has no ending of a picture or a video is left out.

    Args:
        named: the words.
        recursive: folders with their sub-folders.

    Raises:
        InputError: a word stands for no file.
    """
    files: dict[str, InputFile] = {}
    for word in named:
        found = list(_files_of(word, recursive))
        if not found:
            hint = "" if recursive or not os.path.isdir(word) else " (--recursive looks below it)"
            raise InputError(f"--input {word}: no picture or video is there{hint}")
        for file in found:
            files.setdefault(os.path.realpath(file.path), file)
    return list(files.values())


def _files_of(word: str, recursive: bool) -> Iterator[InputFile]:
    path = os.path.expanduser(word)
    if os.path.isfile(path):
        yield InputFile(path, os.path.basename(path))
    elif os.path.isdir(path):
        for folder, below, names in os.walk(path, onerror=_refuse):
            below[:] = sorted(n for n in below if not n.startswith(".")) if recursive else []
            for name in sorted(filter(_is_wanted, names)):
                file = os.path.join(folder, name)
                yield InputFile(file, os.path.relpath(file, path))
    else:
        if not glob.has_magic(path):
            raise InputError(f"--input {word}: no such file or folder")
        for file in sorted(glob.glob(path, recursive=True)):
            if _is_wanted(os.path.basename(file)) and os.path.isfile(file):
                yield InputFile(file, os.path.basename(file))


def _is_wanted(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(IMAGE_ENDINGS + VIDEO_ENDINGS)


def _refuse(error: OSError) -> None:
    raise InputError(f"--input {error.filename}: cannot be read ({error.strerror})")


class OutputNames:
    """Names of files below a folder, none given twice and none that is an input.

    Args:
        folder: where they will be.
        inputs: what must not be overwritten.
        taken: names that are used for something else.
        read: paths of other files that must not be overwritten.

    Raises:
        InputError: one of ``taken`` would overwrite an input.
    """

    def __init__(
        self,
        folder: str,
        inputs: Sequence[InputFile],
        taken: Sequence[str] = (),
        read: Sequence[str] = (),
    ) -> None:
        self._folder = folder
        self._inputs = {os.path.realpath(path) for path in (*(f.path for f in inputs), *read)}
        self._check(taken)
        # Two names may be one file on some file systems, whatever this one thinks of letters' case.
        self._taken = {name.casefold() for name in taken}

    def of(self, file: InputFile, *endings: str) -> list[str]:
        """``place`` with each of the endings, behind ``_2``, ``_3``, ... where one is taken.

        Raises:
            InputError: it would be the input itself.
        """
        stem, number = os.path.splitext(file.place)[0], 1
        while True:
            numbered = stem if number == 1 else f"{stem}_{number}"
            names = [numbered + ending for ending in endings]
            if not self._taken.intersection(name.casefold() for name in names):
                break
            number += 1
        self._taken.update(name.casefold() for name in names)
        self._check(names)
        return names

    def _check(self, names: Sequence[str]) -> None:
        for name in names:
            if os.path.realpath(os.path.join(self._folder, name)) in self._inputs:
                raise InputError(
                    f"--output {self._folder}: {name} in it is an input, and would be overwritten"
                )


class ListedImages:
    """A COCO json's images by the file that a path means.

    Args:
        listed: its ``images``, checked.
        source: the json, for messages.
    """

    def __init__(self, listed: list[dict], source: str) -> None:
        self._source = source
        self._number = len(listed)
        self._by_name: dict[str, list[dict]] = {}
        for image in listed:
            name = os.path.basename(image["file_name"])
            self._by_name.setdefault(name, []).append(image)

    def of(self, path: str) -> tuple[int, tuple[int, int]]:
        """The id, width and height of the image whose ``file_name`` the path ends in.

        Raises:
            InputError: there is none.
        """
        absolute = os.path.abspath(path)
        fitting = [
            image
            for image in self._by_name.get(os.path.basename(path), ())
            if absolute.endswith(os.path.join(os.sep, os.path.normpath(image["file_name"])))
        ]
        if not fitting:
            raise InputError(
                f"--input {path}: is not among the {self._number} images of --annotations "
                f"{self._source}"
            )
        image = max(fitting, key=lambda image: len(image["file_name"]))
        return image["id"], (image["width"], image["height"])
