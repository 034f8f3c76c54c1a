"""Make a small COCO-layout folder out of a few images, as check_data --write does."""

from __future__ import annotations

import logging
import sys

from lambda_det.commands import command_parser
from lambda_det.data.checking.clean_copy import choose_images, clean_folder, write_split
from lambda_det.data.checking.split_content import check_files, read_split
from lambda_det.errors import exit_on_input_error, keys_named, writing


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    parser = command_parser(__name__, __doc__)
    parser.add_argument("--coco", required=True, metavar="DIR", help="folder of the dataset")
    parser.add_argument("--split", default="train2017", help="split of the images (%(default)s)")
    parser.add_argument("--image-ids", required=True, nargs="+", metavar="ID", help="their ids")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    names = {"DATASETS.COCO_FOLDER": "--coco", "DATASETS.TRAIN": "--split"}
    with keys_named(names), clean_folder(args.output, [args.split], flag="--output") as folder:
        data = read_split(args.coco, args.split, all_places=True)
        chosen = choose_images(data, image_ids=args.image_ids)
        check_files(data, chosen)
        with writing(f"--output {args.output}"):
            objects = write_split(folder, data, chosen)
    print(f"{args.output}: {len(chosen)} images, {objects} objects in {args.split}")
    return 0
