"""The back ends that were chosen by measurement are a part of a training."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from checkpoint_differences import content, differences, ignoring_folder
from detectron2.utils import comm

from lambda_det.engine.backend_choices import BackendChoices
from lambda_det.engine.launch import launch
from lambda_det.errors import InputError
from lambda_det.layers import LambdaLayer, measurement, native_lambda
from lambda_det.layers.autotune import CANDIDATES, VARIABLE
from lambda_det.layers.choices import CHOICES

TABLE = {"this machine": {"a call": "banded"}}
LAMBDA = (
    "MODEL.BACKBONE.NAME", "build_lambda_resnet_fpn_backbone", "MODEL.LAMBDA_RESNET.DEPTH", 26,
    "MODEL.LAMBDA_RESNET.LAYER.AUTOTUNE", True, "INPUT.MIN_SIZE_TRAIN", "(64,96,128)",
    "DATALOADER.NUM_WORKERS", 0, "SOLVER.MAX_ITER", 5,
)  # fmt: skip


def not_for_this_test(*_tensors: object) -> str:
    return "it is not for this test"


@pytest.fixture(autouse=True)
def _new_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv(VARIABLE, "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(CANDIDATES, "cpu", ("conv", "banded"))
    monkeypatch.setattr(native_lambda, "unsupported", not_for_this_test)
    CHOICES.clear()
    yield
    CHOICES.clear()


def hook(start_iter: int = 0, **layer) -> BackendChoices:
    made = BackendChoices()
    model = torch.nn.Sequential(LambdaLayer(8, query_depth=2, num_heads=2, scope=3, **layer))
    made.trainer = SimpleNamespace(model=model, start_iter=start_iter)
    return made


def test_choices_go_through_a_checkpoint() -> None:
    CHOICES.update(TABLE)
    first = hook()
    first.before_train()
    saved = first.state_dict()
    assert saved == {"choices": TABLE}
    CHOICES.clear()
    CHOICES.update({"this machine": {"a call": "conv", "another call": "conv"}})  # of the file
    resumed = hook(start_iter=3)
    resumed.load_state_dict(saved)
    resumed.before_train()
    assert CHOICES.active and CHOICES.table() == {
        "this machine": {"a call": "banded", "another call": "conv"}
    }


@pytest.mark.parametrize("state", [{}, {"choices": None}, {"choices": {"a": 3, 4: {}}}])
def test_a_state_without_choices(state) -> None:
    resumed = hook(start_iter=3)
    resumed.load_state_dict(state)
    resumed.before_train()
    assert CHOICES.table() in ({}, {"a": {}})


def test_a_run_without_choices_goes_on_without(log) -> None:
    resumed = hook(start_iter=3)
    resumed.before_train()
    assert not CHOICES.active and "chose the back ends of its lambda layers by a rule" in log.text
    CHOICES.update(TABLE)
    assert resumed.state_dict() == {}  # nor does the next one that goes on from it
    resumed.after_train()
    assert CHOICES.active and resumed.state_dict() == {}  # an interruption saves after it
    log.clear()
    hook().before_train()  # a new run
    hook(start_iter=3, backend="conv").before_train()  # one that has nothing to choose
    assert log.text == ""


@pytest.mark.parametrize(
    ("variable", "layer"), [("0", {}), ("1", {"autotune": False}), ("1", {"backend": "conv"})]
)
def test_what_forbids_it_is_said(monkeypatch, log, variable, layer) -> None:
    monkeypatch.setenv(VARIABLE, variable)
    resumed = hook(start_iter=3, **layer)
    resumed.load_state_dict({"choices": TABLE})
    resumed.before_train()
    assert not CHOICES.active and "not the run that is resumed: it chose the back" in log.text


def test_a_wrong_value_ends_the_run_before_its_first_iteration(monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, "never")
    with pytest.raises(InputError, match="LAMBDA_DET_AUTOTUNE='never': expected 0"):
        hook().before_train()


@pytest.mark.parametrize("rank", [0, 1])
def test_the_choices_of_process_0_hold(monkeypatch, rank) -> None:
    others = {"another machine": {"a call": "conv"}}
    gathered = []

    def all_gather(own):
        gathered.append(own)
        return [True, True] if own is True else [own, {}] if rank == 0 else [others, own]

    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(comm, "all_gather", all_gather)
    made = hook()
    made.before_train()
    assert CHOICES.shared
    for environment, choices in (TABLE if rank == 0 else {}).items():
        for call, backend in choices.items():
            CHOICES.add(environment, call, backend)
    made.before_step()
    made.before_step()
    assert gathered[1:] == ([TABLE, {}] if rank == 0 else [{}, {}])
    assert CHOICES.table() == (TABLE if rank == 0 else others)
    made.after_train()
    assert not CHOICES.shared


def test_one_process_that_may_not_keeps_all_from_it(monkeypatch) -> None:
    """The variable is set on one of two machines: nobody waits for an exchange."""
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(comm, "all_gather", lambda own: [own, False])
    made = hook()
    made.before_train()
    monkeypatch.setattr(comm, "all_gather", None)
    made.before_step()
    assert not CHOICES.active and not CHOICES.shared


def _clock(**seconds: float):
    return lambda name, call, repeats, query: seconds[name]


# Widths of images that the processes meet, by iteration.
WIDTHS = (((6, 20), (20, 6)), ((6, 40), (40, 6)), ((40,), (20,)))


def meet_sizes(folder: str) -> None:
    """Two processes meet sizes in another order; each writes what it computes with."""
    measurement.seconds_of = _clock(conv=1.0, banded=2.0)  # the rule takes "banded"
    CANDIDATES["cpu"] = ("conv", "banded")
    native_lambda.unsupported = not_for_this_test
    from lambda_det.layers import choice, position_lambda
    from lambda_det.layers.position_lambda import BACKENDS

    choice.LEAST_PRODUCTS = 0
    taken = []
    for name in ("conv", "banded"):
        BACKENDS[name] = lambda *t, name=name, f=BACKENDS[name]: taken.append(name) or f(*t)
    made, rank, used = hook(), dist.get_rank(), []
    made.before_train()
    for widths in WIDTHS:
        made.before_step()
        for width in widths[rank]:
            shapes = ((1, 2, 3, 6, width), (1, 1, 4, 6, width), (3, 1, 3, 3))
            position_lambda(*(torch.randn(shape, requires_grad=True) for shape in shapes))
            used.append(taken[-1])
            if rank == 1:
                assert len(taken) == len(used)  # nothing is measured here
    made.after_train()
    (Path(folder) / f"{rank}").write_text(" ".join(used))
    dist.barrier()


@pytest.mark.slow
def test_two_processes_that_meet_other_sizes(tmp_path) -> None:
    launch(meet_sizes, 2, device="cpu", args=(str(tmp_path),))
    used = [(tmp_path / str(rank)).read_text().split() for rank in range(2)]
    assert used[0] == ["conv"] * 5
    # By the rule what process 0 has not met in an earlier iteration, as 40 in the second one.
    assert used[1] == ["banded", "banded", "banded", "conv", "conv"]


# ---- a resumed run ----


@pytest.fixture
def source(make_training, tmp_path, monkeypatch) -> Path:
    """A run in which the convolution, which the rule does not take, seems to be faster; it meets
    images of several sizes."""
    monkeypatch.setattr(measurement, "seconds_of", _clock(conv=1.0, banded=2.0))
    folder = tmp_path / "source"
    make_training(folder, *LAMBDA).train()
    return folder


def choices(folder: Path, name: str) -> dict[str, str]:
    table = content(folder, name)["trainer"]["hooks"]["BackendChoices"]["choices"]
    return {call: backend for chosen in table.values() for call, backend in chosen.items()}


def go_on(make_training, source: Path, name: str, folder: Path, *, without: bool = False) -> dict:
    """Resume from a checkpoint as a new process does, and return the last one."""
    folder.mkdir()
    checkpoint = content(source, name)
    if without:
        del checkpoint["trainer"]["hooks"]["BackendChoices"]
    torch.save(checkpoint, folder / name)
    (folder / "last_checkpoint").write_text(name)
    CHOICES.clear()
    make_training(folder, *LAMBDA).train(resume=True)
    return content(folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_chooses_as_the_undisturbed_one(
    make_training, source, tmp_path, monkeypatch
) -> None:
    steps = [choices(source, f"model_{i:07d}.pth") for i in range(5)]
    assert {*steps[-1].values()} == {"conv"}
    met = next(i for i in range(1, 5) if len(steps[i]) > len(steps[0]))  # a choice in the middle
    last = next(i for i in range(5) if steps[i] == steps[-1])  # no choice after it
    assert last < 4
    expected = content(source)

    def same(name: str, folder: str, **options: bool) -> bool:
        found = go_on(make_training, source, name, tmp_path / folder, **options)
        return ignoring_folder(differences(found["model"], expected["model"])) == []

    # It takes the choice in the iteration in which the other one took it, with the file that the
    # other one has left and without.
    before = f"model_{met - 1:07d}.pth"
    assert same(before, "with_file")
    shutil.rmtree(tmp_path / "cache")
    assert same(before, "without_file")
    found = content(tmp_path / "without_file")
    assert ignoring_folder(differences(found, expected)) == []

    # Neither the clock nor the file can change a choice that was made.
    monkeypatch.setattr(measurement, "seconds_of", _clock(conv=2.0, banded=1.0))
    for file in (tmp_path / "cache").rglob("*.json"):
        file.write_text(file.read_text().replace('"conv"', '"banded"'))
    assert same(f"model_{last:07d}.pth", "other_clock")
    # Without the choices the run goes on by the rule, with other bits.
    assert not same(f"model_{last:07d}.pth", "by_rule", without=True)
    assert "BackendChoices" not in content(tmp_path / "by_rule")["trainer"]["hooks"]
