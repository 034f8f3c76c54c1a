"""Queue a training on a SLURM cluster (with submitit); other arguments go to train_net.

lambda_det train_slurm --nodes 2 --gpus-per-node 8 --partition gpu --config-file C.yaml \\
    [KEY VALUE ...]
"""

from __future__ import annotations

import argparse
import os
import sys

from detectron2.engine import default_argument_parser

from lambda_det.commands import add_import, command_parser, train_net
from lambda_det.configs import load_config
from lambda_det.engine.setup import import_modules
from lambda_det.engine.values import check_values
from lambda_det.errors import InputError, exit_on_input_error
from lambda_det.slurm import CLUSTERS, TrainingJob, import_submitit, minutes_of, submit

_NOT_WITH_A_JOB = ("num_gpus", "num_machines", "machine_rank", "dist_url")


def parse_arguments(argv: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Parse the arguments of this command; return them and the remaining ones, for train_net."""
    parser = command_parser(__name__, __doc__, argparse.ArgumentParser(allow_abbrev=False))
    parser.add_argument("--nodes", type=int, default=1, help="number of machines (1)")
    parser.add_argument(
        "--gpus-per-node",
        type=int,
        default=8,
        help="GPUs, and so processes, of a machine (8); with MODEL.DEVICE cpu: processes",
    )
    parser.add_argument(
        "--cpus-per-gpu", type=int, help="cores of a process, which its data loader workers share"
    )
    for name in ("partition", "account", "qos"):
        parser.add_argument(f"--{name}", help=f"--{name} of sbatch")
    parser.add_argument(
        "--time",
        default="24:00:00",
        help="time limit of one start, as sbatch takes it: HH:MM:SS (24:00:00)",
    )
    parser.add_argument(
        "--requeues",
        type=int,
        default=20,
        help="how often the job is queued again when its time runs out (20)",
    )
    parser.add_argument("--cluster", choices=CLUSTERS, default="slurm", help="where to run (slurm)")
    parser.add_argument("--job-folder", help="folder of the job's files (OUTPUT_DIR/slurm)")
    return parser.parse_known_args(argv)


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    args, rest = parse_arguments(argv)
    submitit = import_submitit()
    parser = add_import(default_argument_parser())
    training = parser.parse_args(rest)
    for name in _NOT_WITH_A_JOB:
        if getattr(training, name) != parser.get_default(name):
            flag = f"--{name.replace('_', '-')}"
            raise InputError(
                f"{flag} is an argument of train_net only; give --nodes and --gpus-per-node"
            )
    for name in ("nodes", "gpus_per_node"):
        if getattr(args, name) < 1:
            raise InputError(
                f"--{name.replace('_', '-')} {getattr(args, name)}: expected 1 or more"
            )
    import_modules(training.modules)
    cfg = load_config(training.config_file, training.opts)
    check_values(cfg)
    folder = args.job_folder or os.path.join(cfg.OUTPUT_DIR, "slurm")
    job = submit(
        TrainingJob(train_net.main, rest),
        folder,
        cluster=args.cluster,
        nodes=args.nodes,
        processes=args.gpus_per_node,
        gpus=0 if cfg.MODEL.DEVICE == "cpu" else args.gpus_per_node,
        minutes=minutes_of(args.time),
        name=os.path.basename(os.path.normpath(cfg.OUTPUT_DIR)),
        requeues=args.requeues,
        partition=args.partition,
        account=args.account,
        qos=args.qos,
        cpus_per_task=args.cpus_per_gpu,
    )
    print(f"job {job.job_id}: its output is in {job.paths.stdout} and {job.paths.stderr}")
    if args.cluster == "slurm":
        return 0
    try:
        return max(job.results())
    except (submitit.core.utils.FailedJobError, submitit.core.utils.UncompletedJobError) as error:
        last = str(error).strip().splitlines()[-1]
        print(f"error: {last} (see {job.paths.stderr})", file=sys.stderr)
        return 1
