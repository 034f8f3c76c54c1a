"""summary.json: what a training notes about itself."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from lambda_det.checkpoint.coverage import measure
from lambda_det.engine import summary as summary_module
from lambda_det.engine.summary import RunSummary, read_summary

MODEL = {"stem.a": (1000,), "res2.a": (3000,), "res2.b": (1000,), "fpn_lateral2.a": (7000,)}
FILE = {"stem.a": (1000,), "res2.a": (3000,), "linear.a": (8,)}


class Worker(nn.Module):
    """A clock, and a model that takes as many milliseconds as its images are in sum."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.now_s = 5.0
        monkeypatch.setattr(
            summary_module, "time", SimpleNamespace(perf_counter=lambda: self.now_s)
        )

    def forward(self, images: list[int]) -> None:
        self.now_s += sum(images) / 1000


def test_share_of_pretrained_weights_is_that_of_the_backbone(tmp_path: Path):
    RunSummary(str(tmp_path)).begin(measure(MODEL, FILE))
    assert read_summary(str(tmp_path)) == {"pretrained_percent": 80.0}
    # A resumed run loads no weights and keeps it; one that starts without weights has none.
    RunSummary(str(tmp_path)).finish()
    assert read_summary(str(tmp_path))["pretrained_percent"] == 80
    again = RunSummary(str(tmp_path))
    again.begin(None)
    assert read_summary(str(tmp_path)) == {}
    again.finish()
    assert read_summary(str(tmp_path))["pretrained_percent"] is None


def test_inference_is_timed_per_image_after_the_first_calls(tmp_path: Path, monkeypatch):
    summary, model = RunSummary(str(tmp_path)), Worker(monkeypatch)
    with summary.timing(model):
        for images in ([900], [1], [1], [1], [1], [15, 25], [20]):
            model(images)
    model([300])  # not in the block
    summary.finish()
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["inference_ms_per_image"] == pytest.approx(20)
    assert found["peak_host_memory_mib"] > 50
    assert not model._forward_hooks and not model._forward_pre_hooks


@pytest.mark.parametrize("calls", [0, 1])
def test_few_images_are_timed_as_far_as_there_are_any(tmp_path: Path, calls: int, monkeypatch):
    summary, model = RunSummary(str(tmp_path)), Worker(monkeypatch)
    with summary.timing(model):
        for _ in range(calls):
            model([2])
    summary.finish()
    found = read_summary(str(tmp_path))["inference_ms_per_image"]
    assert found is None if calls == 0 else found == pytest.approx(2)
