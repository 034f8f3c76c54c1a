"""A folder of clean splits: what may be added to it, and that it is never half written."""

from __future__ import annotations

import pytest
from data_helpers import single_line
from test_dataset_report import SPLIT, write_clean

from lambda_det.data.checking.clean_copy import CHANGES, clean_folder
from lambda_det.errors import InputError


def test_a_split_is_added_whole_or_not_at_all(shapes, tmp_path):
    output = tmp_path / "few"
    write_clean(shapes, output, SPLIT, count=2)
    account = (output / CHANGES).read_text()
    for damaged in ("[]", "{"):
        (output / CHANGES).write_text(damaged)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError, match=CHANGES) as error:
            write_clean(shapes, output, "val2017", count=1)
        single_line(error)
        assert sorted(tmp_path.rglob("*")) == before
    (output / CHANGES).write_text(account)
    (output / "annotations").rename(tmp_path / "elsewhere")  # the last move fails
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="cannot be written"):
        write_clean(shapes, output, "val2017", count=1)
    assert sorted(tmp_path.rglob("*")) == before
    assert (output / CHANGES).read_text() == account


@pytest.mark.parametrize(
    "name", ["..", ".", "", ".new", "a/b", "annotations", "Annotations", "person_keypoints_.."]
)
def test_names_that_lead_out_of_the_folder(tmp_path, name):
    with (
        pytest.raises(InputError, match=r"--split .*: the name of a split") as error,
        clean_folder(str(tmp_path / "new"), [name]),
    ):
        pass
    single_line(error)
    assert not any(tmp_path.iterdir())
