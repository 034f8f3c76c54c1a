"""Metrics to Weights & Biases, of which a stand-in takes the place."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from detectron2.utils import comm

from lambda_det.engine.wandb_writer import RUN_FILE
from lambda_det.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
KEYS = (
    "WANDB.ENABLED", True, "WANDB.PROJECT", "shapes", "DATALOADER.NUM_WORKERS", 0,
    "SOLVER.MAX_ITER", 2,
)  # fmt: skip


@pytest.fixture
def calls(monkeypatch) -> list[dict]:
    """What was done with the stand-in: a dict for every run that was opened."""
    made: list[dict] = []

    def init(**options) -> SimpleNamespace:
        if options["project"] == "no login":
            raise RuntimeError("api_key not configured\n(no-tty)")
        made.append({"options": options, "logged": [], "finished": 0})
        call = made[-1]

        def finish() -> None:
            call["finished"] += 1

        return SimpleNamespace(
            id=options["id"] or f"run{len(made)}",
            log=lambda values, step: call["logged"].append((step, values)),
            finish=finish,
        )

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    return made


def test_a_run_and_its_resume(make_training, tmp_path, calls) -> None:
    make_training(tmp_path / "run", *KEYS).train()
    (call,) = calls
    assert call["options"]["name"] == "run" and call["options"]["project"] == "shapes"
    assert call["options"]["config"]["SOLVER"]["MAX_ITER"] == 2 and call["options"]["id"] is None
    (step, values), *more = call["logged"]
    assert step == 1 and values["total_loss"] > 0 and "lr" in values and call["finished"] == 1
    assert all("total_loss" not in values for _, values in more)
    assert (tmp_path / "run" / RUN_FILE).read_text() == "run1\n"
    again = make_training(tmp_path / "run", *KEYS, "SOLVER.MAX_ITER", 3, "WANDB.NAME", "x")
    again.train(resume=True)
    assert calls[1]["options"]["id"] == "run1" and calls[1]["options"]["name"] == "x"
    assert calls[1]["logged"][0][0] == 2
    make_training(tmp_path / "run", *KEYS).train()  # anew, in the same folder
    assert calls[2]["options"]["id"] is None


def test_what_is_missing_is_one_line(make_training, tmp_path, calls, monkeypatch) -> None:
    training = make_training(tmp_path, *KEYS, "WANDB.PROJECT", "no login")
    with pytest.raises(InputError, match=r"^WANDB\.ENABLED: .*api_key not configured \(no-tty\)"):
        training.train()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setitem(sys.modules, "wandb", None)
    for is_main in (True, False):  # every process ends, not only the one that writes
        monkeypatch.setattr(comm, "is_main_process", lambda is_main=is_main: is_main)
        training = make_training(tmp_path / "run", *KEYS)
        with pytest.raises(InputError, match=r"^WANDB\.ENABLED=True: .*pip install wandb"):
            training.train()
        assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    make_training(tmp_path, *KEYS, "WANDB.ENABLED", False).train()
