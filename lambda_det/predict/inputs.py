"""Image and video files that a command line names, their entries in a COCO json, and names for the
output files."""

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
    """An image or a video to predict on.

    Attributes:
        path: path of the file.
        relative_path: its path relative to the folder that the command line names; for a file or a
            glob, the name of the file alone.
    """

    path: str
    relative_path: str

    @property
    def is_video(self) -> bool:
        return self.path.lower().endswith(VIDEO_ENDINGS)


def find_inputs(named: Sequence[str], *, recursive: bool = False) -> list[InputFile]:
    """Find the files that command-line arguments name.

    An argument is a file of any extension, a folder or a glob (``**`` matches any number of
    folders). From folders and globs, hidden files and files without an image or video extension
    are left out.

    Args:
        named: the arguments of ``--input``.
        recursive: whether to search the sub-folders of folders as well.

    Returns:
        Each file once, in the order of the arguments; the files of a folder or glob are sorted.

    Raises:
        InputError: an argument matches no file, or a folder cannot be read.
    """
    files: dict[str, InputFile] = {}
    for argument in named:
        found = list(_files_of(argument, recursive))
        if not found:
            is_flat = os.path.isdir(argument) and not recursive
            hint = "; --recursive searches sub-folders" if is_flat else ""
            raise InputError(f"--input {argument}: no image or video was found{hint}")
        for file in found:
            files.setdefault(os.path.realpath(file.path), file)
    return list(files.values())


def _files_of(argument: str, recursive: bool) -> Iterator[InputFile]:
    path = os.path.expanduser(argument)
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
            raise InputError(f"--input {argument}: no such file or folder")
        for file in sorted(glob.glob(path, recursive=True)):
            if _is_wanted(os.path.basename(file)) and os.path.isfile(file):
                yield InputFile(file, os.path.basename(file))


def _is_wanted(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(IMAGE_ENDINGS + VIDEO_ENDINGS)


def _refuse(error: OSError) -> None:
    raise InputError(f"--input {error.filename}: cannot be read ({error.strerror})")


class OutputNames:
    """Chooses names for output files: no name twice, and none that would overwrite an input.

    Args:
        folder: folder of the output files.
        inputs: input files, which must not be overwritten.
        taken: names in ``folder`` that are used for something else.
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
        # On some file systems two names that differ in upper and lower case are one file.
        self._taken = {name.casefold() for name in taken}

    def of(self, file: InputFile, *endings: str) -> list[str]:
        """Names for the outputs of one input file.

        Args:
            file: the input file.
            endings: endings of the names, such as ``".png"``.

        Returns:
            ``file.relative_path`` without its extension, plus each of the endings. If one of these
            names is taken, all of them get ``_2``, ``_3``, ... before the ending.

        Raises:
            InputError: a name would overwrite an input.
        """
        stem, number = os.path.splitext(file.relative_path)[0], 1
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
                    f"--output {self._folder}: its file {name} is an input and would be overwritten"
                )


class ListedImages:
    """Finds the entry of a COCO json that belongs to an image file.

    Args:
        listed: the list ``images`` of the json, after its checks.
        source: path of the json, for messages.
    """

    def __init__(self, listed: list[dict], source: str) -> None:
        self._source = source
        self._number = len(listed)
        self._by_name: dict[str, list[dict]] = {}
        for image in listed:
            name = os.path.basename(image["file_name"])
            self._by_name.setdefault(name, []).append(image)

    def of(self, path: str) -> tuple[int, tuple[int, int]]:
        """Find the image whose ``file_name`` is the end of a path; the longest one is taken.

        Args:
            path: path of an image file.

        Returns:
            The id of the image in the json, and its (width, height) in pixels.

        Raises:
            InputError: the json lists no such image.
        """
        absolute = os.path.abspath(path)
        fitting = [
            image
            for image in self._by_name.get(os.path.basename(path), ())
            if absolute.endswith(os.path.join(os.sep, os.path.normpath(image["file_name"])))
        ]
        if not fitting:
            raise InputError(
                f"--input {path} is not among the {self._number} images of --annotations "
                f"{self._source}"
            )
        image = max(fitting, key=lambda image: len(image["file_name"]))
        return image["id"], (image["width"], image["height"])
