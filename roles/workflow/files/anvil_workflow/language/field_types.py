# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The types of state fields: ``str``, ``list[int]``, ``object`` with a schema.

A type gives the JSON Schema that constrains a model, the Python type that checks a value, and its own name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Union

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model

# llama-server turns a length into that many grammar rules and refuses more than about 2000.
MAX_LENGTH = 2000
MAX_ITEMS = 50
# What a caller may send, where the file sets nothing.
MOST_INPUT_ITEMS = 1000
MAX_DEPTH = 8
STRICT = ConfigDict(strict=True, extra="forbid", ser_json_inf_nan="null", allow_inf_nan=False)

SCALARS: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": bool, "any": Any}
JSON_NAMES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
NAMES = (*SCALARS, "list", "dict", "object")
FOREIGN = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "array": "list", "text": "str"}
NESTED = re.compile(r"(\w+)\[(.+)\]")


@dataclass(frozen=True)
class FieldType:
    """A type. item: the type of the items of a list or dict. fields: the types of the fields of an object."""

    name: str
    item: FieldType | None = None
    fields: Mapping[str, FieldType] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.item is None:
            return self.name
        return f"dict[str, {self.item}]" if self.name == "dict" else f"list[{self.item}]"

    def build_schema(self, max_length: int = MAX_LENGTH, max_items: int = MAX_ITEMS) -> dict[str, Any]:
        """The JSON Schema. Every text and every list has a maximum length: without one a small model may never stop."""
        if self.name == "any":
            return {}
        if self.name == "str":
            return {"type": "string", "maxLength": max_length}
        if self.name == "list":
            items = (self.item or FieldType("any")).build_schema(max_length, max_items)
            return {"type": "array", "items": items, "maxItems": max_items}
        if self.name == "dict":
            more = (self.item or FieldType("any")).build_schema(max_length, max_items)
            return {"type": "object", "additionalProperties": more or True}
        if self.name == "object":
            properties = {name: field_type.build_schema(max_length, max_items) for name, field_type in self.fields.items()}
            return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
        return {"type": JSON_NAMES[self.name]}

    def build_type(self, label: str = "Object", max_items: int | None = None) -> Any:
        """The Python type that pydantic checks a value with. max_items: the most items of each list, and keys of each dict."""
        if self.name in ("list", "dict"):
            inner = (self.item or FieldType("any")).build_type(label, max_items)
            plain: Any = list[inner] if self.name == "list" else dict[str, inner]  # type: ignore[valid-type]
            return plain if max_items is None else Annotated[plain, Field(max_length=max_items)]
        if self.name == "object" and self.fields:
            members: dict[str, Any] = {
                f"field_{number}": (field_type.build_type(f"{label}_{name}", max_items), Field(alias=name))
                for number, (name, field_type) in enumerate(self.fields.items())
            }
            return create_model(label, __config__=STRICT, **members)
        if self.name == "object":
            return dict[str, Any]
        return SCALARS[self.name]


def parse_type(text: str, schema: Mapping[str, Any] | None = None, depth: int = 0) -> FieldType:
    """``list[dict[str, int]]`` -> FieldType. Raises ValueError with a message for the author of the file."""
    if depth > MAX_DEPTH:
        raise ValueError(f"the type is nested more than {MAX_DEPTH} levels deep")
    text = text.strip()
    nested = NESTED.fullmatch(text)
    if nested is None:
        if text not in NAMES:
            raise ValueError(f"{text} is not a type" + _suggest_type(text))
        if schema is not None and text != "object":
            raise ValueError(f"only the type object has a schema, and this is {text}")
        return FieldType(text, fields=_parse_fields(schema, depth) if schema else {})
    outer, inner = nested.groups()
    if outer == "list":
        return FieldType("list", parse_type(inner, schema, depth + 1))
    if outer == "dict":
        key, comma, value = inner.partition(",")
        if not comma or key.strip() != "str":
            raise ValueError("a dict is written dict[str, T]: keys in JSON are text")
        return FieldType("dict", parse_type(value, schema, depth + 1))
    raise ValueError(f"{outer}[…] is not a type: only list[T] and dict[str, T] have brackets")


def _suggest_type(text: str) -> str:
    near = [FOREIGN[text.lower()]] if text.lower() in FOREIGN else difflib.get_close_matches(text, NAMES, 1)
    return f"; did you mean {near[0]}?" if near else f"; the types are {', '.join(NAMES)}, list[T], dict[str, T]"


def _parse_fields(schema: Mapping[str, Any], depth: int) -> dict[str, FieldType]:
    types = {}
    for name, value in schema.items():
        if isinstance(value, str):
            types[name] = parse_type(value, None, depth + 1)
        elif isinstance(value, Mapping) and isinstance(value.get("type"), str) and not isinstance(value.get("schema"), str):
            types[name] = parse_type(value["type"], value.get("schema"), depth + 1)
        elif isinstance(value, Mapping):
            types[name] = FieldType("object", fields=_parse_fields(value, depth + 1))
        else:
            raise ValueError(f"{name} is neither a type nor a mapping of names to types")
    return types


def check_value(field_type: FieldType, value: Any) -> str:
    """Why the value is not of the type; empty where it is."""
    expected: Any = Union[field_type.build_type(), None]
    try:
        TypeAdapter(expected).validate_python(value, strict=True)
    except ValueError as error:
        return explain_first(error)
    return ""


def explain_first(error: ValueError) -> str:
    """The first error of a validation in one line: its place, and what was expected."""
    first = error.errors()[0]  # type: ignore[attr-defined]
    where = ".".join(str(step) for step in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def dump(value: Any) -> Any:
    """A checked value as plain JSON data. Objects are pydantic models while they are checked."""
    if isinstance(value, BaseModel):
        return value.model_dump(by_alias=True)
    if isinstance(value, list):
        return [dump(item) for item in value]
    if isinstance(value, dict):
        return {key: dump(item) for key, item in value.items()}
    return value
