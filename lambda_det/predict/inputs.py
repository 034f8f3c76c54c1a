"""Image and video files that a command line names, their entries in a COCO json, and names for the
output files."""

from __future__ import annotations

import functools
import glob
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lambda_det.data.file_names import find_images
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


def output_names(
    files: Sequence[InputFile],
    folder: str,
    endings: Sequence[Sequence[str]],
    *,
    taken: Sequence[str] = (),
    read: Sequence[str] = (),
) -> list[list[str]]:
    """Choose names for output files: no name twice, and none that would overwrite an input.

    Args:
        files: the input files.
        folder: folder of the output files.
        endings: for each input file the endings of its outputs, such as ``[".png"]``.
        taken: names in ``folder`` that are used for something else.
        read: paths of other files that must not be overwritten.

    Returns:
        For each input file ``relative_path`` without its extension, plus each of its endings. If
        one of these names is taken, all of them get ``_2``, ``_3``, ... before the ending.

    Raises:
        InputError: an output would overwrite an input.
    """
    # On some file systems two names that differ in upper and lower case are one file.
    used = {name.casefold() for name in taken}
    chosen = []
    for file, of_file in zip(files, endings, strict=True):
        stem = os.path.splitext(file.relative_path)[0]
        for number in itertools.count(1):
            numbered = stem if number == 1 else f"{stem}_{number}"
            names = [numbered + ending for ending in of_file]
            if used.isdisjoint(name.casefold() for name in names):
                break
        used.update(name.casefold() for name in names)
        chosen.append(names)
    inputs = {os.path.realpath(path) for path in (*(file.path for file in files), *read)}
    for name in itertools.chain(taken, *chosen):
        if os.path.realpath(os.path.join(folder, name)) in inputs:
            raise InputError(
                f"--output {folder}: its file {name} is an input and would be overwritten"
            )
    return chosen


def listed_images(paths: Sequence[str], listed: Sequence[dict], source: str) -> list[dict]:
    """Find the entry of a COCO json for each image file.

    It is the entry whose ``file_name`` is the end of the path; the longest one is taken. Without
    one, it is the entry whose name leads to the image as it would in a training on the folder that
    has all of ``paths`` in it.

    Args:
        paths: paths of image files.
        listed: the list ``images`` of the json, after its checks.
        source: path of the json, for messages.

    Raises:
        InputError: the json does not list an image, or two paths are the same image of it.
    """
    by_file = functools.cache(lambda: _entries_by_file(paths, listed, source))
    by_name: dict[str, list[dict]] = {}
    for image in listed:
        by_name.setdefault(os.path.basename(image["file_name"]), []).append(image)
    entries, path_of = [], {}
    for path in paths:
        fitting = [
            image
            for image in by_name.get(os.path.basename(path), ())
            if os.path.abspath(path).endswith(
                os.path.join(os.sep, os.path.normpath(image["file_name"]))
            )
        ]
        if not fitting:
            fitting = by_file().get(os.path.realpath(path), [])
        if not fitting:
            raise InputError(
                f"--input {path} is not among the {len(listed)} images of --annotations {source}"
            )
        entry = max(fitting, key=lambda image: len(image["file_name"]))
        other = path_of.setdefault(entry["id"], path)
        if other != path:
            raise InputError(
                f"--input {path} is image {entry['id']} of --annotations {source}, and so is "
                f"{other}"
            )
        entries.append(entry)
    return entries


def _entries_by_file(
    paths: Sequence[str], listed: Sequence[dict], source: str
) -> dict[str, list[dict]]:
    """The entries of a COCO json by the files that their names lead to."""
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    names = [image["file_name"] for image in listed]
    found = find_images(names, folder, source)
    found.log(names)
    files: dict[str, list[dict]] = {}
    for index, path in enumerate(found.paths):
        if index not in found.missing:
            files.setdefault(os.path.realpath(path), []).append(listed[index])
    return files
