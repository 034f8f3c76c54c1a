"""Pretrain a backbone on an ImageFolder: train/CLASS/*.jpg and val/CLASS/*.jpg.

lambda_det pretrain --num-gpus 8 --data FOLDER --config-file C.yaml [--resume] [KEY VALUE ...]
"""

from __future__ import annotations

from argparse import REMAINDER, Namespace

from detectron2.utils import comm

from lambda_det.commands import add_import, command_parser
from lambda_det.configs import load_config
from lambda_det.engine.launch import launch_command
from lambda_det.engine.setup import import_modules
from lambda_det.errors import InputError, exit_on_input_error


def pretrain_and_print(args: Namespace) -> None:
    """Pretrain, and print the results; every process calls this function."""
    from lambda_det.pretrain import pretrain

    import_modules(args.modules)
    results = pretrain(args)
    if comm.is_main_process():
        print(", ".join(f"{name} {value:.2f}" for name, value in results.items()))


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
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes (1)")
    parser.set_defaults(num_machines=1, machine_rank=0, dist_url="auto")
    parser.add_argument(
        "opts", nargs=REMAINDER, metavar="KEY VALUE", help="config keys to override"
    )
    args = add_import(parser).parse_args(argv)
    import_modules(args.modules)
    try:
        from lambda_det.pretrain import get_pretrain_cfg
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise InputError(str(error)) from error
    cfg = load_config(args.config_file, args.opts, defaults=get_pretrain_cfg())
    launch_command(pretrain_and_print, args, cfg.MODEL.DEVICE)
