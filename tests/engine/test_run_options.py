"""What a user's own script may get wrong, and a training of parts that were changed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from detectron2.engine import HookBase

from lambda_det.engine import RunOptions, run
from lambda_det.engine.dry_run import dry_run
from lambda_det.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"max_iter": 0}, "max_iter=0: expected a whole number above 0"),
        ({"max_iter": 2.0}, "max_iter=2.0: expected a whole number above 0"),
        ({"seed": "x"}, "seed='x': expected a whole number"),
        ({"weights": None}, "weights=None: expected text"),
        ({"precision": "fp16"}, "precision='fp16': expected one of float32, bfloat16, float16"),
        ({"ema_decay": 1.0}, "ema_decay=1.0: expected a number from 0"),
        ({"ema_warmup": "no"}, "ema_warmup='no': expected True or False"),
        ({"ema_decay": 0.9, "precise_bn": 5}, "ema_decay=0.9: expected 0, because PreciseBN"),
        ({"keep": -1, "key_names": {}}, "SOLVER.CHECKPOINT_KEEP=-1: expected a whole number"),
    ],
)
def test_an_option_is_checked_under_the_users_name(values, says):
    with pytest.raises(InputError) as error:
        RunOptions(**values)
    assert str(error.value).startswith(says)


def test_a_folder_that_is_a_file(make_training, tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(InputError, match=r"^OUTPUT_DIR='.*file': is a file, not a folder$"):
        make_training(path).train()
    assert path.read_text() == "mine"


def test_a_training_that_does_not_begin_leaves_no_file(make_training, tmp_path):
    with pytest.raises(InputError, match=r"gone\.pth"):
        make_training(tmp_path, "MODEL.WEIGHTS", tmp_path / "gone.pth").train()
    assert list(tmp_path.iterdir()) == []


class Counted(HookBase):
    def state_dict(self) -> dict:
        return {"number": 1}


def test_two_hooks_whose_states_are_one_entry(make_training, tmp_path):
    training = make_training(tmp_path, "SOLVER.MAX_ITER", 1)
    with pytest.raises(InputError, match=r"^hooks: 2 are of class Counted"):
        training.train(hooks=[Counted(), Counted()])


def test_an_evaluation_that_leaves_the_model_in_evaluation_mode(make_training, tmp_path):
    keys = ("SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 1)
    evaluate = lambda model: {"is": {"training": float(model.eval().training)}}  # noqa: E731
    assert make_training(tmp_path, *keys, evaluate=evaluate).train() == {"is": {"training": 0}}


def test_a_dry_run_writes_nothing_and_looks_at_the_folder(make_training, tmp_path, log):
    """The evaluation has few images and a folder of its own."""
    calls = []

    def evaluate(model, *, most=None, folder=None):
        calls.append((most, folder))
        return {"bbox": {"AP": 1.0}}

    output = tmp_path / "a" / "b"
    training = make_training(output, "SOLVER.MAX_ITER", 50, "TEST.EVAL_PERIOD", 1)
    dry_run(replace(training.parts, evaluate=evaluate), training.options)
    ((most, folder),) = calls
    assert most == 4 and not (tmp_path / "a").exists() and "lambda_det_dry_run_" in folder
    assert "the dry run went well: a checkpoint takes" in log.text
    (tmp_path / "a").write_text("a file")
    training = make_training(tmp_path / "a" / "b", "SOLVER.MAX_ITER", 50)
    with pytest.raises(InputError, match=r"^OUTPUT_DIR='.*b': .*/a is a file, not a folder$"):
        dry_run(training.parts, training.options)


def test_results_of_a_run_without_an_evaluation_are_empty(make_training, tmp_path):
    training = make_training(tmp_path, "SOLVER.MAX_ITER", 1)
    assert run(replace(training.parts, evaluate=None), training.options) == {}
