#!/usr/bin/env python3
"""Pretrain a backbone on an ImageFolder: train/CLASS/*.jpg and val/CLASS/*.jpg."""

from __future__ import annotations

import argparse
import sys

from lambda_det.errors import InputError, exit_on_input_error


@exit_on_input_error
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Several GPUs: torchrun --nproc-per-node 8 tools/pretrain.py …"
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="folder with train/ and val/")
    parser.add_argument("--config-file", required=True, metavar="FILE", help="configs/pretrain/…")
    parser.add_argument("--resume", action="store_true", help="go on from OUTPUT_DIR's checkpoint")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys")
    args = parser.parse_args()
    try:
        from lambda_det.pretrain import pretrain
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise InputError(str(error)) from error
    results = pretrain(args)
    print(", ".join(f"{name} {value:.2f}" for name, value in results.items()))


if __name__ == "__main__":
    sys.exit(main())
