# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A workflow that is checked and ready to run: templates, types and edges worked out once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, create_model

from .checking import find_join
from .conditions import Expression, parse_condition
from .environment import find_variables
from .kinds import MAX_ITEMS, MAX_LENGTH, STRICT, Kind
from .prompts import Path, Template, parse_reference, parse_template
from .schema import Edge, Execution, Gates, Llm, Loop, Node, OutputField, Parallel, Tool, WorkflowFile
from .tools import list_variables

PROVIDERS: dict[str, tuple[str, str, str | None]] = {
    # provider: variable of the URL, variable of the key, URL where the variable is not set
    "openai": ("OPENAI_BASE_URL", "OPENAI_API_KEY", None),
    "anthropic": ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "https://api.anthropic.com/v1"),
    "google": ("GOOGLE_BASE_URL", "GOOGLE_API_KEY", "https://generativelanguage.googleapis.com/v1beta/openai"),
    "ollama": ("OLLAMA_BASE_URL", "OLLAMA_API_KEY", "http://localhost:11434/v1"),
}


@dataclass(frozen=True)
class Variable:
    """An environment variable that the file needs. default: what is taken where it is not set."""

    name: str
    required: bool
    default: str | None
    purpose: str


@dataclass(frozen=True)
class Step:
    """A node, ready to run. answer: its JSON Schema, or None where the answer is plain text.

    check: the model of an answer, with members output_0, output_1, … for check_names.
    """

    id: str
    prompt: Template
    system: Template
    inputs: Mapping[str, Path]
    outputs: tuple[str, ...]
    answer: dict[str, Any] | None
    check: type[BaseModel]
    check_names: tuple[str, ...]
    tools: tuple[Tool, ...]
    llm: Llm
    traced: bool


@dataclass(frozen=True)
class Way:
    """Where a node leads. join: where the branches of ``to`` meet."""

    to: tuple[str, ...] = ()
    join: str | None = None
    routes: tuple[tuple[Expression | None, str], ...] = ()
    loop: Loop | None = None
    parallel: Parallel | None = None


@dataclass(frozen=True)
class Workflow:
    """digest: of all that decides what a run does."""

    name: str
    description: str
    version: str
    digest: str
    kinds: Mapping[str, Kind]
    defaults: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    read_inputs: type[BaseModel]
    steps: Mapping[str, Step]
    ways: Mapping[str, Way]
    execution: Execution
    gates: Gates
    conditions: Mapping[str, Expression]
    file: WorkflowFile

    def build_input_schema(self) -> dict[str, Any]:
        schema = self.read_inputs.model_json_schema()
        schema["title"] = self.name
        return schema

    def build_output_schema(self) -> dict[str, Any]:
        """Of the declared outputs alone, which may be null where a run did not come by the node that writes them."""
        properties = {}
        for name in self.outputs:
            field = self.file.state.fields[name]
            schema = {"anyOf": [_unbounded(field.kind.build_schema()), {"type": "null"}]}
            properties[name] = {**schema, "description": field.description} if field.description else schema
        return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}

    def list_models(self) -> list[str]:
        return sorted({step.llm.model for step in self.steps.values() if step.llm.model})

    def list_variables(self) -> list[Variable]:
        found: dict[str, Variable] = {}

        def add(name: str, required: bool, default: str | None, purpose: str) -> None:
            if name not in found or (required and not found[name].required):
                found[name] = Variable(name, required, default, purpose)

        for step in self.steps.values():
            url, key, default = PROVIDERS[step.llm.provider or "openai"]
            if step.llm.api_base is None:
                purpose = f"the URL of the {step.llm.provider or 'model'} endpoint"
                add(url, default is None, default, purpose)
            for name, fallback in find_variables(step.llm.api_base or ""):
                add(name, fallback is None, fallback, f"in the api_base of node {step.id}")
            needs_key = step.llm.provider in ("anthropic", "google")
            add(key, needs_key, None if needs_key else "", f"the key of the {step.llm.provider or 'model'} endpoint")
            for tool in step.tools:
                for name, fallback in list_variables(tool.name, tool.config):
                    add(name, fallback is None, fallback, f"in the tool {tool.name} of node {step.id}")
        return sorted(found.values(), key=lambda variable: variable.name)


def _unbounded(schema: Any) -> Any:
    """Bounds are for what a model may write; what the state holds may be longer."""
    if isinstance(schema, dict):
        return {key: _unbounded(value) for key, value in schema.items() if key not in ("maxLength", "maxItems")}
    return schema


def compile_workflow(file: WorkflowFile) -> Workflow:
    fields = file.state.fields
    written = [name for node in file.nodes for name in node.outputs]
    written += [edge.parallel.collect_field for edge in file.edges if edge.parallel]
    inputs = tuple(name for name, field in fields.items() if field.required or name not in written)
    outputs = tuple(file.outputs if file.outputs is not None else dict.fromkeys(written))
    edges = {edge.source: edge for edge in file.edges}
    dumped = file.model_dump_json(by_alias=True, exclude={"flow": {"description"}})
    return Workflow(
        name=file.flow.name,
        description=file.flow.description,
        version=file.flow.version,
        digest=hashlib.sha256(dumped.encode()).hexdigest(),
        kinds={name: field.kind for name, field in fields.items()},
        defaults={name: field.default for name, field in fields.items()},
        inputs=inputs,
        outputs=outputs,
        read_inputs=_build_inputs(file, inputs),
        steps={node.id: _compile_node(node, file) for node in file.nodes},
        ways={edge.source: _compile_edge(edge, edges) for edge in file.edges},
        execution=file.config.execution,
        gates=file.config.gates,
        conditions={gate.condition: parse_condition(gate.condition) for gate in file.config.gates.gates if gate.condition},
        file=file,
    )


def _build_inputs(file: WorkflowFile, inputs: tuple[str, ...]) -> type[BaseModel]:
    members: dict[str, Any] = {}
    for number, name in enumerate(inputs):
        field = file.state.fields[name]
        kind = field.kind.build_type(f"Input_{name}")
        if field.max_length is not None:
            kind = Annotated[kind, Field(max_length=field.max_length)]
        words: dict[str, Any] = {"alias": name}
        if field.description:
            words["description"] = field.description
        if field.required:
            members[f"input_{number}"] = (kind, Field(**words))
        elif field.default is None:
            members[f"input_{number}"] = (kind | None, Field(default=None, **words))
        else:
            members[f"input_{number}"] = (kind, Field(default=field.default, **words))
    return create_model("Inputs", __config__=STRICT, **members)


def _compile_node(node: Node, file: WorkflowFile) -> Step:
    base = file.config.llm
    own = node.llm.model_dump(exclude_none=True) if node.llm else {}
    llm = base.model_copy(update=own)
    fields = node.output_schema.fields
    plain = fields is None and node.output_schema.type == "str"
    if fields is None:
        description = node.output_schema.description
        only = {"name": node.outputs[0], "type": node.output_schema.type, "description": description}
        fields = [OutputField.model_validate(only)]
    return Step(
        id=node.id,
        prompt=parse_template(node.prompt),
        system=parse_template(node.system),
        inputs={name: parse_reference(text) for name, text in node.inputs.items()},
        outputs=tuple(node.outputs),
        answer=None if plain else _build_answer(fields),
        check=_build_check(node.id, fields),
        check_names=tuple(field.name for field in fields),
        tools=tuple(node.tools),
        llm=llm,
        traced=node.log_prompts is not False,
    )


def _build_answer(fields: list[OutputField]) -> dict[str, Any]:
    properties = {}
    for field in fields:
        schema = field.kind.build_schema(field.max_length or MAX_LENGTH, field.max_items or MAX_ITEMS)
        if field.enum is not None:
            schema = {"enum": field.enum} if field.kind.name != "str" else {"type": "string", "enum": field.enum}
        for key in ("minimum", "maximum"):
            if getattr(field, key) is not None:
                schema[key] = getattr(field, key)
        if field.description:
            schema["description"] = field.description
        properties[field.name] = schema
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _build_check(node: str, fields: list[OutputField]) -> type[BaseModel]:
    """Checks an answer again: llama-server does not enforce numeric bounds, and other endpoints less than that."""
    members: dict[str, Any] = {}
    for number, field in enumerate(fields):
        kind: Any = field.kind.build_type(f"Output_{field.name}")
        if field.enum is not None:
            kind = Literal[tuple(field.enum)]
        bounds: dict[str, Any] = {"ge": field.minimum, "le": field.maximum}
        members[f"output_{number}"] = (
            kind,
            Field(alias=field.name, **{key: value for key, value in bounds.items() if value is not None}),
        )
    return create_model(f"Answer_{node}", __config__=STRICT, **members)


def _compile_edge(edge: Edge, edges: Mapping[str, Edge]) -> Way:
    if edge.to is not None:
        return Way(to=tuple(edge.to), join=find_join(edge.to, edges) if len(edge.to) > 1 else None)
    if edge.routes is not None:
        routes = tuple(
            (None if route.condition.logic.strip() == "default" else parse_condition(route.condition.logic), route.to)
            for route in edge.routes
        )
        return Way(routes=routes)
    return Way(loop=edge.loop, parallel=edge.parallel)
