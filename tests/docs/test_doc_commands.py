"""Every command of the documents runs, or is marked with what it needs that is not here.

They run in the order of the pages in one folder that looks like a checkout: what README.md's five
minutes make is what the other pages go on from.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from doc_blocks import Block, blocks_of, fault

PROJECT = Path(__file__).resolve().parents[2]
BLOCKS = blocks_of(PROJECT)
RUN = [block for block in BLOCKS if block.needs is None]
MARKED = [block for block in BLOCKS if block.needs and block.language == "bash"]


def _name(block: Block) -> str:
    return f"{block.page}:{block.line}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Block], str]:
    """Runs a block once, after those of README.md; returns what it has printed."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in PROJECT.iterdir():
        if path.name[0] != "." and path.name != "output":
            (folder / path.name).symlink_to(path)
    binaries = folder / ".venv" / "bin"
    binaries.mkdir(parents=True)
    # Not a link: that would be another virtual environment, without any package.
    (binaries / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" -W ignore "$@"\n')
    (binaries / "python").chmod(0o755)
    (binaries / "activate").write_text("")
    path = os.pathsep.join([str(binaries), str(Path(sys.executable).parent), os.environ["PATH"]])
    packages = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PATH": path, "PYTHONPATH": packages}
    done: dict[Block, str] = {}

    def run_block(block: Block) -> str:
        for other in [each for each in RUN if each.page == "README.md"] + [block]:
            if other in done:
                continue
            language = ["bash", "-euo", "pipefail", "-c"] if other.language == "bash" else None
            command = language or [str(binaries / "python"), "-c"]
            result = subprocess.run(
                [*command, other.text],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert result.returncode == 0, f"{_name(other)}\n{result.stdout[-3000:]}"
            done[other] = result.stdout
        return done[block]

    return run_block


@pytest.mark.parametrize("block", RUN, ids=_name)
def test_block_runs(block: Block, run: Callable[[Block], str]) -> None:
    assert "--record" not in block.text, "would write into the checkout"
    run(block)


@pytest.mark.parametrize("block", MARKED, ids=_name)
def test_marked_commands_name_what_exists(block: Block) -> None:
    for words in block.commands():
        assert fault(words, PROJECT) is None, words


def test_faults_are_seen() -> None:
    tool, config = "python tools/train_net.py", "configs/quick/nothing.yaml"
    wrong = {
        "frobnicate --all": "frobnicate",
        "python tools/no_tool.py": "tools/no_tool.py",
        f"{tool} --no-such-flag": "--no-such-flag",
        f"{tool} --config-file {config}": config,
    }
    for command, word in wrong.items():
        assert word in (fault(command.split(), PROJECT) or ""), command
    assert fault(f"{tool} --num-gpus 8 --resume".split(), PROJECT) is None
