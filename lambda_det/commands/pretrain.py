"""Pretrain a backbone on an ImageFolder: train/CLASS/*.jpg and val/CLASS/*.jpg.

To use several GPUs: torchrun --nproc-per-node 8 -m lambda_det pretrain …
"""

from __future__ import annotations

from argparse import REMAINDER

from lambda_det.commands import command_parser
from lambda_det.errors import InputError, exit_on_input_error


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__name__, __doc__)
    parser.add_argument("--data", required=True, metavar="DIR", help="folder with train/ and val/")
    parser.add_argument(
        "--config-file", required=True, metavar="FILE", help="a config in configs/pretrain"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in OUTPUT_DIR"
    )
    parser.add_argument(
        "opts", nargs=REMAINDER, metavar="KEY VALUE", help="config keys to override"
    )
    args = parser.parse_args(argv)
    try:
        from lambda_det.pretrain import pretrain
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise InputError(str(error)) from error
    results = pretrain(args)
    print(", ".join(f"{name} {value:.2f}" for name, value in results.items()))
