"""Names of files and folders."""

from __future__ import annotations

import builtins
import contextlib
import errno
import os
from pathlib import Path
from unittest import mock

from studies.corpus.case import LEFT_BY_A_START, Command, Group
from studies.corpus.files import content, detections, evaluate, text_of, train, write_folder

case = Group("paths")
_READ = "b.png read: 120 x 160 pixels"


@contextlib.contextmanager
def read_only(folder: Path):
    """Nothing can be made or changed under ``folder``, also not by the system's administrator."""

    def guarded(function, is_writing):
        def call(path, *args, **kwargs):
            inside = isinstance(path, (str, Path)) and Path(path).is_relative_to(folder)
            if inside and is_writing(*args, **kwargs):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return function(path, *args, **kwargs)

        return call

    def writes(mode="r", *args, **kwargs) -> bool:
        return set(mode) & set("wax+") != set()

    def opens(flags, *args, **kwargs) -> bool:
        return flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) != 0

    with contextlib.ExitStack() as stack:
        for owner, name, is_writing in (
            (builtins, "open", writes),
            (os, "open", opens),
            *((os, name, lambda *_, **__: True) for name in ("mkdir", "replace", "rename")),
        ):
            wrapped = guarded(getattr(owner, name), is_writing)
            stack.enter_context(mock.patch.object(owner, name, wrapped))
        yield


def _named(title: str, name: str) -> None:
    @case(f"{title} in the names of folders", _READ, status=0,
          left={f"{name}/out/config.yaml", f"{name}/out/log.txt"})  # fmt: skip
    def make(folder: Path) -> Command:
        inner = folder / name
        write_folder(inner)
        return train(inner)

    @case(f"{title} in the names of files", "│ box │ 100.0 │", status=0,
          left={f"{name}/metrics.json"})  # fmt: skip
    def make_files(folder: Path) -> Command:
        (folder / name).mkdir()
        return evaluate(folder / name)


_named("spaces", "my data (2)")
_named("letters that are not ASCII", "Bäume 木 λ")
_named("quotes and dollars", "a'b\"$HOME;`c`")


@case("bytes that are no UTF-8 in the names of files", "box", status=0,
      left={os.fsdecode(b"\xff") + "/metrics.json"})  # fmt: skip
def no_utf8(folder: Path) -> Command:
    inner = folder / os.fsdecode(b"\xff")
    inner.mkdir()
    return evaluate(inner)


@case("bytes that are no UTF-8 in a name that is not there", r"\udcff")
def no_utf8_absent(folder: Path) -> Command:
    return train(folder, root=folder / os.fsdecode(b"\xff"))


@case("the data can only be read", _READ, status=0, left=LEFT_BY_A_START)
def data_read_only(folder: Path) -> Command:
    write_folder(folder)
    return train(folder, around=read_only(folder / "data"))


@case("OUTPUT_DIR can only be read", "cannot be written (Read-only file system)")
def output_read_only(folder: Path) -> Command:
    write_folder(folder)
    return train(folder, around=read_only(folder / "out"))


@case("OUTPUT_DIR is a file", "is a file, not a folder")
def output_is_file(folder: Path) -> Command:
    write_folder(folder)
    (folder / "out").write_text("mine")
    return train(folder)


@case("OUTPUT_DIR lies in a file", "cannot be written (Not a directory)")
def output_in_file(folder: Path) -> Command:
    write_folder(folder)
    (folder / "file").write_text("mine")
    return train(folder, "OUTPUT_DIR", folder / "file" / "out")


@case("DATASETS.COCO_FOLDER is a file", "data is not a directory")
def data_is_file(folder: Path) -> Command:
    (folder / "data").write_text("mine")
    return train(folder)


@case("DATASETS.COCO_FOLDER is not there", "data is not a directory")
def data_absent(folder: Path) -> Command:
    return train(folder)


@case("a split that is not there", "splits of this COCO folder: train2017")
def no_split(folder: Path) -> Command:
    write_folder(folder)
    return train(folder, "DATASETS.TRAIN", "('coco_folder_val',)")


@case("no folder of images", "no image directory for split 'train2017'")
def no_images(folder: Path) -> Command:
    root = write_folder(folder)
    (root / "train2017").rename(root / "pictures")
    return train(folder)


@case("--annotations is a folder", "cannot be read: Is a directory")
def annotations_folder(folder: Path) -> Command:
    (folder / "found.json").write_text(text_of(detections()))
    words = ["--annotations", folder, "--predictions", folder / "found.json"]
    return Command("evaluate", [str(word) for word in words])


@case("--output is a folder", "cannot be written: it names no file")
def output_folder(folder: Path) -> Command:
    (folder / "metrics.json").mkdir()
    return evaluate(folder)


@case("--output can only be read", "cannot be written: Read-only file system")
def metrics_read_only(folder: Path) -> Command:
    (folder / "metrics.json").write_text("{}\n")
    return evaluate(folder, around=read_only(folder))


def _subset(folder: Path, name: str) -> Command:
    value = content()
    value["images"][0]["file_name"] = name
    root = write_folder(folder, value)
    words = ["--coco", root, "--split", "train2017", "--image-ids", 1, "--output", folder / "few"]
    return Command("make_coco_subset", [str(word) for word in words])


@case("a subset onto a folder that is there", "exists already")
def subset_exists(folder: Path) -> Command:
    (folder / "few").mkdir()
    (folder / "few" / "mine").write_text("mine")
    return _subset(folder, "a.png")


@case("a subset of an image outside of its folder", "leaves the folder of the images")
def subset_outside(folder: Path) -> Command:
    (folder / "precious.png").write_text("mine")
    return _subset(folder, "../../precious.png")


@case("generated shapes onto a file", "DIR/shapes")
def shapes_onto_file(folder: Path) -> Command:
    (folder / "shapes").write_text("mine")
    words = ["--output", str(folder / "shapes"), "--num-train", "1", "--num-val", "1"]
    return Command("make_shapes_dataset", words)
