"""Numbers in a config that are worked out: sums, lists and comprehensions, and nothing else."""

from __future__ import annotations

import random

import pytest

from lambda_det.engine.config_numbers import work_out

RETINANET_SIZES = "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-2.5", -2.5), ("7//2 + 7%4 - 2**3", -2), ("2**-1", 0.5),
        ("2**(1.0/3)", 2 ** (1 / 3)),
        ("[1, (2, 3.5)]", [1, [2, 3.5]]), ("[x*x for x in [1, 2] ]", [1, 4]),
        ("[[x + y for y in [1, 2]] for x in [10, 20]]", [[11, 12], [21, 22]]),
        ("[x for x in [y for y in [3]]]", [3]), ("[]", []), ("[x for x in []]", []),
    ],
)  # fmt: skip
def test_numbers_are_worked_out(text: str, value: object) -> None:
    assert work_out(text) == value


def test_the_tag_of_retinanet_is_what_python_gives() -> None:
    expected = [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in [32, 64, 128, 256, 512]]
    assert work_out(RETINANET_SIZES) == expected


REFUSED = [
    "__import__('os').system('ls')", "open('/etc/passwd').read()", "x", "print", "'text'", "None",
    "True", "().__class__", "[].append", "lambda: 1", "1 if 1 else 2", "1 < 2", "f'{1}'", "{1: 2}",
    "{1}", "[x for x in range(9)]", "[x for x in [1] if x]", "[x for x in [1] for y in [2]]",
    "[x for x in 5]", "[x for (x, y) in [[1, 2]]]", "(x for x in [1])", "[*[1]]", "[1] * 3",
    "[1] + [2]", "[1][0]", "(y := 1)", "1j", "(-8)**0.5", "9**9**9", "10**400", "1e308*10", "1/0",
    "2**1e9", "5 & 3", "1 << 99", "~1", "not 1", "", "1 +", "1; 2", "\0", "b'1'", "...",
    "(" * 500 + "1" + ")" * 400, "-" * 900 + "1", "1" * 2000, "9" * 999,
    "[" * 4 + "1" + "".join(f" for {n} in [{', '.join('0' * 60)}]]" for n in "abcd"),
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        work_out(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def expression(draw: random.Random, depth: int, names: tuple[str, ...]) -> str:
    """Numbers and sums; lists of them on the outside only."""
    kinds = ["number", "number", "sum", "sign", *(["name"] * 2 if names else [])]
    kind = draw.choice(kinds if depth else kinds[:2])
    if kind == "number":
        return draw.choice(["0", "3", "7", "2.5", "0.125", "1e3"])
    if kind == "name":
        return draw.choice(names)
    if kind == "sign":
        return f"{draw.choice('+-')}({expression(draw, depth - 1, names)})"
    left, right = (expression(draw, depth - 1, names) for _ in "ab")
    return f"({left} {draw.choice(['+', '-', '*', '/', '//', '%', '**'])} {right})"


def listed(draw: random.Random, depth: int, names: tuple[str, ...] = ()) -> str:
    items = [expression(draw, 2, names) for _ in range(draw.randint(1, 3))]
    if not depth:
        return f"[{', '.join(items)}]"
    name = "xyz"[len(names)]
    return f"[{listed(draw, depth - 1, (*names, name))} for {name} in [{', '.join(items)}]]"


def test_values_are_pythons_own() -> None:
    draw, agreed = random.Random(0), 0
    for _ in range(400):
        text = listed(draw, draw.randint(0, 2))
        try:
            expected = eval(text, {"__builtins__": {}})
        except ArithmeticError:
            with pytest.raises(ValueError):
                work_out(text)
            continue
        try:
            value = work_out(text)
        except ValueError as error:  # too large, or not real
            assert "numbers up to" in str(error), text
            continue
        assert value == expected, text
        agreed += 1
    assert agreed > 200
