"""Every command of the documents runs, or is marked with what it needs that is not here.

They run in the order of the pages in one folder that looks like a checkout: what the five minutes
of getting_started.md make is what the other pages go on from.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from doc_blocks import Block, blocks_of, fault
from doc_processes import ready_processes, run_ready

PROJECT = Path(__file__).resolve().parents[2]
BLOCKS = blocks_of(PROJECT)
RUN = [block for block in BLOCKS if block.needs is None]
MARKED = [block for block in BLOCKS if block.needs and block.language == "bash"]


def _name(block: Block) -> str:
    return f"{block.page}:{block.line}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Block], None]]:
    """Runs a block once, after those of docs/getting_started.md."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in PROJECT.iterdir():
        if path.name[0] != "." and path.name != "output":
            (folder / path.name).symlink_to(path)
    packages = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    done: set[Block] = set()

    def run_block(block: Block) -> None:
        for other in [each for each in RUN if each.page == "docs/getting_started.md"] + [block]:
            if other in done:
                continue
            if other.language == "python":
                (folder / "block.py").write_text(other.text, encoding="utf-8")
            for words in [["block.py"]] if other.language == "python" else other.tools():
                status, printed = run_ready(words, folder)
                assert status == 0, f"{_name(other)}: {words}\n{printed[-3000:]}"
            done.add(other)

    with ready_processes(os.environ | {"PYTHONPATH": packages}):
        yield run_block
    shutil.rmtree(folder)  # 3 GB of checkpoints


@pytest.mark.slow
@pytest.mark.parametrize("block", RUN, ids=_name)
def test_block_runs(block: Block, run: Callable[[Block], None]) -> None:
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


def test_what_needs_a_shell_is_not_taken_for_a_tool() -> None:
    for text in ("python tools/evaluate.py | head", "pip install -e .", "python -c 'print()'"):
        with pytest.raises(ValueError, match=r"docs/a\.md:7: not a plain tool"):
            Block("docs/a.md", 7, "bash", f"{text}\n", None).tools()
    text = "source .venv/bin/activate  # first\npython tools/doctor.py \\\n  --json\n"
    assert Block("docs/a.md", 7, "bash", text, None).tools() == [["tools/doctor.py", "--json"]]
