"""A check, what it found, and running all of them whatever happens in one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

OK, WARNING, PROBLEM = "ok", "warning", "problem"
STATUSES = (OK, WARNING, PROBLEM)  # from good to bad


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        status: ``"ok"``, ``"warning"`` (runs, but not all or not well) or ``"problem"``.
        found: one line.
        fix: one line, with a command where there is one; "" where nothing is to be done.
    """

    status: str
    found: str
    fix: str = ""


def ok(found: str) -> Finding:
    return Finding(OK, found)


def warning(found: str, fix: str) -> Finding:
    return Finding(WARNING, found, fix)


def problem(found: str, fix: str) -> Finding:
    return Finding(PROBLEM, found, fix)


def tool(name: str) -> str:
    """How a user starts a tool (as ``lambda_det.project`` has it, which cannot be asked here)."""
    in_wheel = (Path(__file__).resolve().parent.parent / "shipped").is_dir()
    return f"lambda_det {name}" if in_wheel else f"python tools/{name}.py"


@dataclass(frozen=True)
class Check:
    """A question to the environment.

    Attributes:
        name: of the row in the report.
        run: the answer; what it raises becomes a problem.
        needs: names of checks before it; with a problem in one of them, or in what that one needs,
            it is not run.
    """

    name: str
    run: Callable[[], Finding]
    needs: Sequence[str] = ()


@dataclass(frozen=True)
class Row:
    """A check that has run: its name, finding and time in seconds."""

    name: str
    status: str
    found: str
    fix: str
    seconds: float


def run_checks(checks: Sequence[Check]) -> list[Row]:
    """Every check in turn; none ends the others."""
    rows: list[Row] = []
    blame: dict[str, str] = {}  # what has no good end: the check that is at the bottom of it
    for check in checks:
        bad = [blame[name] for name in check.needs if name in blame]
        start = time.perf_counter()
        if bad:
            finding = warning(f"not looked at: {bad[0]} has a problem", f"mend {bad[0]} first")
            blame[check.name] = bad[0]
        else:
            finding = _answer(check)
            if finding.status == PROBLEM:
                blame[check.name] = check.name
        seconds = time.perf_counter() - start
        rows.append(Row(check.name, finding.status, finding.found, finding.fix, seconds))
    return rows


def _answer(check: Check) -> Finding:
    try:
        return check.run()
    except (Exception, SystemExit) as error:  # a broken library raises anything
        return problem(
            one_line(error), "install again what this line names; in a checkout, bash "
            "tools/setup_env.sh makes a whole environment in .venv",
        )  # fmt: skip


def one_line(error: BaseException) -> str:
    """The error's first line, with its type where it says nothing by itself."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    name = type(error).__name__
    return text if isinstance(error, ImportError | OSError) and text else f"{name}: {text}"


def worst(rows: Sequence[Row]) -> str:
    """The status of the whole."""
    return max((row.status for row in rows), key=STATUSES.index, default=OK)
