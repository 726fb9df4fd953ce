# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""workflow.yaml as text -> a workflow that can run, or every mistake in it with its line."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path as FilePath
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from .checking import Finding, Parts, Path, check_parts, suggest
from .schema import Config, Edge, Node, StateField, WorkflowFile
from .workflow import Workflow, compile_workflow

LARGEST_FILE = 1024 * 1024
MOST_VALUES = 50_000
# Keys of the original that this runtime has nothing for. An error, not a silence: the workflow would do something else.
LEFT_OUT = {
    "optimization": "prompts are not optimised at run time: remove the key",
    "optimize": "prompts are not optimised at run time: remove the key",
    "memory": "runs share no memory: keep what is needed in the state, and remove the key",
    "code": "nodes run no code: call your service with the tool http",
    "sandbox": "nodes run no code: call your service with the tool http, and remove the key",
    "ab_test": "deploy one workflow for each variant, and remove the key",
    "mlflow": "the deployment says where traces go: remove the key",
}


@dataclass(frozen=True)
class Problem:
    """One mistake. path: ``nodes[2].prompt``; line and column count from 1, 0 where there is none."""

    path: str
    line: int
    column: int
    value: str
    what: str
    do: str

    def as_text(self, name: str) -> str:
        place = f"{name}:{self.line}:{self.column}" if self.line else name
        head = f"{place}: {self.path}: {self.what}" if self.path else f"{place}: {self.what}"
        return f"{head}\n    do: {self.do}" if self.do else head

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class WorkflowError(Exception):
    """The file is no workflow: every problem in it."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("\n".join(problem.as_text("workflow") for problem in problems))


def read_workflow(path: FilePath) -> Workflow:
    """Raises WorkflowError."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(LARGEST_FILE + 1)
    except OSError as error:
        raise WorkflowError(Problem("", 0, 0, "", f"the file cannot be read: {error.strerror}", "check its path")) from None
    if len(raw) > LARGEST_FILE:
        raise WorkflowError(Problem("", 0, 0, "", "the file is larger than 1 MiB", "a workflow is small: take data out of it"))
    try:
        return parse_workflow(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        what = f"byte {error.start} is not UTF-8"
        raise WorkflowError(Problem("", 0, 0, "", what, "save the file as UTF-8")) from None


def parse_workflow(text: str) -> Workflow:
    """Raises WorkflowError with all problems, in the order of their lines."""
    data, places, findings = _load(text)
    parsed: WorkflowFile | None = None
    if not isinstance(data, dict):
        raise WorkflowError(Problem("", 1, 1, "", "the file holds no mapping of keys", 'begin with schema_version: "1.0"'))
    try:
        parsed = WorkflowFile.model_validate(data)
    except ValidationError as error:
        findings.extend(_explain(error))
    findings.extend(check_parts(_read_parts(data)))
    if findings or parsed is None:
        raise WorkflowError(
            *sorted((_locate(finding, places, data) for finding in findings), key=lambda one: (one.line, one.column))
        )
    return compile_workflow(parsed)


# --- YAML with positions


def _load(text: str) -> tuple[Any, dict[Path, tuple[int, int]], list[Finding]]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            raise WorkflowError(Problem("", 1, 1, "", "the file is empty", 'begin with schema_version: "1.0"'))
        builder = _Builder()
        return builder.build(root, ()), builder.places, builder.findings
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        hint = "check quotes and indentation there; a text with ': ' or '{' at its start needs quotes"
        raise WorkflowError(Problem("", line, column, "", f"this is no YAML: {error.problem or error.context}", hint)) from None
    except yaml.YAMLError as error:
        raise WorkflowError(Problem("", 0, 0, "", f"this is no YAML: {error}", "save the file as plain text")) from None
    except RecursionError:
        raise WorkflowError(Problem("", 0, 0, "", "the file is nested too deep", "a workflow is flat")) from None


class _Builder(yaml.SafeLoader):
    """Builds plain data and keeps where each key and item stands. Repeated keys and endless aliases are findings."""

    def __init__(self) -> None:
        super().__init__("")
        self.places: dict[Path, tuple[int, int]] = {}
        self.findings: list[Finding] = []
        self.count = 0
        self.open: list[int] = []

    def build(self, node: yaml.Node, path: Path) -> Any:
        self.count += 1
        if self.count > MOST_VALUES or id(node) in self.open:
            mark = node.start_mark
            what = "aliases blow the file up: too many values"
            raise WorkflowError(Problem("", mark.line + 1, mark.column + 1, "", what, "write the values out"))
        self.places.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
        self.open.append(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._build_mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, (*path, number)) for number, item in enumerate(node.value)]
            if node.tag.startswith("!"):
                self.findings.append(Finding(path, f"the tag {node.tag} is not known", "write plain YAML"))
                return None
            value = self.construct_object(node)
            return value if isinstance(value, (str, int, float, bool, type(None))) else str(node.value)
        except (yaml.constructor.ConstructorError, ValueError):
            return str(node.value)
        finally:
            self.open.pop()

    def _build_mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        built: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for source in sources:
                    merged = {**self._merge(source, path), **merged}
                continue
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else ""
            here = (*path, key)
            mark = key_node.start_mark
            if not key:
                self.findings.append(Finding(path, "a key is no text", "write names as keys"))
                continue
            if key in built:
                first = self.places[here][0]
                # The second one's own line: the first one's place is kept for the value that counts.
                self.places[(*here, "\0")] = (mark.line + 1, mark.column + 1)
                self.findings.append(Finding((*here, "\0"), f"{key} is written twice; first in line {first}", "keep one"))
                continue
            self.places[here] = (mark.line + 1, mark.column + 1)
            built[key] = self.build(value_node, here)
        return {**merged, **built}

    def _merge(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        value = self.build(node, path)
        return value if isinstance(value, dict) else {}


# --- words for what pydantic found


def _explain(error: ValidationError) -> Iterator[Finding]:
    for entry in error.errors():
        path = tuple(step for step in entry["loc"] if step != "[key]")
        kind, what = entry["type"], str(entry["msg"]).removeprefix("Value error, ")
        known = _known_keys(path[:-1])
        if kind == "extra_forbidden":
            name = str(path[-1])
            hint = LEFT_OUT.get(name) or suggest(name, known)
            yield Finding(path, f"the key {name} is not known" if name not in LEFT_OUT else f"there is no {name} here", hint)
        elif kind == "missing":
            yield Finding(path, f"the key {path[-1]} is missing", f"{', '.join(known)} belong here" if known else "")
        else:
            hint = "write it without quotes" if kind in ("int_type", "float_type", "bool_type") else ""
            hint = "put it in quotes" if kind == "string_type" else hint
            yield Finding(path, what, hint)


def _known_keys(path: Path) -> list[str]:
    """The keys that belong at a path of the file."""
    model: Any = WorkflowFile
    for step in path:
        if isinstance(step, str) and isinstance(model, type) and issubclass(model, BaseModel):
            found = [field for name, field in model.model_fields.items() if (field.alias or name) == step]
            if not found:
                return []
            annotation: Any = found[0].annotation
        else:
            annotation = model
        model = _inner_model(annotation, step)
    if isinstance(model, type) and issubclass(model, BaseModel):
        return [field.alias or name for name, field in model.model_fields.items()]
    return []


def _inner_model(annotation: Any, _step: str | int) -> Any:
    """The model inside Optional, Annotated, list and dict; lists and dicts keep it for their next step."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        found = _inner_model(argument, _step)
        if found is not None:
            return found
    return None


# --- the parts that can be read


def _read_parts(data: Mapping[str, Any]) -> Parts:
    state = data.get("state")
    raw_fields = state.get("fields") if isinstance(state, dict) else None
    raw_fields = raw_fields if isinstance(raw_fields, dict) else {}
    raw_nodes, raw_edges = (raw if isinstance(raw := data.get(key), list) else [] for key in ("nodes", "edges"))
    fields = {name: field for name, raw in raw_fields.items() if (field := _try(StateField, raw)) is not None}
    nodes = [(number, node) for number, raw in enumerate(raw_nodes) if (node := _try(Node, raw)) is not None]
    edges = [(number, edge) for number, raw in enumerate(raw_edges) if (edge := _try(Edge, raw)) is not None]
    outputs = data.get("outputs")
    outputs = [name for name in outputs if isinstance(name, str)] if isinstance(outputs, list) else None
    ids = {str(raw.get("id")) for raw in raw_nodes if isinstance(raw, dict) and raw.get("id") is not None}
    whole = len(nodes) == len(raw_nodes) > 0 and len(edges) == len(raw_edges) > 0
    config = _try(Config, data.get("config", {}))
    return Parts(fields, nodes, edges, outputs, config, frozenset(raw_fields), frozenset(ids), whole)


Read = typing.TypeVar("Read", bound=BaseModel)


def _try(model: type[Read], raw: Any) -> Read | None:
    try:
        return model.model_validate(raw)
    except ValidationError:
        return None


# --- where


def _locate(finding: Finding, places: Mapping[Path, tuple[int, int]], data: Any) -> Problem:
    path = finding.path
    line, column = 0, 0
    for length in range(len(path), -1, -1):
        if path[:length] in places:
            line, column = places[path[:length]]
            break
    shown = tuple(step for step in path if step != "\0")
    return Problem(write_path(shown), line, column, _write_value(data, shown), finding.what, finding.do)


def write_path(path: Path) -> str:
    """``nodes[2].prompt``"""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def _write_value(data: Any, path: Path) -> str:
    value = data
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return ""
    if isinstance(value, (dict, list)):
        return ""
    text = re.sub(r"\s+", " ", str(value))
    return text if len(text) <= 80 else text[:77] + "..."
