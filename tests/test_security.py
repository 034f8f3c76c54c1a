"""Nothing that is read is run: which calls the sources may not have."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
FILES = sorted(
    [
        *(PROJECT / "lambda_det").rglob("*.py"),
        *(PROJECT / "studies").rglob("*.py"),
        *(PROJECT / "tools").rglob("*.py"),
        PROJECT / "lambda_det_command.py",
        PROJECT / "setup.py",
    ]
)

FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "input", "os.system", "os.popen", "os.spawnl",
    "os.execv", "os.execvp", "subprocess.getoutput", "subprocess.getstatusoutput",
    "tempfile.mktemp", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load",
    "yaml.unsafe_load_all", "yaml.full_load_all", "CfgNode.load_yaml_with_base", "pickle.load",
    "pickle.loads", "numpy.load", "np.load", "torch.jit.load", "torch.hub.load", "runpy.run_path",
    "literal_eval_unsafe", "pandas.read_pickle", "model_zoo.get", "torch.package.PackageImporter",
}  # fmt: skip
MODULES = {"marshal", "shelve", "dill", "cloudpickle", "joblib", "telnetlib", "ftplib", "code"}
# The unpickler that admits numpy arrays and plain containers by name; its tests try to break it.
UNPICKLER = "lambda_det/checkpoint/restricted_pickle.py"
# Commands that a suite's author gives to a shell: a suite is a program, as README.md says.
SHELL = "lambda_det/comparison/processes.py"
# Runs again the file that it has written a moment before, to compare it.
EXPORTER = "lambda_det/export/formats.py"
SHELLS = {"sh", "bash", "dash", "zsh"}


def name_of(node: ast.expr) -> str:
    """``a.b.c`` of a name or an attribute."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def wrong_calls(tree: ast.AST, path: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module = getattr(node, "module", None) or ""
            names = [module] if module else [alias.name for alias in node.names]
            yield from (name for name in names if name.split(".")[0] in MODULES)
            if module in ("pickle", "subprocess", "os", "yaml"):  # so that calls show their module
                hidden = {f"{module}.{alias.name}" for alias in node.names}
                yield from hidden & FORBIDDEN
                yield from (f"{n} by name" for n in hidden if n.endswith((".run", ".Popen")))
        if isinstance(node, ast.ClassDef) and any("Unpickler" in name_of(b) for b in node.bases):
            yield from () if path == UNPICKLER else [f"class {node.name}(Unpickler)"]
        if isinstance(node, (ast.List, ast.Tuple)) and path != SHELL and is_shell(node.elts):
            yield "a command for a shell"
        if not isinstance(node, ast.Call):
            continue
        name, words = name_of(node.func), {k.arg: k.value for k in node.keywords}
        if (name, path) == ("torch.jit.load", EXPORTER):
            continue
        if name in FORBIDDEN or (name.endswith("Unpickler") and path != UNPICKLER):
            yield name
        if "shell" in words and not is_constant(words["shell"], False) and path != SHELL:
            yield f"{name}(shell=…)"
        if name == "torch.load" and not is_constant(words.get("weights_only"), True):
            yield "torch.load without weights_only=True"
        if name.endswith("merge_from_file") and not is_constant(words.get("allow_unsafe"), False):
            yield "merge_from_file without allow_unsafe=False"


def is_shell(words: list[ast.expr]) -> bool:
    """Whether they are ``sh -c …``, by whatever path and with whatever flags."""
    texts = [word.value for word in words if isinstance(word, ast.Constant)]
    texts = [text for text in texts if isinstance(text, str)]
    flags = any(text.startswith("-") and text.endswith("c") for text in texts)
    return flags and any(text.rpartition("/")[2] in SHELLS for text in texts)


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_no_call_runs_what_was_read() -> None:
    for path in FILES:
        name = path.relative_to(PROJECT).as_posix()
        assert not list(wrong_calls(ast.parse(path.read_text(encoding="utf-8")), name)), name


@pytest.mark.parametrize(
    "code",
    [
        "eval(text)", "exec(text)", "os.system('ls')", "subprocess.run(c, shell=True)",
        "subprocess.Popen(c, shell=flag)", "yaml.load(f)", "yaml.load(f, Loader=yaml.Loader)",
        "yaml.unsafe_load(f)", "pickle.load(f)", "import pickle; pickle.Unpickler(f).load()",
        "from pickle import loads", "from subprocess import run", "import dill", "torch.load(p)",
        "torch.load(p, weights_only=False)", "cfg.merge_from_file(p)", "np.load(p)",
        "cfg.merge_from_file(p, allow_unsafe=True)", "class A(pickle.Unpickler): pass",
        "subprocess.run(['/bin/sh', '-c', c])", "run(('bash', '-lc', c))",
    ],
)  # fmt: skip
def test_the_scan_sees_it(code: str) -> None:
    assert list(wrong_calls(ast.parse(code), "lambda_det/some.py"))


@pytest.mark.parametrize(
    "code",
    ["yaml.safe_load(f)", "torch.load(p, weights_only=True)", "subprocess.run([a, b])",
     "cfg.merge_from_file(p, allow_unsafe=False)", "model.eval()", "json.load(f)",
     "subprocess.run(['bash', 'tools/test.sh'])", "[sys.executable, '-c', CODE]"],
)  # fmt: skip
def test_the_scan_lets_it_pass(code: str) -> None:
    assert not list(wrong_calls(ast.parse(code), "lambda_det/some.py"))


def test_exceptions_are_needed_still() -> None:
    for path in (UNPICKLER, SHELL):
        assert list(wrong_calls(ast.parse((PROJECT / path).read_text()), "elsewhere.py")), path
