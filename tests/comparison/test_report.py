"""report.html: what it shows, and that it needs nothing but itself."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from suite_helpers import fake_training, make_output, small_suite, write_file

from lambda_det.comparison import collect, execute, read_suite, running
from lambda_det.comparison.report import (
    MOST_CLASSES,
    class_gains,
    most_different,
    write_results,
)
from lambda_det.comparison.results import result_of
from lambda_det.comparison.run_files import FINISHED
from lambda_det.comparison.tables import signed

pytestmark = pytest.mark.slow

VOID = {"meta", "img", "br", "link", "input"}


class Tags(HTMLParser):
    """Every tag is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attributes) -> None:
        self.seen.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes) -> None:
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def results(tmp_path_factory, project):
    """Folder, suite and states of two finished seeds, and a third that has failed for one model."""
    folder = tmp_path_factory.mktemp("report")
    output, content = make_output(folder / "out"), small_suite(project)
    content["seeds"] = [1, 2]
    content["models"]["lambda"]["label"] = "λ<50>"
    content["models"]["lambda"]["published"] = "LambdaResNet-101"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "train_command", fake_training)
        first = read_suite(write_file(folder / "suite.yaml", content), str(output))
        execute(first, str(output), jobs=4)
        content["seeds"] = [1, 2, 3]
        (output / "break").write_text("lambda")
        suite = read_suite(write_file(folder / "suite.yaml", content), str(output))
        states = execute(suite, str(output), jobs=2)
    facts = {"parameters_millions": 20.0}
    record = collect(suite, states, lambda cfg: facts, command="python x")
    write_results(str(output), suite, states, record)
    return output, suite, states


def test_page_is_whole_and_needs_nothing_from_elsewhere(results):
    page = (results[0] / "report.html").read_text()
    parser = Tags()
    parser.feed(page)
    assert parser.open == []
    for tag, attributes in parser.seen:
        assert tag not in ("link", "script", "iframe", "object", "base")
        for name in ("src", "href", "xlink:href", "srcset", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style
    assert all(word in style for word in ("prefers-color-scheme: dark", "@media print"))


def test_page_shows_the_numbers_and_names_what_is_missing(results):
    output = results[0]
    page = (output / "report.html").read_text()
    assert "<b>34.5 ± 2.1</b>" not in page and "<b>35.0 ± 1.4</b>" in page  # 34 and 36
    assert "<b>+3.5</b>" in page and "[−2.9, +9.9]" in page
    assert "λ&lt;50&gt;" in page and "λ<50>" not in page
    assert "49.4" in page and "published" in page
    assert "<li>lambda seed 3, failed: error: no such thing</li>" in page
    for title in ("Training loss", "Classes", "AP against time and size"):
        assert f"<h2>{title}</h2>" in page
    assert "No examples: DATASETS.COCO_FOLDER" in page  # the fake data are not there
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", page)
    assert {"R-50", "λ&lt;50&gt;", "&lt;ring&gt;", "iteration", "inference, ms per image"} <= {
        *texts
    }
    assert "disc" not in texts  # whose AP is undefined
    assert (output / "speed_accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_gains_of_classes_are_paired_by_seed(results):
    _, suite, states = results
    found = {("", model): {} for model in suite.labels}
    for run, state in states.items():
        if state == FINISHED:
            found["", run.model][run.seed] = result_of(run)
    assert class_gains(suite, found, "", "box") == {"lambda": {"<ring>": [3, 4]}}
    assert class_gains(suite, found, "", "mask") == {}


def test_the_classes_that_differ_most_are_kept():
    values = {f"c{number}": [(-1) ** number * number] for number in range(MOST_CLASSES + 5)}
    kept = most_different({"box": {"m": values}})["box"]["m"]
    assert list(kept) == [f"c{number}" for number in range(5, MOST_CLASSES + 5)]


def test_zero_has_no_sign():
    assert [signed(value) for value in (-0.04, 0.0, 0.04, -0.06)] == ["0.0", "0.0", "0.0", "−0.1"]
