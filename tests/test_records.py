"""Records of measurements."""

from __future__ import annotations

import pytest

from lambda_det.errors import InputError
from lambda_det.io import write_json
from lambda_det.records import make_record, record_path


def test_record_has_the_schema() -> None:
    record = make_record("python x.py", [{"a_ms": 1}], seeds=[7])
    keys = {"schema", "command", "commit", "date", "hardware", "versions", "seeds", "rows"}
    assert set(record) == keys
    assert record["schema"] == 1 and record["seeds"] == [7] and record["versions"]["torch"]
    assert record["hardware"]["cores"] >= 1
    assert make_record("python x.py", [])["seeds"] == []
    assert "pytest" not in record["versions"]
    assert make_record("x", [], packages=["pytest"])["versions"]["pytest"] == pytest.__version__


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", "/a", ".a", "-a", "a b", "a.json", "a\n", "λ"]
)
def test_a_record_has_a_name_that_stays_in_its_folder(name) -> None:
    with pytest.raises(InputError, match=r"--record .*a name of letters, digits") as error:
        record_path("results", name)
    assert "\n" not in str(error.value)
    assert record_path("results", "a-1_b.c") == "results/a-1_b.c.json"


def test_nan_is_not_written(tmp_path) -> None:
    with pytest.raises(ValueError):
        write_json({"a": float("nan")}, str(tmp_path / "a.json"))
    assert not list(tmp_path.iterdir())
