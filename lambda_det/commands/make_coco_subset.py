"""Make a small COCO-layout folder out of a few images (check_data --write)."""

from __future__ import annotations

from lambda_det.commands import check_data, command_parser


def main(argv: list[str] | None = None) -> int:
    parser = command_parser(__name__, __doc__)
    parser.add_argument("--coco", required=True, metavar="DIR", help="folder of the dataset")
    parser.add_argument("--split", default="train2017", help="split of the images (%(default)s)")
    parser.add_argument("--image-ids", required=True, nargs="+", metavar="ID", help="their ids")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    args = parser.parse_args(argv)
    words = [args.coco, "--split", args.split, "--write", args.output, "--image-ids"]
    return check_data.main([*words, *args.image_ids])
