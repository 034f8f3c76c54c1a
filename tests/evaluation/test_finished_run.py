"""Reading of the log of a finished run."""

from __future__ import annotations

import json

import pytest

from lambda_det.errors import InputError
from lambda_det.evaluation.run_folder import iteration_times, last_norms


@pytest.fixture
def write_log(tmp_path):
    """Write lines to a ``metrics.json`` as detectron2 does; return its folder."""

    def write(*entries: dict, cut: str = "") -> str:
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        (tmp_path / "metrics.json").write_text(lines + cut)
        return str(tmp_path)

    return write


def test_last_norms_are_the_last_ones(write_log) -> None:
    assert last_norms(write_log({"iteration": 19, "time": 1.0})) == {}
    norms = [{"iteration": 21, "last_norm/res2": value} for value in (0.5, 0.98765)]
    folder = write_log(*norms, {"iteration": 22, "bbox/AP": 1}, cut='{"last_norm/res2": 0.')
    assert last_norms(folder) == {"res2": 0.9877}


def test_times_are_those_of_the_last_run_into_the_folder(write_log) -> None:
    runs = [(19, 9.0), (0, 2.0), (19, 1.0)]
    entries = [{"iteration": iteration, "time": time} for iteration, time in runs]
    folder = write_log(*entries, {"iteration": 20, "total_loss": 1}, cut='{"iteration": 39, "ti')
    assert iteration_times(folder) == [2.0, 1.0]


def test_a_log_without_times_is_refused(write_log) -> None:
    with pytest.raises(InputError, match="no iteration was timed"):
        iteration_times(write_log({"iteration": 0, "total_loss": 1}))
