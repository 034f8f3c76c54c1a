#!/usr/bin/env python3
"""Queue a training on a SLURM cluster (with submitit); other arguments go to train_net."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lambda_det.commands.train_slurm import main

if __name__ == "__main__":
    sys.exit(main())
