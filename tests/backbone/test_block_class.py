"""A block of the user's own in the family's network."""

from __future__ import annotations

import torch
from torch import Tensor

from lambda_det.backbone import LambdaBottleneck, build_lambda_resnet


class Doubled(LambdaBottleneck):
    """Twice its middle."""

    def _middle(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        return 2 * super()._middle(x, padding_mask)


def test_every_block_is_of_the_class() -> None:
    network = build_lambda_resnet(50, "lambda", block_class=Doubled, out_features=("res4",))
    blocks = [block for stage in network.stages for block in stage]
    assert len(blocks) == 3 + 4 + 6
    assert all(type(block) is Doubled for block in blocks)
    assert any(block.lambda_layer is not None for block in blocks)


def test_the_class_decides_the_features() -> None:
    own = build_lambda_resnet(26, "resnet", block_class=Doubled).eval()
    plain = build_lambda_resnet(26, "resnet").eval()
    for network in (own, plain):  # else every block is its shortcut
        for block in (block for stage in network.stages for block in stage):
            torch.nn.init.ones_(block.conv3.norm.weight)
    plain.load_state_dict(own.state_dict())
    image = torch.rand(1, 3, 33, 65)
    ours, theirs = own(image)["res2"], plain(image)["res2"]
    assert ours.shape == theirs.shape
    assert not torch.allclose(ours, theirs)
