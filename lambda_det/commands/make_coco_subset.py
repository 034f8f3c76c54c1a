"""Make a small COCO-layout folder out of a few images of a large one."""

from __future__ import annotations

from lambda_det.commands import command_parser
from lambda_det.data.subset import write_subset
from lambda_det.errors import exit_on_input_error


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__name__, __doc__)
    parser.add_argument("--coco", required=True, metavar="DIR", help="folder in COCO layout")
    parser.add_argument(
        "--split", default="train2017", help="split to take images from (%(default)s)"
    )
    parser.add_argument(
        "--image-ids",
        required=True,
        type=int,
        nargs="+",
        metavar="ID",
        help="ids of the images to take",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    args = parser.parse_args(argv)
    objects = write_subset(args.coco, args.split, args.image_ids, args.output)
    print(f"{args.output}: {len(set(args.image_ids))} images, {objects} objects")
