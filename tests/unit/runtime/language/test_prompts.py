"""Prompts: names in braces are filled in; every other brace is literal."""

from __future__ import annotations

import pytest
from anvil_workflow.language.prompts import parse_template
from hypothesis import given
from hypothesis import strategies as st

VALUES = {"topic": "tea", "n": 3, "tags": ["a", "ü"], "none": None, "profile": {"name": {"first": "Ada"}}}


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("about {topic}", "about tea"),
        ("{state.topic} { topic }", "tea tea"),
        ("{profile.name.first}", "Ada"),
        ("{profile.missing.x}|{none}", "|"),
        ("{n} {tags}", '3 ["a", "ü"]'),
        ('{"a": {"b": 1}}', '{"a": {"b": 1}}'),
        ("{{topic}} {topic}", "{topic} tea"),
        ('{{"x": {topic}}}', '{"x": tea}'),
        ("{} { } {1} {a b} {a-b}", "{} { } {1} {a b} {a-b}"),
        ("a } b { c", "a } b { c"),
        ("", ""),
    ],
)
def test_a_template_is_rendered(text: str, written: str) -> None:
    assert parse_template(text).render({**VALUES, "state": VALUES}) == written


def test_braces_in_values_are_literal() -> None:
    assert parse_template("{a}{b}").render({"a": "{b}", "b": "{{a}}"}) == "{b}{{a}}"


@given(st.text(max_size=60))
def test_any_text_is_a_valid_template(text: str) -> None:
    template = parse_template(text)
    assert isinstance(template.render({}), str)
    if "{" not in text and "}" not in text:
        assert template.render({}) == text
