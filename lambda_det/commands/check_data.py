"""Read a dataset as a training would, report what is odd in it, and write it clean.

lambda_det check_data FOLDER [--split S] [--output O.json] [--examples PAGE.png]
lambda_det check_data FOLDER --write CLEAN_FOLDER [--copy]
                      [--image-ids ID ... | --count N [--seed SEED]]

FOLDER is a dataset in COCO layout; or, to be converted by --write, a json of the VGG Image
Annotator or a folder with one, or a folder of images/ and masks/. The exit status is 0 if a
training can read it, and 2 if that is refused. Its files are never changed.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys

from lambda_det.commands import command_parser
from lambda_det.data.checking.clean_copy import choose_images, clean_folder, write_split
from lambda_det.data.checking.dataset_report import report_text, split_report
from lambda_det.data.checking.split_content import (
    SplitContent,
    check_files,
    check_learnable,
    readers_of,
)
from lambda_det.errors import InputError, exit_on_input_error, keys_named, writing
from lambda_det.io import check_writable, write_json

NAMES = {"DATASETS.COCO_FOLDER": "the dataset", "DATASETS.TRAIN": "the split"}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(__name__, __doc__)
    parser.add_argument("folder", metavar="FOLDER", help="the dataset")
    parser.add_argument(
        "--split",
        metavar="S",
        help="split to read (all that there are); name of the split of a dataset that has none "
        "(train2017)",
    )
    parser.add_argument(
        "--class-attribute", metavar="NAME", help="region attribute of VIA that is the class"
    )
    parser.add_argument("--output", metavar="JSON", help="file for the same report as JSON")
    parser.add_argument(
        "--examples", metavar="PNG", help="file for a page of drawn images, some of every finding"
    )
    parser.add_argument(
        "--write",
        metavar="DIR",
        help="folder for the clean dataset in COCO layout; one that this command wrote gets "
        "another split",
    )
    parser.add_argument(
        "--copy", action="store_true", help="--write copies the images (they are symbolic links)"
    )
    few = parser.add_mutually_exclusive_group()
    few.add_argument("--image-ids", nargs="+", metavar="ID", help="--write takes these images only")
    few.add_argument(
        "--count", type=int, metavar="N", help="--write takes the first N images of a split by id"
    )
    parser.add_argument("--seed", type=int, help="--count takes random images, chosen by this seed")
    args = parser.parse_args(argv)
    for name in ("copy", "image_ids", "count"):
        if args.write is None and getattr(args, name) not in (None, False):
            raise InputError(f"--{name.replace('_', '-')} needs --write")
    if args.seed is not None and args.count is None:
        raise InputError(f"--seed {args.seed} needs --count")
    return args


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    for path, flag in ((args.output, "--output"), (args.examples, "--examples")):
        if path is not None:
            check_writable(path, flag)
    with keys_named(NAMES):
        check(args)
    return 0


def check(args: argparse.Namespace) -> None:
    readers = readers_of(args.folder, args.split, args.class_attribute)
    if args.image_ids and len(readers) > 1:
        raise InputError(f"--image-ids needs --split, one of {', '.join(readers)}")
    reports: list[dict] = []
    lines: list[str] = []
    written: list[str] = []
    page = None
    if args.examples is not None:
        from lambda_det.evaluation.example_page import ExamplePage  # takes OpenCV

        page = ExamplePage()
    try:
        with contextlib.ExitStack() as stack:
            folder = None
            if args.write is not None:
                folder = stack.enter_context(clean_folder(args.write, [*readers]))
            unlearnable = None
            for read in readers.values():  # not together: the jsons may not fit into memory
                data = read(all_places=folder is not None)
                check_files(data)
                try:
                    check_learnable(data)
                except InputError as error:
                    if data.found.summary.num_objects:
                        raise
                    unlearnable = error
                reports.append(split_report(data))
                lines.append(report_text(reports[-1]) + "\n")
                if page is not None:
                    page.add(data)
                if folder is not None:
                    written.append(write_chosen(args, folder, data))
            if unlearnable is not None and not any(report["objects"] for report in reports):
                raise unlearnable
        lines += written
        if page is not None:
            page.write(args.examples)
        if args.output is not None:
            with writing(f"--output {args.output}"):
                write_json({"splits": reports}, args.output)
    finally:  # last, because the reader of the output may end before (| head)
        for line in lines:
            print(line)


def write_chosen(args: argparse.Namespace, folder: str, data: SplitContent) -> str:
    """Write the images of a split that the arguments choose; return a line that says so."""
    chosen = choose_images(data, image_ids=args.image_ids or (), count=args.count, seed=args.seed)
    with writing(f"--write {args.write}"):
        objects = write_split(folder, data, chosen, copy=args.copy)
    how = ""
    if args.count is not None:
        how = " (the first by id)" if args.seed is None else f" (chosen by the seed {args.seed})"
    return f"{args.write}: {len(chosen)} images{how}, {objects} objects in {data.name}"
