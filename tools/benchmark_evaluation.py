#!/usr/bin/env python3
"""Time pycocotools and faster-coco-eval on a generated results file of COCO's size."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studies.benchmarks.benchmark_evaluation import main

if __name__ == "__main__":
    sys.exit(main())
