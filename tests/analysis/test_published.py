"""The published numbers that ship, and what their loader refuses."""

from __future__ import annotations

import copy

import pytest
import yaml

from lambda_det.analysis.published import MARKS, lambda_blocks_of, load_published
from lambda_det.errors import InputError

GOOD = {
    "source": "somebody",
    "one": {
        "title": "One",
        "columns": {"parameters_m": "table"},
        "model": {"depth": 50, "variant": "resnet", "stem": "v1"},
        "rows": [
            {"name": "a", "parameters_m": 1.5, "stages": "CCCL", "note": "why"},
            {"name": "b", "parameters_m": 2, "model": {"stem": "rs"}},
        ],
    },
}


def write(folder, content, name="a.yaml"):
    (folder / name).write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return folder


def test_rows_merge_their_table(tmp_path) -> None:
    table = load_published(write(tmp_path, GOOD))["one"]
    assert table.source == "somebody" and table.marks == {"parameters_m": "table"}
    first, second = table.rows
    blocks = {"res2": [], "res3": [], "res4": [], "res5": "all"}
    model = {"depth": 50, "variant": "resnet", "stem": "v1"}
    assert first.model == {**model, "lambda_blocks": blocks} and first.note == "why"
    assert second.model == {**model, "stem": "rs"} and second.values == {"parameters_m": 2}


def test_shipped_tables(project) -> None:
    (table,) = load_published(project / "configs" / "published").values()
    assert table.name == "mask_rcnn" and "arxiv.org/abs/2102.08602" in table.source
    assert set(table.marks.values()) <= set(MARKS)
    values = {row.name: row.values for row in table.rows}
    assert values["LambdaResNet-152"]["box_ap"] == 50.0
    assert values["ResNet-101"]["mask_apl"] == 60.0
    assert all(row.model is not None for row in table.rows)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["source"], None, "expected a mapping with 'source'"),
        (["one", "columns", "parameters_m"], "guess", "parameters_m: 'guess': expected one of"),
        (["one", "columns"], {}, "columns={}: expected a mapping of columns to marks"),
        (["one", "colour"], "red", "unknown key 'colour'"),
        (["one", "rows"], {}, "rows: expected a list"),
        (["one", "rows", 0, "parameters_m"], "1.5 M", "row 'a': parameters_m='1.5 M': expected a"),
        (["one", "rows", 0, "top1"], 70.0, "row 'a': unknown key 'top1'"),
        (["one", "rows", 0, "stages"], "CCL", "stages='CCL': expected four letters"),
        (["one", "rows", 0, "model"], 50, "row 'a': model=50: expected arguments"),
        (["one", "rows", 1, "name"], "a", "row 'a' exists twice"),
        (["one", "rows", 1], {"name": "b"}, "row 'b': expected at least one of parameters_m"),
        (["one", "rows", 1], {"parameters_m": 1}, "expected a row with a name"),
        (["one", "model"], {"depth": 50}, "row 'a': model="),
        (["one"], 5, "table 'one': expected title, columns and rows"),
    ],
    ids=str,
)
def test_what_is_refused_is_named(tmp_path, path, value, message) -> None:
    content = copy.deepcopy(GOOD)
    node = content
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(InputError) as raised:
        load_published(write(tmp_path, content))
    assert message in str(raised.value) and "a.yaml" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_letters_without_a_model(tmp_path) -> None:
    content = copy.deepcopy(GOOD)
    del content["one"]["model"], content["one"]["rows"][1]
    with pytest.raises(InputError, match="stages='CCCL': expected 'model' beside 'stages'"):
        load_published(write(tmp_path, content))


def test_folder_and_files(tmp_path) -> None:
    with pytest.raises(InputError, match=r"contains no \*\.yaml"):
        load_published(tmp_path)
    write(tmp_path, "a: [")
    with pytest.raises(InputError, match=r"a\.yaml: cannot be read as YAML"):
        load_published(tmp_path)
    write(write(tmp_path, GOOD), GOOD, "b.yaml")
    with pytest.raises(InputError, match=r"b\.yaml: table 'one' exists twice"):
        load_published(tmp_path)


@pytest.mark.parametrize("letters", ["", "CLLX", "clll", None, 4])
def test_letters(letters) -> None:
    with pytest.raises(InputError, match="expected four letters"):
        lambda_blocks_of(letters)
