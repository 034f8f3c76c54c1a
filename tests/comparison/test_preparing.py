"""The commands before the first run: once, again where their data are gone, ended with us."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lambda_det.comparison.preparing import prepare
from lambda_det.errors import InputError

pytestmark = pytest.mark.slow

MAKE = "mkdir -p {output}/data/a && echo x > {output}/data/a/b && echo x > {output}/data/c"


@pytest.fixture
def prepared(content, read, output) -> Callable[..., int]:
    """Prepare with these commands -> how often one of them has been run so far."""

    def run(*commands: str) -> int:
        content["prepare"] = [f"echo x >> {output}/count && {command}" for command in commands]
        prepare(read(), str(output))
        return len((output / "count").read_text().splitlines())

    return run


def test_prepare_runs_once_and_its_failure_is_a_line(read, train, content, output):
    content["prepare"] = ["echo x >> {output}/prepared.txt"]
    content["seeds"] = [1]
    (output / "break").write_text("plain lambda")
    for _ in range(2):
        suite = read()
        train(suite, jobs=2)
    assert (output / "prepared.txt").read_text() == "x\n"
    content["prepare"].append("echo no >&2; exit 3")
    with pytest.raises(InputError, match=r"prepare: .*status 3: no"):
        train(read())


def test_what_is_there_is_not_prepared_again(prepared, output):
    (output / "data" / "empty").mkdir(parents=True)
    assert prepared(MAKE) == prepared(MAKE) == 1
    assert prepared(MAKE, "true") == 2


@pytest.mark.parametrize("gone", ["data", "data/c"])
def test_what_is_gone_is_prepared_again(prepared, output, caplog, gone):
    assert prepared(MAKE, "true") == 2
    moved = output / "elsewhere"
    (output / gone).rename(moved)
    assert prepared(MAKE, "true") == 3  # the one that names it
    assert f"{output}/data, or a part of it, is missing: it is prepared again" in caplog.text
    assert (output / "data" / "a" / "b").is_file() and (output / "data" / "c").is_file()


def test_what_a_broken_repetition_leaves_is_not_taken_for_the_data(prepared, output):
    command = f"{MAKE} && test ! -f {output}/fail"
    assert prepared(command) == 1
    (output / "data").rename(output / "elsewhere")
    (output / "fail").touch()
    with pytest.raises(InputError, match="status 1"):
        prepared(command)
    assert (output / "data" / "c").is_file()  # as after a kill, it looks whole
    (output / "fail").unlink()
    assert prepared(command) == 3


def test_all_is_prepared_again_where_no_command_names_what_is_gone(prepared, output):
    command = f"cd {output} && mkdir data && echo x > data/x"
    assert prepared("true", command) == prepared("true", command) == 2
    (output / "data").rename(output / "elsewhere")
    assert prepared("true", command) == 4


def test_data_that_no_command_has_made_are_not_missed(prepared):
    assert prepared("true") == prepared("true") == 1


@pytest.mark.parametrize("text", ["{", '{"commands": []}'])
def test_a_broken_marker_is_a_line(prepared, output, caplog, text):
    assert prepared(MAKE) == 1
    (output / "prepared.json").write_text(text)
    caplog.clear()
    assert prepared(MAKE) == 2
    (line,) = [record.getMessage() for record in caplog.records if record.levelname != "INFO"]
    assert f"{output}/prepared.json is " in line
    assert line.endswith(": all commands of prepare run again") and "\n" not in line


@pytest.mark.parametrize("patient", [True, False])
def test_a_signal_ends_the_command_and_what_it_started(prepared, output, monkeypatch, patient):
    """As the command compare does it: the handler leaves."""
    monkeypatch.setattr("lambda_det.comparison.processes._GRACE", 0.3)
    deaf = "" if patient else "trap '' INT TERM; "
    inner = f"{deaf}echo $$ > {output}/pid; sleep 600; true"
    here = threading.get_ident()

    def leave() -> None:
        while not (output / "pid").is_file() or not (output / "pid").read_text().strip():
            time.sleep(0.01)
        signal.pthread_kill(here, signal.SIGTERM)

    def end(*_: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, end)
    try:
        threading.Thread(target=leave).start()
        with pytest.raises(SystemExit):
            prepared(f'sh -c "{inner.replace("$", chr(92) + "$")}"; true')
    finally:
        signal.signal(signal.SIGTERM, before)
    stat = Path("/proc", (output / "pid").read_text().strip(), "stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"  # unclaimed
    assert not (output / "prepared.json").exists()
