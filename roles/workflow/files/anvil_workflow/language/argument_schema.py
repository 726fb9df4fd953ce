# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON Schemas of tool arguments: whether one can be used, and whether arguments fit it.

A keyword that is not known here says nothing about a value, as JSON Schema has it. Patterns run in an engine whose time grows
with the length of a text only; a pattern that needs another engine is not checked.
"""

from __future__ import annotations

import functools
import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import SchemaError

DEEPEST = 64
TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "integer": lambda value: (
        (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())
    ),
}
LISTS_OF_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems")
SCHEMAS = ("items", "additionalProperties", "not", "if", "then", "else", "propertyNames", "contains")
MAPS_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def find_schema_mistakes(schema: Any, root: Any = None, depth: int = 0) -> Iterator[str]:
    """What makes a schema unusable, each with its key."""
    root = schema if root is None else root
    if isinstance(schema, bool) and depth:
        return
    if not isinstance(schema, Mapping) or depth > DEEPEST:
        yield "it is not a mapping" if depth <= DEEPEST else "it is nested too deeply"
        return
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in TYPES:
            yield f"type: {kind!r} is none of {', '.join(TYPES)}"
    required = schema.get("required", [])
    if not (isinstance(required, list) and all(isinstance(name, str) for name in required)) and not isinstance(required, bool):
        yield "required: it is not a list of names"
    if "enum" in schema and not isinstance(schema["enum"], list):
        yield "enum: it is not a list"
    for pattern in (schema.get("pattern"), *_keys_of(schema.get("patternProperties"))):
        if pattern is not None and not _is_pattern(pattern):
            yield f"pattern: {pattern!r} is not a regular expression"
    reference = schema.get("$ref")
    if reference is not None and _resolve(reference, root) is None:
        yield f"$ref: {reference!r} is not in this schema"
    for key, part in _list_parts(schema):
        for mistake in find_schema_mistakes(part, root, depth + 1):
            yield f"{key}.{mistake}"


def _keys_of(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Mapping) else []


def _list_parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in SCHEMAS:
        if key in schema and not (key == "items" and isinstance(schema[key], list)):
            yield key, schema[key]
    for key in LISTS_OF_SCHEMAS:
        for number, part in enumerate(schema[key] if isinstance(schema.get(key), list) else ()):
            yield f"{key}.{number}", part
    for key in MAPS_OF_SCHEMAS:
        for name, part in schema[key].items() if isinstance(schema.get(key), Mapping) else ():
            yield f"{key}.{name}", part


def explain_mismatch(schema: Mapping[str, Any], value: Any) -> str:
    """The first reason why a value does not fit, with its place; empty where it fits."""
    return next(_compare(schema, value, schema, "", 0), "")


def _compare(schema: Any, value: Any, root: Any, place: str, depth: int) -> Iterator[str]:
    at = f"{place}: " if place else ""
    if isinstance(schema, bool):
        if not schema:
            yield f"{at}it is not allowed"
        return
    if depth > DEEPEST:
        yield f"{at}it is nested too deeply"
        return
    if not isinstance(schema, Mapping):
        return
    if "$ref" in schema:
        yield from _compare(_resolve(schema["$ref"], root), value, root, place, depth + 1)
    kinds = schema.get("type")
    names = [kinds] if isinstance(kinds, str) else kinds
    if value is None and schema.get("nullable") is True:
        return
    if isinstance(names, list) and not any(name in TYPES and TYPES[name](value) for name in names):
        yield f"{at}it is not of type {' or '.join(map(str, names))}"
        return
    if isinstance(schema.get("enum"), list) and not any(_is_same(value, one) for one in schema["enum"]):
        yield f"{at}it is none of {json.dumps(schema['enum'], ensure_ascii=False)[:200]}"
    if "const" in schema and not _is_same(value, schema["const"]):
        yield f"{at}it is not {json.dumps(schema['const'], ensure_ascii=False)[:200]}"
    if isinstance(value, str):
        yield from _compare_text(schema, value, at)
    elif TYPES["number"](value):
        yield from _compare_number(schema, value, at)
    elif isinstance(value, list):
        yield from _compare_list(schema, value, root, place, depth)
    elif isinstance(value, dict):
        yield from _compare_object(schema, value, root, place, depth)
    yield from _combine(schema, value, root, place, depth)


def _is_same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _compare_bounds(schema: Mapping[str, Any], size: int, what: str, at: str) -> Iterator[str]:
    least, most = _as_number(schema.get("min" + what)), _as_number(schema.get("max" + what))
    if least is not None and size < least:
        yield f"{at}it is shorter than min{what} {least}"
    if most is not None and size > most:
        yield f"{at}it is longer than max{what} {most}"


def _compare_text(schema: Mapping[str, Any], value: str, at: str) -> Iterator[str]:
    yield from _compare_bounds(schema, len(value), "Length", at)
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and not _matches(pattern, value):
        yield f"{at}it does not match {pattern}"


def _compare_number(schema: Mapping[str, Any], value: float, at: str) -> Iterator[str]:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    # In draft 4 these two are switches of the others.
    above, below = (low if above is True else above), (high if below is True else below)
    for given, wrong, sign in (
        (low, operator.lt, ">="),
        (high, operator.gt, "<="),
        (above, operator.le, ">"),
        (below, operator.ge, "<"),
    ):
        bound = _as_number(given)
        if bound is not None and wrong(value, bound):
            yield f"{at}it is not {sign} {bound}"
    step = _as_number(schema.get("multipleOf"))
    if step is not None and step > 0:
        times = value / step if abs(value) < 1e300 else math.inf
        if math.isfinite(times) and abs(times - round(times)) > 1e-9 * max(1.0, abs(times)):
            yield f"{at}it is not a multiple of {step}"


def _as_number(value: Any) -> float | None:
    return value if TYPES["number"](value) else None


def _compare_list(schema: Mapping[str, Any], value: list[Any], root: Any, place: str, depth: int) -> Iterator[str]:
    at = f"{place}: " if place else ""
    yield from _compare_bounds(schema, len(value), "Items", at)
    if schema.get("uniqueItems") is True and len({json.dumps(item, sort_keys=True) for item in value}) != len(value):
        yield f"{at}it has the same item twice"
    items, first = schema.get("items", True), schema.get("prefixItems", [])
    if isinstance(items, list):
        items, first = schema.get("additionalItems", True), items
    for number, item in enumerate(value):
        chosen = first[number] if number < len(first) else items
        yield from _compare(chosen, item, root, f"{place}[{number}]", depth + 1)
    if "contains" in schema and not any(_fits(schema["contains"], item, root, depth) for item in value):
        yield f"{at}it does not have the item that it must contain"


def _compare_object(schema: Mapping[str, Any], value: dict[str, Any], root: Any, place: str, depth: int) -> Iterator[str]:
    at = f"{place}: " if place else ""
    yield from _compare_bounds(schema, len(value), "Properties", at)
    required = schema.get("required")
    for name in required if isinstance(required, list) else ():
        if name not in value:
            yield f"{at}{name} is missing"
    for name, needed in (schema.get("dependentRequired") or {}).items():
        if name in value and any(one not in value for one in needed):
            yield f"{at}with {name}, {' and '.join(map(str, needed))} must be set"
    properties, patterns = schema.get("properties") or {}, schema.get("patternProperties") or {}
    for name, item in value.items():
        here = f"{place}.{name}" if place else name
        if "propertyNames" in schema:
            yield from _compare(schema["propertyNames"], name, root, here, depth + 1)
        chosen = [properties[name]] if name in properties else []
        chosen += [part for pattern, part in patterns.items() if _matches(pattern, name)]
        for part in chosen or [schema.get("additionalProperties", True)]:
            yield from _compare(part, item, root, here, depth + 1)


def _combine(schema: Mapping[str, Any], value: Any, root: Any, place: str, depth: int) -> Iterator[str]:
    at = f"{place}: " if place else ""
    for part in schema.get("allOf") or ():
        yield from _compare(part, value, root, place, depth + 1)
    if schema.get("anyOf") and not any(_fits(part, value, root, depth) for part in schema["anyOf"]):
        yield f"{at}it fits none of the schemas in anyOf"
    if schema.get("oneOf") and sum(_fits(part, value, root, depth) for part in schema["oneOf"]) != 1:
        yield f"{at}it does not fit exactly one of the schemas in oneOf"
    if "not" in schema and _fits(schema["not"], value, root, depth):
        yield f"{at}it fits the schema in not"
    if "if" in schema:
        branch = "then" if _fits(schema["if"], value, root, depth) else "else"
        yield from _compare(schema.get(branch, True), value, root, place, depth + 1)


def _fits(schema: Any, value: Any, root: Any, depth: int) -> bool:
    return not next(_compare(schema, value, root, "", depth + 1), "")


def _resolve(reference: Any, root: Any) -> Any:
    """The schema at ``#/$defs/name``; None where there is none."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    found = root
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and int(name[:9]) < len(found):
            found = found[int(name[:9])]
        elif isinstance(found, Mapping):
            found = found.get(name)
        else:
            return None
    return found


@functools.lru_cache(maxsize=256)
def _compile(pattern: str) -> TypeAdapter[str] | None:
    """The pattern in pydantic's engine, which has no backtracking; None where that engine cannot run it."""
    try:
        adapter: TypeAdapter[str] = TypeAdapter(Annotated[str, Field(pattern=pattern)])
    except SchemaError:
        return None
    return adapter


def _is_pattern(pattern: Any) -> bool:
    if not isinstance(pattern, str):
        return False
    if _compile(pattern) is not None:
        return True
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _matches(pattern: str, value: str) -> bool:
    adapter = _compile(pattern)
    if adapter is None:
        return True
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True
