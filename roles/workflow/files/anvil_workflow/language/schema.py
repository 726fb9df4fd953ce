# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys of a workflow file, schema version 1.0: the meaning, type and bounds of each.

The format is that of configurable-agents (schema 1.0), extended. ``python -m anvil_workflow schema`` prints it as JSON Schema for
editors. Names that refer to each other are checked in ``checks``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from anvil_workflow.language.conditions import parse_condition
from anvil_workflow.language.field_types import FieldType, parse_type

START, END = "START", "END"
IDENTIFIER = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"
Identifier = Annotated[str, Field(pattern=IDENTIFIER)]


class Section(BaseModel):
    """Unknown keys are mistakes, and text is never converted to a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


def _one_to_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _names_to_tools(value: Any) -> Any:
    return [{"name": item} if isinstance(item, str) else item for item in value] if isinstance(value, list) else value


def _number_to_text(value: Any) -> Any:
    # YAML reads 1.0 without quotes as a number.
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_number_to_text)]
OneOrMore = Annotated[list[str], BeforeValidator(_one_to_list), Field(min_length=1)]


class Flow(Section):
    name: str = Field(min_length=1, max_length=100, description="The workflow's name; it is used for image, project and page.")
    description: str = ""
    version: Text = ""

    @field_validator("name")
    @classmethod
    def _trim(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("the name is empty")
        return value.strip()


class StateField(Section):
    type: str = Field(description="str, int, float, bool, any, list, dict, object, list[T], dict[str, T]")
    required: bool = Field(False, description="The caller must send it.")
    default: Any = None
    description: str = ""
    fields: dict[str, Any] | None = Field(None, alias="schema", description="The fields of an object: name to type.")
    max_length: int | None = Field(None, ge=1, description="Maximum length of a text that a caller sends, in characters.")
    max_items: int | None = Field(None, ge=1, description="Maximum length of a list that a caller sends; 1000 if not set.")

    @model_validator(mode="after")
    def _parse(self) -> StateField:
        parse_type(self.type, self.fields)
        if self.required and self.default is not None:
            raise ValueError("a required field has no default: remove required or default")
        return self

    @property
    def field_type(self) -> FieldType:
        return parse_type(self.type, self.fields)


class State(Section):
    fields: dict[Identifier, StateField] = Field(min_length=1)


class OutputField(Section):
    name: str
    type: str
    description: str = ""
    fields: dict[str, Any] | None = Field(None, alias="schema")
    max_length: int | None = Field(None, ge=1, description="Maximum length of a text in characters; 2000 if not set.")
    max_items: int | None = Field(None, ge=1, description="Maximum length of a list; 50 if not set.")
    enum: list[str | int | float] | None = Field(None, min_length=1, description="The only values allowed.")
    minimum: float | None = None
    maximum: float | None = None

    @model_validator(mode="after")
    def _parse(self) -> OutputField:
        parse_type(self.type, self.fields)
        return self

    @property
    def field_type(self) -> FieldType:
        return parse_type(self.type, self.fields)


class OutputSchema(Section):
    type: str = Field("object", description="object with fields, or one other type for a node with one output")
    fields: list[OutputField] | None = None
    description: str = ""

    @model_validator(mode="after")
    def _parse(self) -> OutputSchema:
        if self.type == "object" and not self.fields:
            raise ValueError("the type object needs fields: [{name: …, type: …}]")
        if self.type != "object" and self.fields:
            raise ValueError(f"{self.type} has no fields: write type: object")
        parse_type(self.type)
        return self


class Llm(Section):
    """Model settings. Each key of a node's ``llm`` overrides the same key of ``config.llm``."""

    provider: Literal["openai", "anthropic", "google", "ollama"] | None = Field(
        None, description="openai: any OpenAI-compatible endpoint at OPENAI_BASE_URL, which is this project's router by default"
    )
    model: str | None = Field(None, min_length=1, description="With the router: a tier, such as heavy or fast.")
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1)
    api_base: str | None = Field(None, description="The URL of another endpoint; it may contain ${VARIABLE}.")
    api_key: str | None = Field(
        None,
        pattern=r"^\$\{[A-Za-z_][A-Za-z0-9_]*\}$",
        description="The variable with the key of api_base, as ${VARIABLE}; the key of a provider goes to its own URL only",
    )
    timeout: float | None = Field(None, gt=0, description="Time limit of one call, in seconds.")
    seed: int | None = None
    stream: bool | None = Field(
        None, description="Stream answers; if not set, those that may take longer than a minute without one."
    )


class Tool(Section):
    name: str
    on_error: Literal["fail", "continue"] = Field("fail", description="continue: the model gets the error as the tool's answer")
    config: dict[str, Any] = Field(default_factory=dict)


class Node(Section):
    id: Identifier
    description: str = ""
    inputs: dict[Identifier, str] = Field(default_factory=dict, description="More names for the prompt: {name: state.field}")
    prompt: str = Field(min_length=1, description="{field} and {state.field} are replaced by values; {{ and }} are braces.")
    system: str = Field("", description="The system message; fields are replaced as in the prompt.")
    output_schema: OutputSchema
    outputs: list[str] = Field(min_length=1)
    tools: Annotated[list[Tool], BeforeValidator(_names_to_tools)] = Field(default_factory=list)
    llm: Llm | None = None
    log_prompts: bool | None = Field(None, description="false keeps prompts and answers of this node out of the traces.")


class Condition(Section):
    logic: str = Field(description="'state.score >= 7 and not state.done', or default")

    @field_validator("logic")
    @classmethod
    def _parse(cls, value: str) -> str:
        if value.strip() != "default":
            parse_condition(value)
        return value


class Route(Section):
    condition: Condition
    to: str


class Loop(Section):
    condition_field: str = Field(description="A state field of type bool: true ends the loop.")
    max_iterations: int = Field(10, ge=1, le=100)
    exit_to: str = END


class Parallel(Section):
    items_field: str = Field(description="A state field of type list; the target runs once for each {item}.")
    target_node: str
    collect_field: str = Field(description="A state field of type list that gets the answers, in the order of the items.")


class Edge(Section):
    source: str = Field(alias="from")
    to: OneOrMore | None = Field(None, description="One node, or several that run in parallel and join at one node.")
    routes: list[Route] | None = Field(None, min_length=1)
    loop: Loop | None = None
    parallel: Parallel | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Edge:
        given = [name for name in ("to", "routes", "loop", "parallel") if getattr(self, name) is not None]
        if len(given) != 1:
            found = "this one has none" if not given else "this one has " + " and ".join(given)
            raise ValueError(f"an edge has exactly one of to, routes, loop, parallel; {found}")
        return self


class Execution(Section):
    timeout: float = Field(120, gt=0, description="Time limit of a run, in seconds.")
    max_retries: int = Field(3, ge=0, le=20, description="Retries of a model call that failed, or whose answer was not valid.")
    max_steps: int = Field(
        200, ge=1, le=10_000, description="Maximum number of nodes in one run; it ends routes that lead back forever."
    )
    concurrency: int | None = Field(None, ge=1, le=10_000, description="Runs at a time; WORKFLOW_CONCURRENCY overrides it.")
    parallel: int = Field(8, ge=1, le=100, description="Items of one parallel edge that run at a time.")
    tool_rounds: int = Field(8, ge=1, le=50, description="Maximum number of times that the model of a node may call tools.")
    max_cost: float | None = Field(
        None, gt=0, description="What a run may cost, in the currency of prices: once it has, no further call is sent."
    )


class Price(Section):
    """What tokens of a model cost, in any currency, per 1,000,000 tokens."""

    prompt: float = Field(ge=0)
    completion: float = Field(ge=0)
    cached_prompt: float | None = Field(None, ge=0, description="For the part of a prompt that was cached; prompt if not set.")


class Gate(Section):
    """A bound on a metric of the run, or a condition over its state."""

    metric: Literal["duration_ms", "total_tokens", "prompt_tokens", "completion_tokens", "steps", "retries", "cost"] | None = None
    min: float | None = None
    max: float | None = None
    condition: str | None = Field(None, description="As in a route; it must be true at the end of the run.")
    on_fail: Literal["warn", "fail"] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Gate:
        if (self.metric is None) == (self.condition is None):
            raise ValueError("a gate has exactly one of metric (with min or max) and condition")
        if self.metric is not None and self.min is None and self.max is None:
            raise ValueError("a metric needs min or max")
        if self.condition is not None:
            parse_condition(self.condition)
        return self


class Gates(Section):
    gates: list[Gate] = Field(default_factory=list)
    on_fail: Literal["warn", "fail", "block_deploy"] = Field("warn", description="block_deploy means fail")


class Config(Section):
    llm: Llm = Field(default_factory=lambda: Llm.model_validate({}))
    execution: Execution = Field(default_factory=lambda: Execution.model_validate({}))
    prices: dict[str, Price] = Field(default_factory=dict, description="Model to price; the deployment may set others.")
    gates: Gates = Field(default_factory=lambda: Gates.model_validate({}))
    observability: dict[str, Any] | None = Field(None, description="Accepted and ignored: the deployment decides this.")
    storage: dict[str, Any] | None = Field(None, description="Accepted and ignored: the deployment decides this.")


class WorkflowFile(Section):
    """workflow.yaml"""

    schema_version: Annotated[Literal["1.0"], BeforeValidator(_number_to_text)]
    flow: Flow
    state: State
    nodes: list[Node] = Field(min_length=1)
    edges: list[Edge] = Field(min_length=1)
    outputs: list[str] | None = Field(None, description="State fields that the caller gets; if not set, all that nodes write.")
    config: Config = Field(default_factory=lambda: Config.model_validate({}))


def build_editor_schema() -> dict[str, Any]:
    """The JSON Schema of a workflow file, short forms included."""
    schema = WorkflowFile.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"]["schema_version"] = {"enum": ["1.0", 1.0]}
    definitions = schema["$defs"]
    to = definitions["Edge"]["properties"]["to"]
    to["anyOf"] = [{"type": "string"}, *to["anyOf"]]
    items = definitions["Node"]["properties"]["tools"]["items"]
    definitions["Node"]["properties"]["tools"]["items"] = {"anyOf": [{"type": "string"}, items]}
    definitions["Flow"]["properties"]["version"] = {"type": ["string", "number"], "default": ""}
    return schema
