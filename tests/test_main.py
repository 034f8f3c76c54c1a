"""``python -m lambda_det``: the tools by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lambda_det.__main__ import main, summary, tools


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_tools_are_listed(words: list[str], project: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(words) == 0
    usage, *lines = capsys.readouterr().out.splitlines()
    assert usage.startswith("usage: ")
    assert [line.split()[0] for line in lines] == sorted(p.stem for p in project.glob("tools/*.py"))
    assert all(len(line.split()) > 3 for line in lines)  # each says what it does


def test_a_summary_is_the_first_paragraph_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "tool.py"
    path.write_text('"""Do this\nand that.\n\nMore of it."""\nraise SystemExit(9)\n')
    assert summary(path) == "Do this and that."
    path.write_text("pass\n")
    assert summary(path) == ""


def test_a_tool_gets_the_words_behind_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    tool = tmp_path / "tools" / "own.py"
    tool.parent.mkdir()
    tool.write_text(
        "import sys\nif __name__ == '__main__':\n    print(__file__, sys.argv[1:])\n"
        "    sys.exit(3)\n"
    )
    monkeypatch.setattr("lambda_det.__main__.ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["lambda_det", "own", "--flag", "2"])
    assert list(tools()) == ["own"]
    for words in (None, ["own.py", "--flag", "2"]):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 3
        assert capsys.readouterr().out == f"{tool} ['--flag', '2']\n"


def test_an_unknown_tool_is_one_line(capsys: pytest.CaptureFixture) -> None:
    assert main(["train_nett"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 'train_nett': ") and "train_net" in error
    assert error.count("\n") == 1
