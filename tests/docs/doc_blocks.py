"""The fenced blocks of the documents, and what can be said of a command without running it."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import shlex
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest import mock

from lambda_det.configs import load_config
from lambda_det.pretrain.keys import get_pretrain_cfg
from studies.documents import documents

_FENCE = re.compile(
    r"(?:^<!-- needs: (?P<needs>[^>]+) -->\n)?^```(?P<language>bash|python)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+")
_SHELL = set("$|&;<>`*?~")
_PROGRAMS = {"bash", "cd", "export", "lambda_det", "pip", "python", "sbatch", "source", "torchrun"}


@dataclass(frozen=True)
class Block:
    """A block of commands (bash) or a program (python); ``needs``: what a test has not."""

    page: str
    line: int
    language: str
    text: str
    needs: str | None

    def commands(self) -> list[list[str]]:
        """The words of each command, comments left out and continued lines joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        split = [shlex.split(line, comments=True) for line in lines]
        return [words for words in split if words]

    def tools(self) -> list[list[str]]:
        """What follows ``python`` in each command.

        Raises:
            ValueError: one is more than a Python tool, and needs a shell or a mark.
        """
        commands = [w for w in self.commands() if w != ["source", ".venv/bin/activate"]]
        for words in commands:
            of_shell = _SHELL & set("".join(words))
            if words[0] != "python" or not words[1].startswith("tools/") or of_shell:
                raise ValueError(f"{self.page}:{self.line}: not a plain tool: {words}")
        return [words[1:] for words in commands]


def blocks_of(project: Path) -> list[Block]:
    """All blocks, in the order of the pages."""
    blocks = []
    for page in documents(project):
        text = (project / page).read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            line = text.count("\n", 0, match.start("text"))
            blocks.append(
                Block(page, line, match["language"], match["text"], match["needs"]),
            )
    return blocks


def fault(words: list[str], project: Path) -> str | None:
    """What is wrong with a command that is not run here: file, flag or key; None = nothing."""
    while "=" in words[0]:  # NAME=value in front of the program
        words = words[1:]
    if words[0] not in _PROGRAMS:
        return f"{words[0]} is no program that the documents use"
    tool = next((i for i, word in enumerate(words) if word.startswith("tools/")), None)
    if tool is None:
        return None
    path, arguments = project / words[tool], words[tool + 1 :]
    if not path.is_file():
        return f"{words[tool]} does not exist"
    if path.suffix != ".py":
        return None
    sub_command = next((word for word in arguments[:1] if word.isalpha()), "")
    text = _help(str(path), sub_command)
    flags = [word.split("=")[0] for word in arguments if word.startswith("--")]
    if unknown := [flag for flag in flags if not re.search(rf"{flag}\b", text)]:
        return f"{words[tool]} has no {unknown[0]}"
    return _fault_of_config(arguments, project, pretraining=path.stem == "pretrain")


@cache
def _help(tool: str, sub_command: str) -> str:
    output = io.StringIO()
    arguments = [tool, *([sub_command] if sub_command else []), "--help"]
    with (
        mock.patch.object(sys, "argv", arguments),
        contextlib.redirect_stdout(output),
        contextlib.suppress(SystemExit),
    ):
        runpy.run_path(tool, run_name="__main__")
    return output.getvalue()


def _fault_of_config(arguments: list[str], project: Path, *, pretraining: bool) -> str | None:
    named = [arguments[i + 1] for i, word in enumerate(arguments) if word == "--config-file"]
    if not named or named[0].startswith("output/"):  # made by an earlier command
        return None
    path = project / named[0]
    if not path.is_file():
        return f"--config-file {named[0]} does not exist"
    first_key = next((i for i, word in enumerate(arguments) if _KEY.fullmatch(word)), None)
    overrides = [] if first_key is None else arguments[first_key:]
    if path.suffix == ".yaml":
        defaults = get_pretrain_cfg() if pretraining else None
        load_config(str(path), overrides, defaults=defaults)  # raises for a wrong key or value
    return None
