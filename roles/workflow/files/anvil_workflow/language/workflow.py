# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A checked workflow, compiled: templates parsed, types built, edges resolved."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, create_model

from anvil_workflow.environment.variables import find_variables
from anvil_workflow.language.checks import find_join
from anvil_workflow.language.conditions import Expression, parse_condition
from anvil_workflow.language.field_types import MAX_ITEMS, MAX_LENGTH, MOST_INPUT_ITEMS, STRICT, FieldType
from anvil_workflow.language.prompts import Path, Template, parse_reference, parse_template
from anvil_workflow.language.schema import (
    Edge,
    Execution,
    Gates,
    Llm,
    Loop,
    Node,
    OutputField,
    Parallel,
    Price,
    Tool,
    WorkflowFile,
)
from anvil_workflow.language.tool_settings import list_variables

PROVIDERS: dict[str, tuple[str, str, str | None]] = {
    # provider: variable of the URL, variable of the key, URL where the variable is not set
    "openai": ("OPENAI_BASE_URL", "OPENAI_API_KEY", None),
    "anthropic": ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "https://api.anthropic.com/v1"),
    "google": ("GOOGLE_BASE_URL", "GOOGLE_API_KEY", "https://generativelanguage.googleapis.com/v1beta/openai"),
    "ollama": ("OLLAMA_BASE_URL", "OLLAMA_API_KEY", "http://localhost:11434/v1"),
}


@dataclass(frozen=True)
class Variable:
    """An environment variable that the file needs. default: its value where it is not set."""

    name: str
    required: bool
    default: str | None
    purpose: str


@dataclass(frozen=True)
class CompiledNode:
    """A node, ready to run. answer: the JSON Schema of its answer; None for plain text.

    check: the pydantic model of an answer, with members output_0, output_1, … for check_names.
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
class CompiledEdge:
    """An edge, ready to follow. join: the node where the branches of ``to`` join."""

    to: tuple[str, ...] = ()
    join: str | None = None
    routes: tuple[tuple[Expression | None, str], ...] = ()
    loop: Loop | None = None
    parallel: Parallel | None = None


@dataclass(frozen=True)
class Workflow:
    """A workflow, ready to run. digest: of everything that determines what a run does."""

    name: str
    description: str
    version: str
    digest: str
    field_types: Mapping[str, FieldType]
    defaults: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    read_inputs: type[BaseModel]
    nodes: Mapping[str, CompiledNode]
    edges: Mapping[str, CompiledEdge]
    execution: Execution
    gates: Gates
    conditions: Mapping[str, Expression]
    file: WorkflowFile

    def build_input_schema(self) -> dict[str, Any]:
        schema = self.read_inputs.model_json_schema()
        schema["title"] = self.name
        return schema

    def build_output_schema(self) -> dict[str, Any]:
        """The schema of the declared outputs. Each may be null: a run may not reach the node that writes it."""
        properties = {}
        for name in self.outputs:
            field = self.file.state.fields[name]
            schema = {"anyOf": [_unbounded(field.field_type.build_schema()), {"type": "null"}]}
            properties[name] = {**schema, "description": field.description} if field.description else schema
        return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}

    def list_models(self) -> list[str]:
        return sorted({node.llm.model for node in self.nodes.values() if node.llm.model})

    def list_unpriced(self, prices: Mapping[str, Price]) -> list[str]:
        """The models whose calls the limit of a run does not count, because they have no price."""
        limited = self.execution.max_cost is not None
        return [model for model in self.list_models() if limited and model not in prices]

    def list_variables(self) -> list[Variable]:
        found: dict[str, Variable] = {}

        def add(name: str, required: bool, default: str | None, purpose: str) -> None:
            if name not in found or (required and not found[name].required):
                found[name] = Variable(name, required, default, purpose)

        for node in self.nodes.values():
            url, key, default = PROVIDERS[node.llm.provider or "openai"]
            if node.llm.api_base is None:
                purpose = f"the URL of the {node.llm.provider or 'model'} endpoint"
                add(url, default is None, default, purpose)
            for name, fallback in find_variables(node.llm.api_base or ""):
                add(name, fallback is None, fallback, f"in the api_base of node {node.id}")
            if node.llm.api_key is not None:
                for name, _unused in find_variables(node.llm.api_key):
                    add(name, True, None, f"the key of the endpoint of node {node.id}")
            needs_key = node.llm.provider in ("anthropic", "google") and node.llm.api_base is None
            add(key, needs_key, None if needs_key else "", f"the key of the {node.llm.provider or 'model'} endpoint")
            for tool in node.tools:
                for name, fallback in list_variables(tool.name, tool.config):
                    add(name, fallback is None, fallback, f"in the tool {tool.name} of node {node.id}")
        return sorted(found.values(), key=lambda variable: variable.name)


def _unbounded(schema: Any) -> Any:
    """A schema without maximum lengths: they bound what a model writes, and the state may hold more."""
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
        field_types={name: field.field_type for name, field in fields.items()},
        defaults={name: field.default for name, field in fields.items()},
        inputs=inputs,
        outputs=outputs,
        read_inputs=_build_inputs(file, inputs),
        nodes={node.id: _compile_node(node, file) for node in file.nodes},
        edges={edge.source: _compile_edge(edge, edges) for edge in file.edges},
        execution=file.config.execution,
        gates=file.config.gates,
        conditions={gate.condition: parse_condition(gate.condition) for gate in file.config.gates.gates if gate.condition},
        file=file,
    )


def _build_inputs(file: WorkflowFile, inputs: tuple[str, ...]) -> type[BaseModel]:
    members: dict[str, Any] = {}
    for number, name in enumerate(inputs):
        field = file.state.fields[name]
        python_type = field.field_type.build_type(f"Input_{name}", field.max_items or MOST_INPUT_ITEMS)
        if field.max_length is not None:
            python_type = Annotated[python_type, Field(max_length=field.max_length)]
        settings: dict[str, Any] = {"alias": name}
        if field.description:
            settings["description"] = field.description
        if field.required:
            members[f"input_{number}"] = (python_type, Field(**settings))
        elif field.default is None:
            members[f"input_{number}"] = (python_type | None, Field(default=None, **settings))
        else:
            members[f"input_{number}"] = (python_type, Field(default=field.default, **settings))
    return create_model("Inputs", __config__=STRICT, **members)


def _compile_node(node: Node, file: WorkflowFile) -> CompiledNode:
    base = file.config.llm
    own = node.llm.model_dump(exclude_none=True) if node.llm else {}
    if "api_base" in own:
        # The key in config.llm was written for the api_base there.
        own = {"api_key": None, **own}
    llm = base.model_copy(update=own)
    fields = node.output_schema.fields
    plain = fields is None and node.output_schema.type == "str"
    if fields is None:
        description = node.output_schema.description
        only = {"name": node.outputs[0], "type": node.output_schema.type, "description": description}
        fields = [OutputField.model_validate(only)]
    return CompiledNode(
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
        schema = field.field_type.build_schema(field.max_length or MAX_LENGTH, field.max_items or MAX_ITEMS)
        if field.enum is not None:
            schema = {"enum": field.enum} if field.field_type.name != "str" else {"type": "string", "enum": field.enum}
        for key in ("minimum", "maximum"):
            if getattr(field, key) is not None:
                schema[key] = getattr(field, key)
        if field.description:
            schema["description"] = field.description
        properties[field.name] = schema
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _build_check(node: str, fields: list[OutputField]) -> type[BaseModel]:
    """The model that checks an answer again: llama-server does not enforce numeric bounds, and other endpoints enforce less."""
    members: dict[str, Any] = {}
    for number, field in enumerate(fields):
        python_type: Any = field.field_type.build_type(f"Output_{field.name}")
        if field.enum is not None:
            python_type = Literal[tuple(field.enum)]
        bounds: dict[str, Any] = {"ge": field.minimum, "le": field.maximum}
        members[f"output_{number}"] = (
            python_type,
            Field(alias=field.name, **{key: value for key, value in bounds.items() if value is not None}),
        )
    return create_model(f"Answer_{node}", __config__=STRICT, **members)


def _compile_edge(edge: Edge, edges: Mapping[str, Edge]) -> CompiledEdge:
    if edge.to is not None:
        return CompiledEdge(to=tuple(edge.to), join=find_join(edge.to, edges) if len(edge.to) > 1 else None)
    if edge.routes is not None:
        routes = tuple(
            (None if route.condition.logic.strip() == "default" else parse_condition(route.condition.logic), route.to)
            for route in edge.routes
        )
        return CompiledEdge(routes=routes)
    return CompiledEdge(loop=edge.loop, parallel=edge.parallel)
