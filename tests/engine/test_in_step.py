"""Two processes on one CPU leave out a step, or share one, together."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from multiprocessing import forkserver

import pytest
import torch
import torch.distributed as dist
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from lambda_det.engine.launch import launch
from lambda_det.engine.parallel import parallel, without_sharing
from lambda_det.engine.trainer import Trainer, _norms_across_processes


class Proposer(nn.Module):
    """Raises as detectron2's proposal generator, in the process and at the images that say so."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, images):
        x = self.backbone(torch.stack([image["image"] for image in images]))
        if images[0].get("raises") == comm.get_rank():
            raise FloatingPointError("Predicted boxes contain NaN.")
        loss = self.head(x).square().mean()
        if images[0].get("steep") == comm.get_rank():
            loss = loss + (0.0 * self.head.weight).sum().sqrt()
        return {"loss_a": loss}


def batches(rank: int):
    generator = torch.Generator().manual_seed(3)
    for number in range(5):
        x = torch.randn(2, 4, 5, generator=generator)[rank]
        said = {1: {"raises": 1}, 3: {"steep": 0}}.get(number, {})
        yield [{"image": row, "file_name": f"{number}-{rank}"} | said for row in x]


def in_parts(model: nn.Module, path: str) -> None:
    """Take the four images of a process in two parts, and note what was shared when."""
    model.load_state_dict(parallel(Proposer()).state_dict())
    images = [image for number in (0, 2) for image in list(batches(comm.get_rank()))[number]]
    shared = []
    model.register_comm_hook(shared, note_sharing)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with EventStorage():
        Trainer(model, [images], optimizer, accumulate=2).run_step()
    with without_sharing(model, unless=False):
        model(images)["loss_a"].backward()
    torch.save({"model": model.module.state_dict(), "shared": len(shared)}, path)


def note_sharing(shared, bucket):
    shared.append(1)
    return (
        dist.all_reduce(bucket.buffer() / 2, async_op=True)
        .get_future()
        .then(lambda future: future.value()[0])
    )


def left_out(folder: str) -> None:
    rank = comm.get_rank()
    model = parallel(Proposer())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = Trainer(model, list(batches(rank)), optimizer, max_skipped=2)
    with EventStorage() as storage:
        for iteration in range(5):
            step.iter = storage.iter = iteration
            step.run_step()
    torch.save(model.module.state_dict(), f"{folder}/{rank}.pth")
    in_parts(model, f"{folder}/{rank}.parts.pth")
    # One more than is allowed ends all of them, with the line of the process that has it.
    step = Trainer(model, [list(batches(rank))[1]], optimizer, max_skipped=1)
    step.skipped = 1
    with contextlib.suppress(FloatingPointError), EventStorage():
        try:
            step.run_step()
        except FloatingPointError as error:
            with open(f"{folder}/{rank}.json", "w") as file:
                json.dump(str(error), file)
            raise


@pytest.fixture
def imported_once(monkeypatch) -> Iterator[None]:
    """The processes are copies of one that has imported detectron2, and ends with the test."""
    forkserver.set_forkserver_preload(["lambda_det.engine.trainer"])
    start = torch.multiprocessing.start_processes

    def start_copies(*args, **options):
        return start(*args, **options | {"start_method": "forkserver"})

    monkeypatch.setattr(torch.multiprocessing, "start_processes", start_copies)
    yield
    forkserver._forkserver._stop()  # as Python's own tests do
    forkserver.set_forkserver_preload([])


@pytest.mark.slow
def test_left_out_by_all(tmp_path, imported_once) -> None:
    """Proposals of one process and a gradient of one process that are not finite."""
    launch(left_out, 2, device="cpu", args=(str(tmp_path),))
    expected = Proposer()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for number in (0, 2, 4):
        optimizer.zero_grad()
        images = [image for rank in range(2) for image in list(batches(rank))[number]]
        expected([{"image": image["image"]} for image in images])["loss_a"].backward()
        optimizer.step()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pth", weights_only=True)
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(found[name], value)
        line = json.loads((tmp_path / f"{rank}.json").read_text())
        assert line == "iteration 0: Predicted boxes contain NaN. on 1-1, 1-1, 1-1, 1-1"

    # In parts: the update of all eight images at once, and one exchange of gradients.
    expected = Proposer()
    images = [i for rank in range(2) for n in (0, 2) for i in list(batches(rank))[n]]
    expected(images)["loss_a"].backward()
    torch.optim.SGD(expected.parameters(), lr=0.1).step()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.parts.pth", weights_only=True)
        assert found["shared"] == 1
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(found["model"][name], value)


def test_norms_that_would_wait_for_a_process_without_proposals() -> None:
    model = Proposer()
    assert _norms_across_processes(model) == []
    model.backbone = nn.Sequential(nn.Linear(5, 4), nn.SyncBatchNorm(4))
    model.head = nn.Sequential(nn.Linear(4, 3), NaiveSyncBatchNorm(3))
    assert _norms_across_processes(model) == ["backbone.1", "head.1"]
