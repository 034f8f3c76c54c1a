"""Draw predictions beside ground truth into one PNG."""

from __future__ import annotations

from lambda_det.commands import command_parser
from lambda_det.errors import exit_on_input_error
from lambda_det.evaluation.drawing import draw_predictions, title_from_metrics


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    """Parse the command line and draw."""
    parser = command_parser(__name__, __doc__)
    parser.add_argument("--annotations", required=True, metavar="JSON", help="COCO instances json")
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of the images")
    parser.add_argument(
        "--predictions", required=True, metavar="JSON", help="coco_instances_results.json"
    )
    parser.add_argument("--output", required=True, metavar="PNG", help="file to write")
    parser.add_argument("--num-images", type=int, default=6, help="largest number of images (6)")
    parser.add_argument(
        "--score-threshold", type=float, default=0.5, help="lowest score that is drawn (0.5)"
    )
    title = parser.add_mutually_exclusive_group()
    title.add_argument("--title", default="", help="text at the top of the image")
    title.add_argument("--metrics", metavar="JSON", help="metrics.json whose AP becomes the title")
    arguments = parser.parse_args(argv)
    title_line = title_from_metrics(arguments.metrics) if arguments.metrics else arguments.title
    chosen = draw_predictions(
        arguments.annotations,
        arguments.images,
        arguments.predictions,
        arguments.output,
        num_images=arguments.num_images,
        score_threshold=arguments.score_threshold,
        title=title_line,
    )
    print(f"{arguments.output}: {len(chosen)} images, ground truth | prediction")
    return 0
