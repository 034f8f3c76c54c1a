"""A batch taken in parts is the batch taken at once."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn

from lambda_det.backbone import build_lambda_resnet
from lambda_det.engine.accumulation import check_accumulation, mean_losses, measured_once, split
from lambda_det.engine.trainer import Trainer
from lambda_det.errors import InputError


class BatchMean(nn.Module):
    """A λ-26 in float64, GN in the one half of it and FrozenBN in the other; mean losses."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = build_lambda_resnet(
            26, "lambda", norm="GN", out_features=("res5",), scope=7
        )
        self.norm, self.head = FrozenBatchNorm2d(2048), nn.Conv2d(2048, 3, 1)
        self.double()
        for parameter in self.parameters():  # the last norms would start at zero
            if parameter.ndim == 1:
                nn.init.uniform_(parameter, 0.5, 1.5)

    def forward(self, images):
        x = self.backbone(torch.stack([image["image"] for image in images]))["res5"]
        x = self.head(self.norm(x))
        get_event_storage().put_scalar("images", len(images))
        get_event_storage().put_scalar("mean", x.mean().item(), smoothing_hint=False)
        return {"loss_a": x.square().mean(), "loss_b": x.abs().mean()}


def one_step(images, **options):
    model = BatchMean()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    step = Trainer(model, [images], optimizer, **options)
    with EventStorage(3) as storage:
        step.run_step()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return gradients, storage


def test_gradients_and_metrics_are_those_of_the_whole_batch() -> None:
    torch.manual_seed(1)
    images = [{"image": torch.randn(3, 33, 47, dtype=torch.float64)} for _ in range(4)]
    whole, measured = one_step(images)
    found, storage = one_step(images, accumulate=2)
    assert found.keys() == whole.keys()
    for name, gradient in whole.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-9)
    latest, expected = storage.latest(), measured.latest()
    assert latest.keys() == expected.keys()
    for name in ("total_loss", "loss_a", "loss_b", "mean"):
        assert latest[name][0] == pytest.approx(expected[name][0], rel=1e-6)
        assert len(storage.history(name).values()) == 1
    assert latest["images"] == (2, 3)
    assert not storage.smoothing_hints()["mean"] and storage.smoothing_hints()["images"]


def test_parts_keep_the_order() -> None:
    assert split(list("abcdef"), 3) == [["a", "b"], ["c", "d"], ["e", "f"]]
    for batch in ("abcdefg", "ab", ""):  # of a loader that is not ours: none is left out silently
        with pytest.raises(InputError, match=rf"^SOLVER\.ACCUMULATE=3: .* of {len(batch)}$"):
            split(list(batch), 3)
    losses = mean_losses([{"a": torch.tensor(1.0)}, {"a": torch.tensor(2.0), "b": torch.ones(())}])
    assert losses == {"a": 1.5, "b": 0.5}


def test_images_of_the_parts_are_kept() -> None:
    with EventStorage(5) as storage:
        with measured_once(2):
            get_event_storage().put_image("image", torch.zeros(3, 4, 5))
        assert [entry[0] for entry in storage._vis_data] == ["image"]


def test_a_batch_that_cannot_be_shared_out_is_one_line(make_training, tmp_path) -> None:
    check_accumulation(3, 12, 2)
    with pytest.raises(InputError, match=r"^SOLVER\.ACCUMULATE=3: .*IMS_PER_BATCH 12.* 8$"):
        check_accumulation(3, 12, 8)
    check_accumulation(1, 12, 8)  # a key that nobody has set is not to blame
    with pytest.raises(InputError, match=r"^SOLVER\.ACCUMULATE=3: .*IMS_PER_BATCH 2 "):
        make_training(tmp_path, "SOLVER.ACCUMULATE", 3)
