# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Conditions of routes and gates: a small expression language over the state, parsed once and never run as Python.

``state.score >= 7 and (not done or len(items) > 3)``. Names may be written ``x``, ``state.x``, ``{x}`` or ``{state.x}``. ``&&``,
``||``, ``!``, ``true``, ``false`` and ``null`` are known. A comparison with a field that is not set is false.

What a model or a caller wrote is an operand here. So numbers, texts, lists and the time of an evaluation are bounded.
"""

from __future__ import annotations

import ast
import operator
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

LONGEST = 1000
DEEPEST = 30
LARGEST_BITS = 1024
# Characters of texts and values of lists, together: what a request can hold.
LARGEST_VALUE = 1_100_000
MOST_DIGITS = 400
LONGEST_SECONDS = 1.0  # of a processor, so that a loaded host refuses nothing
LONGEST_MESSAGE = 300
TOKEN = re.compile(
    r"""(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?P<braced>\{\s*[A-Za-z_][\w.]*\s*\})|(?P<sign>&&|\|\||!(?!=))"""
    r"""|(?P<word>[A-Za-z_]\w*)"""
)
SIGNS = {"&&": " and ", "||": " or ", "!": " not "}
WORDS = {"true": "True", "false": "False", "null": "None", "none": "None", "AND": "and", "OR": "or", "NOT": "not"}

ORDER: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
ARITHMETIC: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}


def _round(value: Any, digits: int | None = None) -> Any:
    if digits is not None and abs(digits) > MOST_DIGITS:
        raise ValueError(f"round() takes at most {MOST_DIGITS} digits")
    return round(value, digits)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "len": lambda value: 0 if value is None else len(value),
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "strip": lambda text: text.strip(),
    "startswith": lambda text, start: text.startswith(start),
    "endswith": lambda text, end: text.endswith(end),
    "abs": abs,
    "min": min,
    "max": max,
    "round": _round,
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
}
# Functions that take no longer for a larger value.
AT_ONCE = frozenset({"len", "bool", "startswith", "endswith"})


class ConditionError(Exception):
    """A condition that cannot be evaluated over this state; the text says why."""


@dataclass(frozen=True)
class Expression:
    """A parsed condition. names: the state fields that it reads."""

    text: str
    tree: ast.expr
    names: frozenset[str]

    def evaluate(self, state: Mapping[str, Any]) -> Any:
        """The value over a state. Raises ConditionError where types do not fit."""
        try:
            return _evaluate(self.tree, state, time.thread_time() + LONGEST_SECONDS)
        except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, RecursionError) as error:
            raise ConditionError(f"{self.text}: {str(error)[:LONGEST_MESSAGE]}") from None


def parse_condition(text: str) -> Expression:
    """Raises ValueError with a message for the author of the file."""
    if len(text) > LONGEST:
        raise ValueError(f"the condition is longer than {LONGEST} characters")
    try:
        tree = ast.parse(TOKEN.sub(_translate, text).strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"the condition cannot be parsed: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError):
        raise ValueError("the condition cannot be parsed") from None
    names: set[str] = set()
    _check(tree, names, 0)
    return Expression(text.strip(), tree, frozenset(names))


def _translate(match: re.Match[str]) -> str:
    if match["text"]:
        return match["text"]
    if match["braced"]:
        return match["braced"].strip("{} ")
    if match["sign"]:
        return SIGNS[match["sign"]]
    return WORDS.get(match["word"], match["word"])


def _check(node: ast.AST, names: set[str], depth: int) -> None:
    if depth > DEEPEST:
        raise ValueError(f"the condition is nested more than {DEEPEST} levels deep")
    path = read_path(node)
    if path is not None:
        names.add(path[0])
        return
    children: list[ast.AST]
    if isinstance(node, ast.BoolOp):
        children = list(node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        children = [node.operand]
    elif isinstance(node, ast.Compare):
        if any(isinstance(sign, (ast.Is, ast.IsNot)) for sign in node.ops):
            names_none = all(isinstance(part, ast.Constant) and part.value is None for part in node.comparators)
            if not names_none:
                raise ValueError("'is' works with null only: write == or !=")
        children = [node.left, *node.comparators]
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        children = [node.left, node.right]
    elif isinstance(node, ast.Constant) and isinstance(node.value, (str, int, float, bool, type(None))):
        children = []
    elif isinstance(node, (ast.List, ast.Tuple)):
        children = list(node.elts)
    elif isinstance(node, ast.Subscript):
        children = [node.value, node.slice]
    elif isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS or node.keywords:
            raise ValueError(f"{ast.unparse(node.func)}() is not a function; the functions are {', '.join(sorted(FUNCTIONS))}")
        children = list(node.args)
    else:
        raise ValueError(f"{ast.unparse(node)!r} is not allowed in a condition")
    for child in children:
        _check(child, names, depth + 1)


def read_path(node: ast.AST) -> list[str] | None:
    """``state.a.b`` -> [a, b]; None for anything that is not a name."""
    steps: list[str] = []
    while isinstance(node, ast.Attribute):
        steps.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    steps.append(node.id)
    steps.reverse()
    return steps[1:] if steps[0] == "state" and len(steps) > 1 else steps


def find_value(state: Mapping[str, Any], path: list[str] | tuple[str, ...]) -> Any:
    """The value at a path; None where a part of the path is not set."""
    value: Any = state.get(path[0])
    for step in path[1:]:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _evaluate(node: ast.AST, state: Mapping[str, Any], deadline: float) -> Any:
    def value_of(part: ast.AST) -> Any:
        return _evaluate(part, state, deadline)

    if time.thread_time() > deadline:
        raise ValueError(f"it takes longer than {LONGEST_SECONDS:g} s")
    path = read_path(node)
    if path is not None:
        return find_value(state, path)
    if isinstance(node, ast.Constant):
        return _check_size(node.value)
    if isinstance(node, ast.BoolOp):
        deciding = isinstance(node.op, ast.Or)
        value: Any = None
        for part in node.values:
            value = value_of(part)
            if bool(value) is deciding:
                return value
        return value
    if isinstance(node, ast.UnaryOp):
        value = value_of(node.operand)
        return not value if isinstance(node.op, ast.Not) else -value
    if isinstance(node, ast.Compare):
        left = value_of(node.left)
        for sign, part in zip(node.ops, node.comparators, strict=True):
            right = value_of(part)
            if not _compare(sign, left, right):
                return False
            left = right
        return True
    if isinstance(node, ast.BinOp):
        return _calculate(node, value_of(node.left), value_of(node.right))
    if isinstance(node, ast.Subscript):
        value, key = value_of(node.value), value_of(node.slice)
        return value.get(key) if isinstance(value, Mapping) else value[key]
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        values = [value_of(part) for part in node.args]
        if node.func.id not in AT_ONCE:
            for value in values:
                _check_size(value)
        return _check_size(FUNCTIONS[node.func.id](*values))
    assert isinstance(node, (ast.List, ast.Tuple))
    return [value_of(part) for part in node.elts]


def _calculate(node: ast.BinOp, left: Any, right: Any) -> Any:
    if isinstance(node.op, (ast.Mult, ast.Mod)) and not (_is_number(left) and _is_number(right)):
        raise TypeError(f"{ast.unparse(node)} works with numbers only")
    return _check_size(ARITHMETIC[type(node.op)](_check_size(left), _check_size(right)))


def _check_size(value: Any) -> Any:
    """The value itself. Raises ValueError where it is too large to calculate with."""
    if isinstance(value, int):
        if value.bit_length() > LARGEST_BITS:
            raise ValueError(f"a number has more than {LARGEST_BITS} bits")
    elif isinstance(value, (str, list, Mapping)):
        ahead, left = [value], LARGEST_VALUE
        while ahead:
            one = ahead.pop()
            left -= len(one) + 1 if isinstance(one, (str, list, Mapping)) else 1
            if left < 0:
                raise ValueError(f"a value is larger than {LARGEST_VALUE} characters")
            if isinstance(one, list):
                ahead.extend(one)
            elif isinstance(one, Mapping):
                ahead.extend(one)
                ahead.extend(one.values())
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _compare(sign: ast.cmpop, left: Any, right: Any) -> bool:
    for value in (left, right):
        if not isinstance(value, str):
            _check_size(value)
    if isinstance(sign, (ast.Eq, ast.Is)):
        return bool(left == right)
    if isinstance(sign, (ast.NotEq, ast.IsNot)):
        return bool(left != right)
    if isinstance(sign, (ast.In, ast.NotIn)):
        found = right is not None and left in right
        return found if isinstance(sign, ast.In) else not found
    if left is None or right is None:
        return False
    return bool(ORDER[type(sign)](left, right))
