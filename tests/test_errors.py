"""The line that a user sees: one line, printable, status 2; also for a full disk."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys

import pytest
from torch._utils import ExceptionWrapper

from lambda_det.errors import InputError, exit_on_input_error, one_line, printable, release


def test_what_a_terminal_would_obey_is_written_out() -> None:
    error = InputError("image a\nb\x1b[2J\u202e\ud800é λ is not there")
    assert str(error) == r"image a\nb\x1b[2J\u202e\ud800é λ is not there" == one_line(error)
    assert printable("a|b c") == "a|b c"


def test_the_line_of_a_worker_is_found() -> None:
    try:
        raise InputError("image a\nb cannot be read")
    except InputError:
        sent = ExceptionWrapper(where="in DataLoader worker process 0")  # as a data loader does
    with pytest.raises(InputError) as error:
        sent.reraise()
    assert "Traceback" in str(error.value)
    assert one_line(error.value) == r"image a\nb cannot be read"


def test_a_circular_chain_ends() -> None:
    first, second = InputError("a"), InputError("b")
    first.__cause__, second.__cause__ = second, first
    release(first)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_a_line(number: int, capsys) -> None:
    @exit_on_input_error
    def main() -> None:
        raise OSError(number, "no room", "a\nb.json")

    assert main() == 2
    assert capsys.readouterr().err == "error: a\\nb.json: cannot be written (no room)\n"


@pytest.mark.slow
def test_a_reader_that_leaves_ends_a_tool_without_a_word(project) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(project / 'lambda_det')!r})\n"
        "from errors import exit_on_input_error\n"
        "@exit_on_input_error\n"
        "def main():\n"
        "    for line in range(LINES): print(line)\n"
        "raise SystemExit(main())\n"
    )
    for lines in (100_000, 1):  # while it prints, and at its end
        command = [sys.executable, "-c", code.replace("LINES", str(lines))]
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE)
        os.close(write)
        assert (done.returncode, done.stderr) == (141, b"")


def test_a_broken_pipe_to_something_else_is_not_hidden(capsys) -> None:
    @exit_on_input_error
    def main() -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        main()


def test_other_errors_are_not_hidden() -> None:
    @exit_on_input_error
    def main() -> None:
        raise FileNotFoundError(errno.ENOENT, "gone", "a")

    with pytest.raises(FileNotFoundError):
        main()


def test_a_terminal_that_lacks_a_letter_gets_its_escape(monkeypatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    exit_on_input_error(lambda: print("λ"))()
    stream.flush()
    assert stream.buffer.getvalue() == b"\\u03bb\n"
