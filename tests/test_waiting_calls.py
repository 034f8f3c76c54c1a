"""No code that every training step runs makes the host wait for a GPU, with named exceptions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "lambda_det"

IN_EVERY_STEP = [
    "layers/*.py", "backbone/*.py", "pretrain/classifier.py", "pretrain/timm_parts.py",
    *(f"engine/{name}.py" for name in (
        "accumulation", "averaging", "branches", "hooks", "interruption", "nonfinite", "parallel",
        "partial_masks", "progress", "run_state", "trainer",
    )),
]  # fmt: skip
"""Files whose functions a training step calls."""

WAITING = {
    "item", "tolist", "cpu", "numpy", "nonzero", "argwhere", "masked_select", "unique", "equal",
    "allclose", "synchronize", "any", "all",
}  # fmt: skip
"""Methods for which the host waits if the tensor is on a GPU. ``any`` and ``all`` do not, but what
is asked of them usually does."""

ALLOWED = {
    # The wait of each step, which must know whether the loss is finite.
    ("engine/nonfinite.py", "read_step"),
    ("engine/nonfinite.py", "any_not_finite"),  # all(): its result stays on the GPU
    # After a loss or gradient that is not finite.
    ("engine/nonfinite.py", "describe_gradients"),
    ("engine/nonfinite.py", "_finite"),
    ("engine/nonfinite.py", "look"),
    # At the start or the end of a training, or when a model is built.
    ("backbone/residual_branches.py", "mean_last_norms"),
    ("backbone/residual_branches.py", "closed_branches"),
    ("engine/branches.py", "branch_figures"),
    ("backbone/lambda_resnet.py", "build_lambda_resnet"),
    # While a graph is traced.
    ("backbone/padding.py", "attach_image_sizes"),
    # In an evaluation.
    ("pretrain/classifier.py", "evaluate"),
}
"""(File, function) of calls that may wait, or do not."""

MEASURING = "layers/measurement.py"
"""Times back ends, at the first call of a kind."""


def waiting_calls(source: str) -> Iterator[tuple[str, int, str]]:
    """(Function, line, what) of each call for which the host would wait for a GPU."""

    def visit(node: ast.AST, function: str) -> Iterator[tuple[str, int, str]]:
        if isinstance(node, ast.FunctionDef):
            function = node.name
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            is_method = isinstance(node.func, ast.Attribute)
            on_device = any(keyword.arg == "device" for keyword in node.keywords)
            tensors = any(isinstance(argument, ast.Call) for argument in node.args)
            if is_method and name in WAITING:
                yield function, node.lineno, f".{name}()"
            elif name in ("tensor", "as_tensor") and on_device:
                yield function, node.lineno, f"{name}(device=...) copies, and waits for that"
            elif name in ("bool", "float", "int") and not is_method and tensors:
                yield function, node.lineno, f"{name}() of a result"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function)

    yield from visit(ast.parse(source), "")


def found_in_the_package() -> set[tuple[str, str, int, str]]:
    files = sorted({file for pattern in IN_EVERY_STEP for file in PROJECT.glob(pattern)})
    assert len(files) > 30
    names = {file.relative_to(PROJECT).as_posix(): file for file in files}
    names.pop(MEASURING, None)
    return {
        (name, *call) for name, file in names.items() for call in waiting_calls(file.read_text())
    }


def test_no_step_waits_for_a_gpu() -> None:
    for file, function, line, what in sorted(found_in_the_package()):
        assert (file, function) in ALLOWED, (
            f"lambda_det/{file}:{line}: {what}: the host would wait for a GPU in every step. "
            "Compute it on the device, or allow it above with a reason"
        )


def test_no_exception_is_out_of_date() -> None:
    assert {(file, function) for file, function, *_ in found_in_the_package()} == ALLOWED


def test_the_rule_finds_what_waits() -> None:
    source = """
def step(x):
    if bool((x > 0).sum()):
        y = torch.tensor([1], device=x.device)
    if torch.isfinite(x).all():
        return x.nonzero(), x.tolist()
    return any(x for x in y), float("inf"), int(x.shape[0])
"""
    found = [(line, what.split("(")[0]) for _, line, what in waiting_calls(source)]
    assert found == [(3, "bool"), (4, "tensor"), (5, ".all"), (6, ".nonzero"), (6, ".tolist")]
