"""tools/doctor.py: the report, its JSON and its exit status."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lambda_det.doctor.command import CHECKS, main
from lambda_det.doctor.findings import STATUSES, Check, ok, run_checks, warning, worst
from lambda_det.doctor.report import as_data, as_table, summary

LONG = "a finding that is so long that it does not fit into one line of a terminal " * 2


def raise_it():
    raise RuntimeError("first line\nsecond line")


def leave():
    raise SystemExit(3)


GOOD = Check("good", lambda: ok("fine"))
SO_SO = Check("so so", lambda: warning(LONG, "python -m pip install something"))
BAD = Check("bad", raise_it)


def doctor(
    project: Path, *arguments: str, before: Path | None = None, start=("tools/doctor.py",)
) -> subprocess.CompletedProcess:
    parts = [before, project, os.environ.get("PYTHONPATH")]
    if before is None:  # the detectron2 that is being tested comes first
        parts = [os.environ.get("PYTHONPATH"), project]
    path = os.pathsep.join(str(part) for part in parts if part)
    return subprocess.run(
        [sys.executable, *start, *arguments],
        cwd=project, env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_the_real_environment(project: Path, tmp_path: Path) -> None:
    result = doctor(project, "--output", str(tmp_path / "o.json"))
    assert result.returncode == 0, result.stdout + result.stderr
    data = json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))
    assert [entry["name"] for entry in data["findings"]] == [check.name for check in CHECKS]
    assert data["schema"] == 1 and data["status"] in ("ok", "warning")
    for entry in data["findings"]:
        assert set(entry) == {"name", "status", "found", "fix", "seconds"}
        assert entry["status"] in STATUSES and entry["found"]
        assert bool(entry["fix"]) == (entry["status"] != "ok")
        assert entry["found"].split()[0] in result.stdout
    step = next(e for e in data["findings"] if e["name"] == "a training step")
    assert step["status"] == "ok" and "loss" in step["found"]
    assert "fix:" not in result.stdout or data["status"] != "ok"


COMMAND = "import sys, lambda_det_command; sys.exit(lambda_det_command.main())"


@pytest.mark.parametrize("place", ["a checkout", "a package with its tools"])
def test_without_torch_it_says_so_and_looks_at_the_rest(
    project: Path, tmp_path: Path, place: str
) -> None:
    start = ["tools/doctor.py"]
    if place != "a checkout":
        package = tmp_path / "site-packages" / "lambda_det"
        shutil.copytree(project / "lambda_det" / "doctor", package / "doctor")
        (package / "shipped" / "tools").mkdir(parents=True)
        shutil.copy(project / "tools" / "doctor.py", package / "shipped" / "tools")
        shutil.copy(project / "lambda_det_command.py", package.parent)
        start = [
            "-c",
            f"import sys; sys.path.insert(0, {str(package.parent)!r}); {COMMAND}",
            "doctor",
        ]
    (tmp_path / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')", encoding="utf-8"
    )
    result = doctor(project, "--json", before=tmp_path, start=start)
    assert result.returncode == 1, result.stderr
    data = json.loads(result.stdout)
    found = {entry["name"]: entry for entry in data["findings"]}
    assert data["status"] == "problem"
    assert (found["torch"]["status"], found["torch"]["found"]) == ("problem", "not installed")
    assert "pytorch.org" in found["torch"]["fix"]
    for name in ("torchvision", "detectron2", "GPU"):
        assert found[name]["found"] == "not looked at: torch has a problem", name
    assert found["numpy"]["status"] == found["pycocotools"]["status"] == "ok"


def test_other_tools_without_torch_are_one_line(project: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')", encoding="utf-8"
    )
    result = doctor(project, "--help", before=tmp_path, start=["-c", COMMAND, "train_net"])
    line = "error: No module named 'torch'; 'lambda_det doctor' says what is missing\n"
    assert (result.returncode, result.stderr) == (1, line)


def test_no_check_ends_the_others() -> None:
    rows = run_checks([BAD, Check("leaves", leave), GOOD])
    assert [row.status for row in rows] == ["problem", "problem", "ok"]
    assert rows[0].found == "RuntimeError: first line" and rows[0].fix
    assert worst(rows) == "problem" and all(row.seconds >= 0 for row in rows)


def test_what_needs_a_broken_one_is_not_looked_at() -> None:
    after = Check("after", raise_it, needs=("bad",))
    far_after = Check("far after", raise_it, needs=("so so", "after"))
    last = Check("last", lambda: ok("fine"), needs=("so so",))
    rows = run_checks([SO_SO, BAD, after, far_after, last])
    assert [row.status for row in rows] == ["warning", "problem", "warning", "warning", "ok"]
    for row in rows[2:4]:
        assert (row.found, row.fix) == ("not looked at: bad has a problem", "mend bad first")


@pytest.mark.parametrize(
    ("checks", "status"), [((GOOD, SO_SO), 0), ((GOOD,), 0), ((GOOD, BAD, SO_SO), 1)]
)
def test_exit_status(checks, status: int, capsys) -> None:
    assert main([], checks) == status
    assert f"{len(checks)} checks in" in capsys.readouterr().out


def test_what_a_library_prints_is_not_in_the_json(capsys) -> None:
    def noisy():
        print("hello from a library")
        return ok("fine")

    assert main(["--json"], [Check("noisy", noisy)]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["findings"][0]["found"] == "fine"
    assert "hello" in captured.err


def test_output_that_cannot_be_written(tmp_path, capsys) -> None:
    assert main(["--output", str(tmp_path / "none" / "o.json")], [GOOD]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --output") and "No such file" in error


def test_the_table_shows_all_of_it_in_its_width() -> None:
    rows = run_checks([GOOD, SO_SO, BAD])
    for width in (80, 120):
        lines = as_table(rows, width).splitlines()
        assert max(map(len, lines)) <= width
        words = " ".join(" ".join(lines).split())
        assert "good fine" in words and LONG.split()[-1] in words
        assert "fix: python -m pip install something" in words
        assert lines[-1] == summary(rows)
    assert summary(rows).endswith("1 ok, 1 warning, 1 problem")
    assert summary(rows[:1]).endswith("1 ok, no warnings, no problems")


def test_the_data_are_plain() -> None:
    data = as_data(run_checks([GOOD, SO_SO]))
    assert data == json.loads(json.dumps(data)) and data["status"] == "warning"
    assert data["findings"][0]["fix"] == ""
