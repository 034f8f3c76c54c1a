"""What is recorded of a backbone to compare an image alone with itself in a batch."""

from __future__ import annotations

import pytest
import torch

from lambda_det.backbone import build_lambda_resnet
from studies.benchmarks.neighbours import _recorded


@pytest.mark.parametrize("size", [(64, 96), (50, 70), (17, 33)], ids=str)
@torch.no_grad()
def test_strides_of_layers_at_sizes_that_do_not_divide(size: tuple[int, int]) -> None:
    backbone = build_lambda_resnet(26, "lambda", scope=3).eval()
    with _recorded(backbone) as record:
        backbone(torch.zeros(1, 3, *size))
    # The second block of res4; of res5 the first works before its pooling.
    assert [stride for _, stride in record["contents"]] == [16, 16, 32]
