"""Image and video files that a command line names, their entries in a COCO json, and names for the
output files."""

from __future__ import annotations

import functools
import glob
import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lambda_det.data.images.image_files import image_endings, left_out
from lambda_det.data.reading.file_names import find_images
from lambda_det.errors import InputError

logger = logging.getLogger(__name__)

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
    folders). Of folders and globs, the files are taken whose extension is that of an image format
    that Pillow can decode, or of a video. One line counts the others. Hidden files and folders,
    whose names begin with a dot, are neither taken nor counted.

    Args:
        named: the arguments of ``--input``.
        recursive: whether to search the sub-folders of folders as well.

    Returns:
        Each file once, in the order of the arguments; the files of a folder or glob are sorted.

    Raises:
        InputError: an argument matches no file, or a folder cannot be read.
    """
    files: dict[str, InputFile] = {}
    others: dict[str, None] = {}
    for argument in named:
        found, unknown = _files_of(argument, recursive)
        if not found:
            is_flat = os.path.isdir(argument) and not recursive
            hint = "; --recursive searches sub-folders" if is_flat else ""
            counts = f" ({left_out(unknown)})" if unknown else ""
            raise InputError(f"--input {argument}: no image or video was found{counts}{hint}")
        for file in found:
            files.setdefault(os.path.realpath(file.path), file)
        others |= dict.fromkeys(map(os.path.realpath, unknown))
    if unread := left_out(path for path in others if path not in files):
        logger.info("--input: %s", unread)
    return list(files.values())


def _files_of(argument: str, recursive: bool) -> tuple[list[InputFile], list[str]]:
    """The files that an argument names, and the paths of those that are left out."""
    path = os.path.expanduser(argument)
    if os.path.isfile(path):
        return [InputFile(path, os.path.basename(path))], []
    if os.path.isdir(path):
        pairs = [(file, os.path.relpath(file, path)) for file in _files_in(path, recursive)]
    elif glob.has_magic(path):
        found = sorted(glob.glob(path, recursive=True))
        pairs = [(file, os.path.basename(file)) for file in found if os.path.isfile(file)]
    else:
        raise InputError(f"--input {argument}: no such file or folder")
    pairs = [(file, name) for file, name in pairs if not os.path.basename(file).startswith(".")]
    endings = (*image_endings(), *VIDEO_ENDINGS)
    files, unknown = [], []
    for file, name in pairs:
        if file.lower().endswith(endings):
            files.append(InputFile(file, name))
        else:
            unknown.append(file)
    return files, unknown


def _files_in(folder: str, recursive: bool) -> Iterator[str]:
    for place, below, names in os.walk(folder, onerror=_refuse):
        below[:] = sorted(name for name in below if not name.startswith(".")) if recursive else []
        yield from (os.path.join(place, name) for name in sorted(names))


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
    has all of ``paths`` in it, with no other files in its sub-folders.

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
    """The entries of a COCO json by the files that their names lead to.

    The folder of all paths may be a home or the root of the disk, so that nobody walks it.
    """
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    names = [image["file_name"] for image in listed]
    found = find_images(names, folder, source, among=[os.path.abspath(path) for path in paths])
    found.log()
    files: dict[str, list[dict]] = {}
    for index, path in enumerate(found.paths):
        if index not in found.missing:
            files.setdefault(os.path.realpath(path), []).append(listed[index])
    return files
