# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A workflow file -> a workflow that can run, or every mistake in it with its line."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError

from anvil_workflow.language.checks import Parts, check_parts
from anvil_workflow.language.problems import Finding, Path, Problem, WorkflowError, locate_finding, suggest
from anvil_workflow.language.schema import Config, Edge, Node, StateField, WorkflowFile
from anvil_workflow.language.workflow import Workflow, compile_workflow
from anvil_workflow.language.yaml_positions import load_yaml

VERSION = "1.0"
LARGEST_FILE = 1024 * 1024
# Keys of configurable-agents that this runtime does not support. They are errors: without them the workflow would do
# something else than its author expects.
UNSUPPORTED = {
    "optimization": "remove the key: prompts are not optimised at run time",
    "optimize": "remove the key: prompts are not optimised at run time",
    "memory": "remove the key and keep the data in the state: runs share no memory",
    "code": "call a service of your own with the tool http: nodes run no code",
    "sandbox": "remove the key and call a service of your own with the tool http: nodes run no code",
    "ab_test": "remove the key and deploy one workflow for each variant",
    "mlflow": "remove the key: the deployment decides where traces go",
}


def read_workflow(path: FilePath) -> Workflow:
    """Raises WorkflowError."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(LARGEST_FILE + 1)
    except OSError as error:
        raise WorkflowError(Problem("", 0, 0, "", f"the file cannot be read: {error.strerror}", "check the path")) from None
    if len(raw) > LARGEST_FILE:
        raise WorkflowError(Problem("", 0, 0, "", "the file is larger than 1 MiB", "move data out of the file"))
    try:
        return parse_workflow(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        what = f"byte {error.start} is not UTF-8"
        raise WorkflowError(Problem("", 0, 0, "", what, "save the file as UTF-8")) from None


def parse_workflow(text: str) -> Workflow:
    """Raises WorkflowError with every problem, in the order of their lines."""
    data, places, findings = load_yaml(text)
    parsed: WorkflowFile | None = None
    if not isinstance(data, dict):
        raise WorkflowError(Problem("", 1, 1, "", "the file is not a mapping of keys", 'begin with schema_version: "1.0"'))
    try:
        parsed = WorkflowFile.model_validate(data)
    except ValidationError as error:
        findings.extend(_explain(error))
    findings.extend(check_parts(_read_parts(data)))
    if findings or parsed is None:
        raise WorkflowError(
            *sorted((locate_finding(finding, places, data) for finding in findings), key=lambda one: (one.line, one.column))
        )
    return compile_workflow(parsed)


# --- messages for the mistakes that pydantic finds


def _explain(error: ValidationError) -> Iterator[Finding]:
    for entry in error.errors():
        path = tuple(step for step in entry["loc"] if step != "[key]")
        kind, what = entry["type"], str(entry["msg"]).removeprefix("Value error, ")
        if path == ("schema_version",) and kind != "missing":
            yield _explain_version(str(entry["input"]))
            continue
        known = _known_keys(path[:-1])
        if kind == "extra_forbidden":
            name = str(path[-1])
            hint = UNSUPPORTED.get(name) or suggest(name, known)
            yield Finding(
                path, f"the key {name} is not known" if name not in UNSUPPORTED else f"the key {name} is not supported", hint
            )
        elif kind == "missing":
            yield Finding(
                path, f"the key {path[-1]} is missing", f"add it; the keys here are: {', '.join(known)}" if known else "add it"
            )
        else:
            hint = "write it without quotes" if kind in ("int_type", "float_type", "bool_type") else ""
            hint = "put the text in quotes" if kind == "string_type" else hint
            yield Finding(path, what, hint)


def _explain_version(text: str) -> Finding:
    """What to do with a file of another schema version."""
    what = f"the file has schema_version {text}, and this release reads {VERSION}"
    numbers = re.fullmatch(r"(\d+)(?:\.(\d+))?", text)
    write = f'write schema_version: "{VERSION}"'
    if numbers is None:
        return Finding(("schema_version",), f"{text!r} is no schema version", write)
    newer = (int(numbers[1]), int(numbers[2] or 0)) > tuple(map(int, VERSION.split(".")))
    if newer:
        hint = f"deploy it with a newer release of anvil.serving; or {write}, and change each key that this check then reports"
    elif numbers[2] is None and text == VERSION.partition(".")[0]:
        hint = write
    else:
        hint = f"{write}, and change each key that this check then reports; it says what to write in its place"
    return Finding(("schema_version",), what, hint)


def _known_keys(path: Path) -> list[str]:
    """The keys that are known at a path of the file."""
    model: Any = WorkflowFile
    for step in path:
        if isinstance(step, str) and isinstance(model, type) and issubclass(model, BaseModel):
            found = [field for name, field in model.model_fields.items() if (field.alias or name) == step]
            if not found:
                return []
            annotation: Any = found[0].annotation
        else:
            annotation = model
        model = _inner_model(annotation)
    if isinstance(model, type) and issubclass(model, BaseModel):
        return [field.alias or name for name, field in model.model_fields.items()]
    return []


def _inner_model(annotation: Any) -> Any:
    """The model inside Optional, Annotated, list and dict."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None


# --- the parts that are valid by themselves


def _read_parts(data: Mapping[str, Any]) -> Parts:
    state = data.get("state")
    raw_fields = state.get("fields") if isinstance(state, dict) else None
    raw_fields = raw_fields if isinstance(raw_fields, dict) else {}
    raw_nodes, raw_edges = (raw if isinstance(raw := data.get(key), list) else [] for key in ("nodes", "edges"))
    fields = {name: field for name, raw in raw_fields.items() if (field := _parse_part(StateField, raw)) is not None}
    nodes = [(number, node) for number, raw in enumerate(raw_nodes) if (node := _parse_part(Node, raw)) is not None]
    edges = [(number, edge) for number, raw in enumerate(raw_edges) if (edge := _parse_part(Edge, raw)) is not None]
    outputs = data.get("outputs")
    outputs = [name for name in outputs if isinstance(name, str)] if isinstance(outputs, list) else None
    ids = {str(raw.get("id")) for raw in raw_nodes if isinstance(raw, dict) and raw.get("id") is not None}
    whole = len(nodes) == len(raw_nodes) > 0 and len(edges) == len(raw_edges) > 0
    config = _parse_part(Config, data.get("config", {}))
    return Parts(fields, nodes, edges, outputs, config, frozenset(raw_fields), frozenset(ids), whole)


Part = typing.TypeVar("Part", bound=BaseModel)


def _parse_part(model: type[Part], raw: Any) -> Part | None:
    try:
        return model.model_validate(raw)
    except ValidationError:
        return None
