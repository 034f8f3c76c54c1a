#!/usr/bin/env python3
"""Export a backbone or a detector as TorchScript, torch.export or ONNX."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lambda_det.commands.export_model import main

if __name__ == "__main__":
    sys.exit(main())
