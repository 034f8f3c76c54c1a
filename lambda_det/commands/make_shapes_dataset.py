"""Write the generated shapes dataset (COCO layout, or an ImageFolder) and print its statistics."""

from __future__ import annotations

from lambda_det.commands import command_parser
from lambda_det.data.generated.shapes import (
    TRAIN_SPLIT,
    VAL_SPLIT,
    generate_shapes,
    shapes_statistics,
)
from lambda_det.data.generated.shapes_folder import CLASSES, generate_shapes_folder
from lambda_det.errors import exit_on_input_error


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    """Parse the command line, write the dataset, print its statistics."""
    parser = command_parser(__name__, __doc__)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--layout",
        choices=("coco", "imagefolder"),
        default="coco",
        help="coco: objects to detect; imagefolder: ten classes for lambda_det pretrain",
    )
    parser.add_argument("--num-train", type=int, help="training images (400; imagefolder 1600)")
    parser.add_argument("--num-val", type=int, help="validation images (100; imagefolder 200)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (0)")
    arguments = parser.parse_args(argv)
    counts = {"num_train": arguments.num_train, "num_val": arguments.num_val}
    counts = {name: count for name, count in counts.items() if count is not None}
    if arguments.layout == "imagefolder":
        root = generate_shapes_folder(arguments.output, seed=arguments.seed, **counts)
        print(f"generated {len(CLASSES)} classes in {root}: {', '.join(CLASSES)}")
        return 0
    root = generate_shapes(arguments.output, seed=arguments.seed, **counts)
    print(f"generated shapes in {root}")
    for split in (TRAIN_SPLIT, VAL_SPLIT):
        print(split)
        for name, value in shapes_statistics(root, split).items():
            shown = f"{value:.3f}" if isinstance(value, float) else value
            print(f"  {name:24s}{shown}")
    return 0
