# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Arguments of tools against their schemas. jsonschema, which has no limits on time, says what is right."""

from __future__ import annotations

import itertools
import time
from typing import Any

import jsonschema
import pytest
from anvil_workflow.language.argument_schema import explain_mismatch, find_schema_mistakes

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 5, 10, 1.0, 1.5, 1e300, 10**30, "", "a", "ab", "abc", "42", [], [1], [1, 1], [1, "a"], [[1]],
    [None], {}, {"a": 1}, {"a": "x"}, {"a": None}, {"b": 1}, {"a": 1, "b": 2}, {"a": {"a": {"a": 1}}}, {"x-y": 1},
    {"a": [1, 2, 3]},
]  # fmt: skip

SCHEMAS: list[dict[str, Any]] = [
    {},
    *({"type": kind} for kind in ("string", "integer", "number", "boolean", "null", "array", "object")),
    {"type": ["string", "null"]},
    {"enum": [1, "a", None, [1], {"a": 1}]},
    {"const": 1},
    {"const": True},
    {"minimum": 1, "maximum": 5},
    {"exclusiveMinimum": 1, "exclusiveMaximum": 10},
    {"multipleOf": 5},
    {"multipleOf": 0.5},
    {"minLength": 1, "maxLength": 2},
    {"pattern": "^a"},
    {"pattern": "b$"},
    {"pattern": "^(a+)+$"},
    {"minItems": 1, "maxItems": 1},
    {"uniqueItems": True},
    {"items": {"type": "integer"}},
    {"items": False},
    {"prefixItems": [{"type": "integer"}], "items": {"type": "string"}},
    {"contains": {"type": "string"}},
    {"required": ["a"]},
    {"properties": {"a": {"type": "integer"}}},
    {"properties": {"a": {"type": "integer"}}, "additionalProperties": False},
    {"properties": {"a": True}, "additionalProperties": {"type": "string"}},
    {"patternProperties": {"^x-": {"type": "string"}}, "additionalProperties": False},
    {"propertyNames": {"maxLength": 1}},
    {"minProperties": 1, "maxProperties": 1},
    {"dependentRequired": {"a": ["b"]}},
    {"allOf": [{"type": "integer"}, {"minimum": 5}]},
    {"anyOf": [{"type": "string"}, {"type": "integer"}]},
    {"oneOf": [{"type": "number"}, {"type": "integer"}, {"type": "array"}]},
    {"not": {"type": "object"}},
    {"if": {"type": "integer"}, "then": {"minimum": 5}, "else": {"type": "string"}},
    {"$ref": "#/$defs/deep", "$defs": {"deep": {"type": "object", "properties": {"a": {"$ref": "#/$defs/deep"}}}}},
    {"$defs": {"a/b": {"type": "string"}}, "$ref": "#/$defs/a~1b"},
    {"title": "unknown keywords say nothing", "format": "email", "x-mine": 3},
]  # fmt: skip


def test_schemas_mean_what_jsonschema_says() -> None:
    for schema, value in itertools.product(SCHEMAS, VALUES):
        right = jsonschema.Draft202012Validator(schema).is_valid(value)
        assert (explain_mismatch(schema, value) == "") == right, (schema, value, explain_mismatch(schema, value))
        assert not list(find_schema_mistakes(schema))


@pytest.mark.parametrize(
    ("schema", "value", "why"),
    [
        ({"properties": {"a": {"items": {"type": "integer"}}}}, {"a": [1, "x"]}, "a[1]: it is not of type integer"),
        ({"required": ["a"]}, {}, "a is missing"),
        ({"properties": {"a": {"required": ["b"]}}}, {"a": {}}, "a: b is missing"),
        ({"exclusiveMinimum": True, "minimum": 5}, 5, "it is not > 5"),
        ({"type": "string", "nullable": True}, None, ""),
        ({"pattern": "^(?=a)"}, "b", ""),
        ({"$ref": "#"}, {}, "it is nested too deeply"),
    ],
)
def test_a_mismatch_has_its_place_and_reason(schema: dict[str, Any], value: Any, why: str) -> None:
    assert explain_mismatch(schema, value) == why


def test_no_pattern_takes_long() -> None:
    began = time.monotonic()
    assert explain_mismatch({"pattern": "^(a|a)*(a+)+$"}, "a" * 50_000 + "!")
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        ({"type": "text"}, "type: 'text' is none of string"),
        ({"properties": {"a": {"type": "int"}}}, "properties.a.type: 'int'"),
        ({"properties": {"a": 3}}, "properties.a.it is not a mapping"),
        ({"required": "a"}, "required: it is not a list of names"),
        ({"enum": "a"}, "enum: it is not a list"),
        ({"items": {"pattern": "("}}, "items.pattern: '(' is not a regular expression"),
        ({"$ref": "#/$defs/none"}, "$ref: '#/$defs/none' is not in this schema"),
        ({"$ref": "http://evil/x"}, "$ref: 'http://evil/x' is not in this schema"),
        ([], "it is not a mapping"),
    ],
)
def test_an_unusable_schema_is_reported_with_its_key(schema: Any, what: str) -> None:
    assert any(mistake.startswith(what) for mistake in find_schema_mistakes(schema)), list(find_schema_mistakes(schema))
