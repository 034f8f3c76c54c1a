"""Plain YAML, and the one tag with code in detectron2's own configs: worked out, never run.

``SIZES: !!python/object/apply:eval ["[[x, x * 2**(1.0/3)] for x in [32, 64]]"]`` in its
Base-RetinaNet.yaml is numbers, lists, sums and a comprehension. These, and nothing else, are read
from the syntax tree; what the text would do in Python's own ``eval`` does not happen.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping

import yaml

TAG = "tag:yaml.org,2002:python/object/apply:eval"

_LONGEST_TEXT = 1000
_MOST_STEPS = 10_000  # of comprehensions in comprehensions
_LARGEST = 1e15  # whole numbers up to here are exact in JSON and float64 too
_SUMS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.Pow: operator.pow, ast.UAdd: operator.pos, ast.USub: operator.neg,
}  # fmt: skip


class ConfigLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which takes ``eval`` tags as far as :func:`work_out` does."""


def read_yaml(stream) -> object:
    """The content of a YAML file.

    Raises:
        yaml.YAMLError: it is no YAML, or a tag of it names code.
    """
    loader = ConfigLoader(stream)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def work_out(text: str) -> object:
    """The value of an expression of numbers.

    Args:
        text: of numbers, ``+ - * / // % **``, lists, tuples and ``[... for name in ...]``.

    Returns:
        A number, or lists of such.

    Raises:
        ValueError: it is anything else, divides by 0, or is too long or too large.
    """
    if len(text) > _LONGEST_TEXT:
        raise ValueError(f"longer than {_LONGEST_TEXT} letters")
    try:
        return _Worker().value(ast.parse(text.strip(), mode="eval").body, {})
    except (SyntaxError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ValueError(str(error).splitlines()[0] if str(error) else "too deep") from error


class _Worker:
    def __init__(self) -> None:
        self.steps = 0

    def value(self, node: ast.expr, names: Mapping[str, object]) -> object:
        self.steps += 1
        if self.steps > _MOST_STEPS:
            raise ValueError("too long a computation")
        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return _checked(number)
            case ast.Name(id=name) if name in names:
                return names[name]
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return [self.value(item, names) for item in items]
            case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _SUMS:
                return _SUMS[type(sign)](self.number(operand, names))
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _SUMS:
                return self.sum(sign, self.number(left, names), self.number(right, names))
            case ast.ListComp(elt=item, generators=[loop]) if _is_plain(loop):
                values = self.value(loop.iter, names)
                if isinstance(values, list):
                    return [self.value(item, {**names, loop.target.id: one}) for one in values]
        raise ValueError(f"{ast.unparse(node)[:80]!r} is not a number, a sum or a list of them")

    def number(self, node: ast.expr, names: Mapping[str, object]) -> int | float:
        value = self.value(node, names)
        if isinstance(value, list):
            raise ValueError(f"{ast.unparse(node)[:80]!r} is a list, a number is needed")
        return value

    @staticmethod
    def sum(sign: ast.operator, left: int | float, right: int | float) -> int | float:
        if isinstance(sign, ast.Pow):
            left, right = float(left) if right < 0 or abs(right) > 64 else left, right
        return _checked(_SUMS[type(sign)](left, right))


def _is_plain(loop: ast.comprehension) -> bool:
    return isinstance(loop.target, ast.Name) and not loop.ifs and not loop.is_async


def _checked(number: object) -> int | float:
    if not isinstance(number, (int, float)) or not abs(number) <= _LARGEST:
        raise ValueError(f"numbers up to {_LARGEST:g} are needed")
    return number


def _construct(loader: ConfigLoader, node: yaml.Node) -> object:
    is_text = isinstance(node, yaml.SequenceNode) and len(node.value) == 1
    if is_text and isinstance(node.value[0], yaml.ScalarNode):
        text = node.value[0].value
        try:
            return work_out(text)
        except ValueError as error:
            problem = f"an eval of more than numbers: {error}"
    else:
        problem = "an eval of more than one text"
    raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


ConfigLoader.add_constructor(TAG, _construct)
