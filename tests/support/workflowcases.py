"""A small workflow and variants of it."""

from __future__ import annotations

import copy
from typing import Any

import yaml
from anvil_workflow.language.problems import WorkflowError
from anvil_workflow.language.reading import parse_workflow
from anvil_workflow.language.workflow import Workflow

DROP = object()

BASE: dict[str, Any] = {
    "schema_version": "1.0",
    "flow": {"name": "base"},
    "state": {
        "fields": {
            "topic": {"type": "str", "required": True},
            "draft": {"type": "str", "default": ""},
            "score": {"type": "int"},
            "done": {"type": "bool", "default": False},
            "items": {"type": "list[str]", "default": []},
            "found": {"type": "list", "default": []},
        }
    },
    "nodes": [
        {
            "id": "write",
            "prompt": "Write about {topic}",
            "outputs": ["draft", "done"],
            "output_schema": {"type": "object", "fields": [{"name": "draft", "type": "str"}, {"name": "done", "type": "bool"}]},
        },
        {
            "id": "rate",
            "prompt": "Rate {state.draft}",
            "outputs": ["score"],
            "output_schema": {"type": "object", "fields": [{"name": "score", "type": "int", "minimum": 0, "maximum": 10}]},
        },
    ],
    "edges": [{"from": "START", "to": "write"}, {"from": "write", "to": "rate"}, {"from": "rate", "to": "END"}],
    "config": {"llm": {"model": "m"}, "execution": {"max_retries": 1}},
}


def changed(*changes: tuple[str, Any]) -> dict[str, Any]:
    """Return BASE with changes, each a (dotted path, value); numbers are positions in lists, DROP removes the value."""
    tree = copy.deepcopy(BASE)
    for path, value in changes:
        steps = [int(step) if step.isdecimal() else step for step in path.split(".")]
        node: Any = tree
        for step in steps[:-1]:
            node = node[step]
        if value is DROP:
            del node[steps[-1]]
        elif isinstance(node, list) and steps[-1] == len(node):
            node.append(value)
        else:
            node[steps[-1]] = value
    return tree


def read(*changes: tuple[str, Any]) -> Workflow:
    return parse_workflow(yaml.safe_dump(changed(*changes), sort_keys=False))


def problems(*changes: tuple[str, Any]) -> list[tuple[str, str, str]]:
    """Return (path, what, do) of each problem."""
    try:
        read(*changes)
    except WorkflowError as error:
        return [(problem.path, problem.what, problem.do) for problem in error.problems]
    return []
