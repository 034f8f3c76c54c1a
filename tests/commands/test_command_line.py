"""``lambda_det`` and ``python -m lambda_det``: the commands by name."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lambda_det
from lambda_det.commands import add_model_arguments, evaluate, overrides_of
from lambda_det_command import commands, main, summary

ALONE = {"doctor", "install_detectron2"}


def run_python(project: Path, *words: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join(filter(None, [str(project), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("PYTHONWARNINGS", None)
    command = [sys.executable, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_commands_are_listed(words: list[str], project: Path, capsys) -> None:
    assert main(words) == 0
    usage, *lines = capsys.readouterr().out.splitlines()
    assert usage.startswith("usage: lambda_det COMMAND ")
    modules = {path.stem for path in project.glob("lambda_det/commands/*.py")} - {"__init__"}
    assert [line.split()[0] for line in lines] == sorted(modules | ALONE)
    assert all(3 < len(line.split()) < 20 for line in lines)  # each says what it does
    assert "tools/" not in "".join(lines)


def test_the_version(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lambda_det {lambda_det.__version__}\n"


@pytest.mark.slow
def test_the_list_needs_neither_torch_nor_the_package(project: Path) -> None:
    code = (
        "import sys, lambda_det_command as c\n"
        "for words in ([], ['--version'], ['train_nett']): c.main(words)\n"
        "sys.exit(bool({'lambda_det', 'torch', 'detectron2', 'numpy'} & set(sys.modules)))"
    )
    result = run_python(project, "-c", code)
    assert result.returncode == 0 and "train_net" in result.stdout, result.stderr


def test_a_summary_is_the_first_paragraph_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "command.py"
    path.write_text('"""Do this\nand that.\n\nMore of it."""\nraise SystemExit(9)\n')
    assert summary(path) == "Do this and that."
    path.write_text("pass\n")
    assert summary(path) == ""


def test_a_command_gets_the_words_after_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(evaluate, "main", lambda argv: seen.append(argv) or 3)
    monkeypatch.setattr(sys, "argv", ["lambda_det", "evaluate", "--flag", "2"])
    assert main() == 3 and main(["evaluate.py", "--flag", "2"]) == 3
    assert seen == [["--flag", "2"]] * 2


def test_an_unknown_command_is_one_line(capsys) -> None:
    assert main(["train_nett"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 'train_nett' is not a command; ") and "train_net, " in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", sorted(set(commands()) - ALONE))
def test_help_names_the_command(name: str, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: lambda_det {name} ") and "tools/" not in text


@pytest.mark.slow
def test_a_user_sees_no_warning_of_the_imports(project: Path) -> None:
    """detectron2 scripts two classes, of which PyTorch warns."""
    result = run_python(project, "-m", "lambda_det", "train_net", "--config-file", "no.yaml")
    assert result.returncode == 2
    assert result.stderr == "error: --config-file no.yaml: no such file\n"
    result = run_python(
        project, "-c", "import lambda_det, warnings; warnings.warn('seen', UserWarning)"
    )
    assert "seen" in result.stderr and "torch.jit" not in result.stderr


def test_the_flag_of_the_weights_wins() -> None:
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    words = ["--config-file", "c", "MODEL.WEIGHTS", "a"]
    assert overrides_of(parser.parse_args(words)) == ["MODEL.WEIGHTS", "a"]
    both = overrides_of(parser.parse_args(["--weights", "b", *words]))
    assert both == ["MODEL.WEIGHTS", "a", "MODEL.WEIGHTS", "b"]
