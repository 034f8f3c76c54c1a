"""Tables of a comparison, as Markdown, from rows made by hand."""

from __future__ import annotations

from lambda_det.comparison.tables import ap_table, cost_table, results_markdown


def row(model: str, label: str, **more: object) -> dict:
    return {
        "model": model, "label": label, "variant": "se", "depth": 50, "gpus": 1, "over": None,
        "finished": 1, "planned": 1, "iterations": 20, "images_per_iteration": 8, "base_lr": 0.05,
        "train_size": "short side 128, at most 128", **more,
    }  # fmt: skip


def record(rows: list[dict], **more: object) -> dict:
    hardware = {"cpu": "a CPU", "cores": 2, "gpu": None}
    return {
        "suite": "small", "command": "python x", "date": "2024-05-06", "hardware": hardware,
        "seeds": [1], "differences": {}, "rows": rows, "runs": [], **more,
    }  # fmt: skip


def cells(line: str) -> list[str]:
    """Of a line of a Markdown table: a bar behind a backslash belongs to its cell."""
    return [cell.strip() for cell in line.replace(r"\|", "\0").strip("|").split("|")]


def test_gains_of_fewer_seeds_are_told():
    gain = {"mean": 3, "low": None, "high": None, "values": [3]}
    rows = [row("plain", "R-50"), row("own", "λ-50", over="plain", finished=2, box_ap_gain=gain)]
    assert "Some gains are of fewer seeds than the AP" in results_markdown(record(rows))
    rows[1]["finished"] = 1
    assert "fewer seeds" not in results_markdown(record(rows))


def test_a_reason_is_no_html():
    runs = [{"model": "plain", "seed": 1, "state": "failed", "reason": "error in <module>"}]
    text = results_markdown(record([row("plain", "R-50")], runs=runs))
    assert r"- plain seed 1, failed: error in \<module>" in text


def test_bars_in_labels_and_values_end_no_cell():
    rows = [row("plain", "R|50", box_ap={"mean": 30, "sd": None, "values": [30]})]
    content = record(rows, differences={"MODEL.X": {"plain": "a|b"}})
    for text in (ap_table(rows), cost_table(rows)):
        lines = text.splitlines()
        assert {len(cells(line)) for line in lines} == {len(cells(lines[0]))}
        assert cells(lines[2])[0] == "R\x0050"
    text = results_markdown(content)
    assert "| R\\|50 | 1/1 | 30.0 |" in text and "| `MODEL.X` | `'a\\|b'` |" in text


def loaded(model: str, label: str, percent: float | None, **more: object) -> dict:
    share = {"mean": percent, "sd": None, "values": [percent]}
    return row(model, label, **({} if percent is None else {"pretrained_percent": share}), **more)


def test_rows_from_weights_of_different_coverage_are_not_equal():
    rows = [loaded("r", "R-50", 100.0), loaded("s", "SE-50", 91.25), loaded("l", "λ-50", 83.04)]
    text = results_markdown(record(rows))
    assert (
        "filled different shares of the backbone's parameters (R-50 100.0 %, SE-50 91.2 %" in text
    )
    assert "λ-50 83.0 %); the rest started at random" in text
    rows[2] = loaded("l", "λ-50", None)
    assert "λ-50 none known)" in results_markdown(record(rows))
    rows[2]["finished"] = 0  # nothing was loaded yet
    assert "(R-50 100.0 %, SE-50 91.2 %)" in results_markdown(record(rows))


def test_equal_weights_need_no_word():
    for percents in ((100.0, 100.0), (None, None), (99.99, 100.0)):
        rows = [loaded("r", "R-50", percents[0]), loaded("l", "λ-50", percents[1])]
        assert "at random" not in results_markdown(record(rows))
    # Rows are compared within their set alone.
    rows = [
        loaded("r", "R-50", 100.0, set="a", set_label="set A"),
        loaded("l", "λ-50", 100.0, set="a", set_label="set A"),
        loaded("r", "R-50", 90.0, set="b", set_label="set B"),
    ]
    assert "at random" not in results_markdown(record(rows))
    rows.append(loaded("l", "λ-50", 70.0, set="b", set_label="set B"))
    text = results_markdown(record(rows))
    assert "set B: the rows do not start equal" in text and "set A: the" not in text
