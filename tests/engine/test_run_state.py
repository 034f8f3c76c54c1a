"""Parts of a run's state: running means of each process, recent metrics."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from lambda_det.engine.parts import RunOptions
from lambda_det.engine.run_state import (
    RunState,
    _own,
    recent_metrics,
    restore_running_means,
    running_means,
)


def run_state(**options) -> RunState:
    return RunState(SimpleNamespace(config=""), RunOptions(**options))


def test_the_running_mean_has_a_name_for_any_number_of_processes():
    model = torch.nn.Linear(1, 1)
    model.loss_normalizer = 7.0
    wrapped = torch.nn.DataParallel(model)  # as DistributedDataParallel: its .module
    means = running_means(wrapped)
    model.loss_normalizer = 1.0
    restore_running_means(model, means)
    assert model.loss_normalizer == 7.0
    restore_running_means(wrapped, {"": 8.0})
    assert model.loss_normalizer == 8.0


def test_each_process_takes_up_its_own_running_mean(monkeypatch):
    model = torch.nn.Linear(1, 1)
    hook = run_state()
    hook.trainer = SimpleNamespace(model=model, data_loader=[])
    hook.after_step()  # of a model without such means nobody is asked
    model.loss_normalizer = 7.0
    monkeypatch.setattr(comm, "all_gather", lambda means: [means, {"": 9.0}])
    hook.after_step()
    saved = hook.state_dict()["running_means"]
    for rank, expected in enumerate((7.0, 9.0, 7.0)):  # one more process than there were
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        restore_running_means(model, _own(saved))
        assert model.loss_normalizer == expected
        assert _own({"": 3.0}) == {"": 3.0}  # a checkpoint of an earlier version


def test_another_loader_is_seeded_by_the_run():
    drawn = []
    for seed in (3, 3, -1):
        hook = run_state(seed=seed)
        hook.trainer = SimpleNamespace(data_loader=[], iter=5)
        torch.manual_seed(len(drawn))
        hook.before_step()
        drawn.append(torch.rand(()).item())
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_last_losses_are_kept_where_an_iteration_was_left_out():
    with EventStorage() as storage:
        for loss in (3.0, 2.0):
            storage.put_scalars(total_loss=loss)
            storage.put_scalar("bbox/AP", 1.0, smoothing_hint=False)
            storage.put_scalar("lr", 0.1, smoothing_hint=False)
            storage.step()
        storage.put_scalar("lr", 0.2, smoothing_hint=False)  # and no loss
        found = recent_metrics(storage)
    assert found["total_loss"] == {"smooth": True, "values": [[3.0, 0], [2.0, 1]]}
    assert found["lr"]["values"][-1] == [0.2, 2] and found.keys() == {"total_loss", "lr"}


def test_figures_of_the_end_are_not_written_again_by_a_longer_run():
    with EventStorage() as storage:
        for name in ("last_norm/res2", "embedding_rms/res5", "lr"):
            storage.put_scalar(name, 0.5, smoothing_hint=False)
        assert recent_metrics(storage).keys() == {"lr"}
