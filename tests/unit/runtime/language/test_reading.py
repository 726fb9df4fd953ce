"""The workflow file: each mistake is reported with its line, and all mistakes at once."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from anvil_workflow.__main__ import main
from anvil_workflow.language.problems import WorkflowError
from anvil_workflow.language.reading import parse_workflow, read_workflow
from anvil_workflow.language.schema import build_editor_schema
from conftest import REPO
from workflowcases import BASE, DROP, changed, problems, read

EXAMPLES = sorted((REPO / "examples" / "workflows").glob("*.yaml"))

MISTAKES = [
    # change, path, words in what, words in do
    (("schema_version", "2.0"), "schema_version", "has schema_version 2.0, and this release reads 1.0", "newer release"),
    (("schema_version", 1.1), "schema_version", "has schema_version 1.1", "newer release"),
    (("schema_version", "0.9"), "schema_version", "has schema_version 0.9", 'write schema_version: "1.0", and change each key'),
    (("schema_version", 1), "schema_version", "has schema_version 1,", 'write schema_version: "1.0"'),
    (("schema_version", "v1"), "schema_version", "'v1' is no schema version", 'write schema_version: "1.0"'),
    (("schema_version", None), "schema_version", "'None' is no schema version", 'write schema_version: "1.0"'),
    (("schema_version", DROP), "schema_version", "missing", ""),
    (("flow.name", "  "), "flow.name", "empty", ""),
    (("flow.name", 7), "flow.name", "string", "quotes"),
    (("flow.nmae", "x"), "flow.nmae", "not known", "did you mean name?"),
    (("config.llm.modle", "x"), "config.llm.modle", "not known", "did you mean model?"),
    (("optimization", {}), "optimization", "optimization is not supported", "remove"),
    (("nodes.0.memory", {}), "nodes[0].memory", "memory is not supported", "remove"),
    (("nodes.0.code", "x"), "nodes[0].code", "code is not supported", "http"),
    (("state.fields", {}), "state.fields", "at least 1", ""),
    (("state.fields.topic.type", "string"), "state.fields.topic", "did you mean str", ""),
    (("state.fields.topic.type", "list[strr]"), "state.fields.topic", "did you mean str", ""),
    (("state.fields.topic.type", "dict[int, str]"), "state.fields.topic", "keys in JSON are text", ""),
    (("state.fields.topic.default", "x"), "state.fields.topic", "required", ""),
    (("state.fields.score.default", "x"), "state.fields.score.default", "not of type int", "int"),
    (("state.fields.items.default", [1]), "state.fields.items.default", "not of type list[str]", ""),
    (("state.fields.item", {"type": "str"}), "state.fields.item", "has a fixed meaning", "another name"),
    (("nodes.0.id", "a b"), "nodes[0].id", "pattern", ""),
    (("nodes.1.id", "write"), "nodes[1].id", "nodes[0] already has the id write", "own id"),
    (("nodes.0.prompt", "{topc}"), "nodes[0].prompt", "{topc}", "did you mean topic?"),
    (("nodes.0.system", "{nothing}"), "nodes[0].system", "{nothing}", "{{nothing}}"),
    (("nodes.0.inputs", {"a": "state.topc"}), "nodes[0].inputs.a", "topc", "topic"),
    (("nodes.0.outputs", ["draft"]), "nodes[0].output_schema.fields[1].name", "is not an output", ""),
    (("nodes.0.outputs", ["draft", "done", "score"]), "nodes[0].outputs[2]", "not defined in output_schema", ""),
    (("nodes.1.outputs", ["scroe"]), "nodes[1].outputs[0]", "not a state field", "score"),
    (("nodes.1.output_schema.fields.0.type", "str"), "nodes[1].output_schema.fields[0].type", "str here and int in", "write int"),
    (("nodes.1.output_schema.fields.0.enum", ["a"]), "nodes[1].output_schema.fields[0].enum", "not of type int", ""),
    (("nodes.0.output_schema", {"type": "str"}), "nodes[0].outputs", "gives one output", ""),
    (("nodes.0.tools", ["calculat"]), "nodes[0].tools[0].name", "not a tool", "did you mean calculate?"),
    (("nodes.0.tools", [{"name": "http", "config": {}}]), "nodes[0].tools[0].config.url", "required", ""),
    (("nodes.0.tools", [{"name": "http", "config": {"url": "file:///etc"}}]), "nodes[0].tools[0].config.url", "http://", ""),
    (("nodes.0.llm", {"provider": "opnai"}), "nodes[0].llm.provider", "openai", ""),
    (("config.llm.model", DROP), "nodes[0].llm.model", "no model", "config.llm.model"),
    (("config.llm.temperature", 3), "config.llm.temperature", "less than or equal", ""),
    (("config.execution.timeout", "1"), "config.execution.timeout", "number", "without quotes"),
    (("edges.1.to", "rat"), "edges[1].to[0]", "not a node", "did you mean rate?"),
    (("edges.1.from", "writ"), "edges[1].from", "not a node", "did you mean write?"),
    (("edges.1.to", DROP), "edges[1]", "this one has none", ""),
    (("edges.1.loop", {"condition_field": "done"}), "edges[1]", "to and loop", ""),
    (("edges.3", {"from": "write", "to": "END"}), "edges[3].from", "leaves write too", "one edge"),
    (("edges.0", {"from": "rate", "to": "END"}), "edges", "START", "from: START"),
    (("edges.2", DROP), "nodes[1]", "no edge leaves rate", "END"),
    (("edges.0.to", "rate"), "nodes[0]", "no path from START reaches write", ""),
    (("edges.2.to", "write"), "nodes[0]", "no path leads from write to END", ""),
    (("outputs", ["drfat"]), "outputs[0]", "not a state field", "draft"),
    (("config.gates", {"gates": [{"metric": "price", "max": 1}]}), "config.gates.gates[0].metric", "duration_ms", ""),
    (("config.gates", {"gates": [{"condition": "scor > 1"}]}), "config.gates.gates[0].condition", "scor", "score"),
    (("config.gates", {"gates": [{"metric": "steps"}]}), "config.gates.gates[0]", "min or max", ""),
]


@pytest.mark.parametrize(("change", "path", "what", "do"), MISTAKES, ids=[row[0][0] for row in MISTAKES])
def test_each_mistake_is_reported_with_its_path_and_a_remedy(change, path: str, what: str, do: str) -> None:
    found = problems(change)
    assert any(at == path and what in said and do in hint for at, said, hint in found), found


def routed(*routes: tuple[str, str]) -> tuple[str, object]:
    return ("edges.1", {"from": "write", "routes": [{"condition": {"logic": logic}, "to": to} for logic, to in routes]})


ROUTES = [
    (routed(("score > 1", "rate")), "edges[1].routes", "there is no default route"),
    (routed(("default", "rate"), ("score > 1", "END")), "edges[1].routes[0]", "not the last route"),
    (routed(("scor > 1", "END"), ("default", "rate")), "edges[1].routes[0].condition.logic", "scor is not a state field"),
    (routed(("score >", "END"), ("default", "rate")), "edges[1].routes[0].condition.logic", "cannot be parsed"),
    (routed(("open('x')", "END"), ("default", "rate")), "edges[1].routes[0].condition.logic", "open()"),
    (("edges.1", {"from": "write", "loop": {"condition_field": "score"}}), "edges[1].loop.condition_field", "not bool"),
    (
        ("edges.1", {"from": "write", "loop": {"condition_field": "done", "max_iterations": 101}}),
        "edges[1].loop.max_iterations",
        "100",
    ),
    (("edges.1", {"from": "write", "loop": {"condition_field": "done", "exit_to": "write"}}), "edges[1].loop.exit_to", "itself"),
    (
        ("edges.1", {"from": "write", "parallel": {"items_field": "draft", "target_node": "rate", "collect_field": "found"}}),
        "edges[1].parallel.items_field",
        "type str, not list",
    ),
    (("edges.0.to", ["write", "rate"]), "edges[0].to", "rate is both a branch and the node where the other branches join"),
]


@pytest.mark.parametrize(("change", "path", "what"), ROUTES, ids=[row[1] + row[2] for row in ROUTES])
def test_each_mistake_in_the_edges_is_reported(change, path: str, what: str) -> None:
    found = problems(change)
    assert any(at == path and what in said for at, said, _unused in found), found


def test_branches_that_write_the_same_field_are_refused() -> None:
    third = {**BASE["nodes"][0], "id": "third"}
    found = problems(("nodes.2", third), ("edges.0.to", ["write", "third"]), ("edges.3", {"from": "third", "to": "rate"}))
    assert [what for _unused, what, _unused in found] == [
        "the branches write and third both write draft",
        "the branches write and third both write done",
    ]


def test_all_mistakes_are_reported_at_once_with_their_lines() -> None:
    text = """schema_version: "1.0"
flow: {nmae: x}
state:
  fields:
    topic: {type: strng}
    score: {type: int, default: x}
nodes:
  - id: a
    prompt: "{topci}"
    outputs: [score]
    output_schema: {type: object, fields: [{name: score, type: int}]}
  - id: b
    promt: x
edges:
  - {from: START, to: a}
  - {from: a, to: c}
"""
    with pytest.raises(WorkflowError) as raised:
        parse_workflow(text)
    found = {(problem.path, problem.line) for problem in raised.value.problems}
    assert found >= {
        ("flow.nmae", 2),
        ("flow.name", 2),
        ("state.fields.topic", 5),
        ("state.fields.score.default", 6),
        ("nodes[0].prompt", 9),
        ("nodes[0].llm.model", 8),
        ("nodes[1].promt", 13),
        ("nodes[1].prompt", 12),
        ("edges[1].to[0]", 16),
    }
    assert [problem.line for problem in raised.value.problems] == sorted(problem.line for problem in raised.value.problems)
    wrong = next(problem for problem in raised.value.problems if problem.path == "state.fields.score.default")
    assert (wrong.value, wrong.column) == ("x", 24)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        ("", "the file is empty", 1),
        ("- a", "not a mapping", 1),
        ("a: [1", "not valid YAML", 1),
        ("a: 1\nb: 2\na: 3\n", "a is written twice; first in line 1", 3),
        ("a: &x [*x]", "aliases", 1),
        ("a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
            f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(8)), "aliases", 0),
        ("a: !!python/object:os.system x", "not known", 1),
        ("x\0y", "not valid YAML", 0),
        ("[" * 1500, "", 0),
    ],
)  # fmt: skip
def test_a_document_that_is_not_a_workflow_is_refused(text: str, what: str, line: int) -> None:
    with pytest.raises(WorkflowError) as raised:
        parse_workflow(text)
    assert any(what in problem.what and (not line or problem.line == line) for problem in raised.value.problems), raised.value


def test_a_file_that_cannot_be_read_or_is_too_large_is_refused(tmp_path: Path) -> None:
    large, binary = tmp_path / "large.yaml", tmp_path / "binary.yaml"
    large.write_bytes(b"#" * (1024 * 1024 + 1))
    binary.write_bytes(b"a: \xff")
    for path, what in ((tmp_path / "none.yaml", "No such file"), (large, "1 MiB"), (binary, "UTF-8"), (tmp_path, "directory")):
        with pytest.raises(WorkflowError, match=what):
            read_workflow(path)


def test_a_file_of_the_original_format_is_read_with_all_its_features() -> None:
    """The file has short forms, dotted names, literal braces, nested objects, and settings that belong elsewhere."""
    text = """
schema_version: 1.0
flow: {name: moved, version: 2}
state:
  fields:
    name: {type: str, required: true}
    words: {type: "list[str]", default: []}
    profile: {type: object, schema: {bio: str, tags: "list[str]", place: {city: str}}, default: null}
nodes:
  - id: make
    inputs: {who: "{state.name}"}
    prompt: 'For {who} write JSON like {"a": {"b": 1}} or {{name}}'
    outputs: [profile]
    tools: [current_time, {name: calculate, on_error: continue}]
    output_schema:
      type: object
      fields: [{name: profile, type: object, schema: {bio: str, tags: "list[str]", place: {city: str}}}]
    llm: {provider: ollama, temperature: 0.5}
    log_prompts: false
edges: [{from: START, to: make}, {from: make, to: END}]
config:
  llm: {provider: openai, model: small}
  execution: {timeout: 60, max_retries: 3}
  observability: {mlflow: {enabled: true}}
  storage: {backend: sqlite}
  gates: {gates: [{metric: duration_ms, max: 1000}], on_fail: block_deploy}
"""
    workflow = parse_workflow(text)
    step = workflow.nodes["make"]
    assert step.prompt.render({"who": "Ada"}) == 'For Ada write JSON like {"a": {"b": 1}} or {name}'
    assert (step.llm.provider, step.llm.model, step.llm.temperature) == ("ollama", "small", 0.5)
    assert workflow.inputs == ("name", "words") and workflow.outputs == ("profile",)
    assert step.answer["properties"]["profile"]["properties"]["place"]["required"] == ["city"]


def test_inputs_are_the_fields_that_callers_give_and_outputs_may_be_declared() -> None:
    workflow = read()
    assert workflow.inputs == ("topic", "items", "found") and workflow.outputs == ("draft", "done", "score")
    assert read(("outputs", ["score"])).build_output_schema()["required"] == ["score"]
    assert workflow.build_input_schema()["required"] == ["topic"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_valid_workflows_and_match_the_editor_schema(path: Path) -> None:
    read_workflow(path)
    jsonschema.validate(yaml.safe_load(path.read_text()), build_editor_schema())


def test_the_editor_schema_refuses_an_unknown_key() -> None:
    jsonschema.validate(changed(), build_editor_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed(("nodes.0.promt", "x")), build_editor_schema())


def test_only_variables_in_use_are_listed() -> None:
    tool = {"name": "http", "config": {"url": "${SHOP_URL}/x", "headers": {"X-Key": "${SHOP_KEY:-none}"}}}
    workflow = read(("nodes.0.tools", [tool]), ("nodes.1.llm", {"provider": "anthropic", "model": "c"}))
    named = {variable.name: (variable.required, variable.default) for variable in workflow.list_variables()}
    assert named == {
        "OPENAI_BASE_URL": (True, None),
        "OPENAI_API_KEY": (False, ""),
        "ANTHROPIC_BASE_URL": (False, "https://api.anthropic.com/v1"),
        "ANTHROPIC_API_KEY": (True, None),
        "SHOP_URL": (True, None),
        "SHOP_KEY": (False, "none"),
    }


def test_check_reports_all_problems_in_json_and_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(yaml.safe_dump(changed(("flow.nmae", "x"), ("edges.1.to", "rat"))))
    assert main(["check", str(path), "--format", "json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False and {"flow.nmae", "edges[1].to[0]"} <= {problem["path"] for problem in told["problems"]}
    assert set(told["problems"][0]) == {"path", "line", "column", "value", "what", "do"}
    assert main(["check", str(path)]) == 2
    assert "did you mean rate?" in capsys.readouterr().err
    path.write_text(yaml.safe_dump(changed(), sort_keys=False))
    assert main(["check", str(path), "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["workflow"]["models"] == ["m"] and told["workflow"]["inputs"] == ["topic", "items", "found"]
