"""``python -m lambda_det NAME …``: the command ``lambda_det NAME …``."""

import sys

from lambda_det_command import main

if __name__ == "__main__":
    sys.exit(main())
