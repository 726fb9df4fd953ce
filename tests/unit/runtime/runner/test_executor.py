"""Runs: routing along the edges, retries of wrong answers, tools, gates, and resumption from any checkpoint."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any

import httpx
import pytest
from anvil_workflow.runner.endpoints import CallError
from anvil_workflow.runner.executor import Executor, Outcome, Progress
from anvil_workflow.runner.node_answers import RunError
from anvil_workflow.runner.tracing import NO_SPAN
from workflowcases import DROP, read

Script = dict[str, list[Any]]
# httpx reads the system's certificates for each client that is given none.
TLS = ssl.create_default_context()


class Scripted:
    """An endpoint that answers each node from its list and repeats the last entry."""

    def __init__(self, script: Script) -> None:
        self.script = {name: list(answers) for name, answers in script.items()}
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def complete(self, llm: Any, body: Any) -> Any:
        await asyncio.sleep(0)
        words = body["messages"][0]["content"]
        name = next(name for name in self.script if words.lower().startswith(name))
        self.asked.append((name, body))
        answers = self.script[name]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, dict) and "tool_calls" in answer:
            message = answer
        else:
            message = {"content": answer if isinstance(answer, str) else json.dumps(answer)}
        return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"prompt_tokens": 2, "completion_tokens": 3}}

    @property
    def order(self) -> list[str]:
        return [name for name, _unused in self.asked]


def run(workflow: Any, script: Script, inputs: dict[str, Any] | None = None, start: Progress | None = None) -> Any:
    """Run a workflow; return (outcome or error, endpoint, checkpoints as text)."""

    async def go() -> tuple[Outcome | RunError, Scripted, list[str]]:
        endpoint, saved = Scripted(script), list[str]()
        async with httpx.AsyncClient(verify=TLS) as client:
            executor = Executor(workflow, endpoint, client)

            async def save(progress: Progress) -> None:
                saved.append(progress.as_text())

            try:
                return (
                    await executor.run(start or await executor.begin(inputs or {"topic": "tea"}), save, NO_SPAN),
                    endpoint,
                    saved,
                )
            except RunError as error:
                return error, endpoint, saved

    return asyncio.run(go())


DRAFT = {"draft": "d", "done": True}


def calls(*wanted: tuple[str, str]) -> dict[str, Any]:
    listed = [{"id": str(n), "function": {"name": name, "arguments": text}} for n, (name, text) in enumerate(wanted)]
    return {"content": None, "tool_calls": listed}


def test_a_sequence_of_nodes_runs_in_order() -> None:
    outcome, endpoint, saved = run(read(), {"write": [DRAFT], "rate": [{"score": 4}]})
    assert outcome.outputs == {"draft": "d", "done": True, "score": 4} and endpoint.order == ["write", "rate"]
    assert len(saved) == 1 and json.loads(saved[0])["at"] == ["rate"]
    form = endpoint.asked[1][1]["response_format"]["json_schema"]
    assert form["strict"] is True and form["schema"]["properties"]["score"] == {"type": "integer", "minimum": 0, "maximum": 10}
    assert endpoint.asked[1][1]["messages"] == [{"role": "user", "content": "Rate d"}]


def routed(logic: str) -> tuple[str, Any]:
    routes = [{"condition": {"logic": logic}, "to": "rate"}, {"condition": {"logic": "default"}, "to": "END"}]
    return ("edges.1", {"from": "write", "routes": routes})


@pytest.mark.parametrize(("logic", "order"), [("(done) and (draft == 'd')", ["write", "rate"]), ("not done", ["write"])])
def test_a_condition_chooses_the_route(logic: str, order: list[str]) -> None:
    _unused, endpoint, _unused = run(read(routed(logic)), {"write": [DRAFT], "rate": [{"score": 4}]})
    assert endpoint.order == order


def test_a_condition_that_cannot_be_evaluated_fails_the_run_and_is_named() -> None:
    error, _unused, _unused = run(read(routed("draft > 3")), {"write": [DRAFT]})
    assert error.kind == "condition" and "draft > 3" in error.message and error.node == "write"


PLAIN = (
    ("nodes.0.output_schema", {"type": "str"}),
    ("nodes.0.outputs", ["draft"]),
    ("nodes.1", DROP),
    ("edges.2", DROP),
    ("edges.1.to", "END"),
)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("<think>\nIn Italian.\n</think>\n\nCiao.", "Ciao."),
        ("Be brief.\n</think>\n\nCiao.", "Ciao."),  # the chat template opened the reasoning
        ("Ciao.", "Ciao."),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "Ciao."}], "Ciao."),
        (["Ci", "ao."], "Ciao."),
        ("<think>\nLet me", None),
        ("<think>hm</think>", None),
        ([{"type": "thinking", "thinking": []}], None),
    ],
)
def test_reasoning_is_removed_from_a_text_answer(content: Any, text: str | None) -> None:
    answer = {"content": content, "tool_calls": []}  # a whole message
    outcome, endpoint, _unused = run(read(*PLAIN), {"write": [answer]})
    assert len(endpoint.asked) == (1 if text else 2)
    assert outcome.outputs["draft"] == text if text else outcome.kind == "model"


LOOP = ("edges.1", {"from": "write", "loop": {"condition_field": "done", "max_iterations": 3, "exit_to": "rate"}})
NOT_YET = {"draft": "d", "done": False}


@pytest.mark.parametrize(("answers", "times"), [([NOT_YET, DRAFT], 2), ([NOT_YET], 3), ([DRAFT], 1)])
def test_a_loop_ends_when_its_field_is_true_or_its_limit_is_reached(answers: list[Any], times: int) -> None:
    _unused, endpoint, _unused = run(read(LOOP), {"write": answers, "rate": [{"score": 1}]})
    assert endpoint.order == ["write"] * times + ["rate"]


def test_a_loop_that_is_entered_again_restarts_its_count() -> None:
    routes = [{"condition": {"logic": "score < 2"}, "to": "write"}, {"condition": {"logic": "default"}, "to": "END"}]
    workflow = read(LOOP, ("edges.2", {"from": "rate", "routes": routes}))
    _unused, endpoint, _unused = run(workflow, {"write": [NOT_YET], "rate": [{"score": 1}, {"score": 5}]})
    assert endpoint.order == [*["write"] * 3, "rate", *["write"] * 3, "rate"]


def test_an_endless_cycle_of_routes_fails_at_max_steps() -> None:
    routes = [{"condition": {"logic": "score > 99"}, "to": "END"}, {"condition": {"logic": "default"}, "to": "write"}]
    workflow = read(("edges.2", {"from": "rate", "routes": routes}), ("config.execution.max_steps", 7))
    error, endpoint, _unused = run(workflow, {"write": [DRAFT], "rate": [{"score": 1}]})
    assert error.kind == "workflow" and "max_steps (7" in error.message and len(endpoint.asked) == 7


THIRD = {"id": "third", "prompt": "third {topic}", "outputs": ["found"],
         "output_schema": {"type": "object", "fields": [{"name": "found", "type": "list"}]}}  # fmt: skip
FORK = (("nodes.2", THIRD), ("edges.0.to", ["write", "third"]), ("edges.3", {"from": "third", "to": "rate"}))


def test_branches_join_and_a_run_resumes_from_each_checkpoint() -> None:
    script: Script = {"write": [DRAFT], "third": [{"found": [1]}], "rate": [{"score": 4}]}
    workflow = read(*FORK)
    outcome, endpoint, saved = run(workflow, script)
    assert sorted(endpoint.order[:2]) == ["third", "write"] and endpoint.order[2:] == ["rate"]
    assert outcome.outputs == {"draft": "d", "done": True, "score": 4, "found": [1]}
    for position, text in enumerate(saved, 1):
        again, rest, _unused = run(workflow, script, start=Progress.from_text(text))
        assert again.outputs == outcome.outputs and rest.order == endpoint.order[min(position, 2) :]


PARALLEL = (
    ("edges.1", {"from": "write", "parallel": {"items_field": "items", "target_node": "rate", "collect_field": "found"}}),
    ("nodes.1.prompt", "rate {item} {item_index}"),
)


def test_items_run_in_parallel_and_are_collected_in_order() -> None:
    workflow = read(*PARALLEL)
    outcome, endpoint, saved = run(workflow, {"write": [DRAFT], "rate": [{"score": 4}]}, {"topic": "t", "items": ["a", "b", "c"]})
    asked = [body["messages"][0]["content"] for name, body in endpoint.asked if name == "rate"]
    assert asked == ["rate a 0", "rate b 1", "rate c 2"] and outcome.outputs["found"] == [4, 4, 4]
    assert outcome.outputs["score"] is None
    for text in saved[1:-1]:
        missing = 3 - len(json.loads(text)["items"])
        again, rest, _unused = run(workflow, {"rate": [{"score": 4}]}, start=Progress.from_text(text))
        assert again.outputs["found"] == [4, 4, 4] and len(rest.asked) == missing
    empty, _unused, _unused = run(workflow, {"write": [DRAFT], "rate": [{"score": 4}]}, {"topic": "t", "items": []})
    assert empty.outputs["found"] == []


def way_of(body: dict[str, Any]) -> str:
    """How a request asks for JSON."""
    if "response_format" in body:
        return "format"
    if "tools" in body:
        assert body["tool_choice"] == "required" and [tool["function"]["name"] for tool in body["tools"]] == ["answer"]
        return "tool"
    assert "JSON Schema" in body["messages"][-1]["content"] and len(body["messages"]) == 1
    return "words"


REFUSED, BROKEN = CallError("HTTP 400: no such thing", False, status=400), CallError("HTTP 503", True, status=503)


@pytest.mark.parametrize(("answers", "ways"), [
    (["prose", calls(("answer", '{"score": 4}'))], ["format", "tool"]),
    (["prose", '{"score": 4}'], ["format", "tool"]),
    (["prose", "prose", 'Gladly: {"score": 4}'], ["format", "tool", "words"]),
    ([REFUSED, calls(("answer", '{"score": 4}'))], ["format", "tool"]),
    (["prose", BROKEN, '<think>{}</think>```json\n{"score": 4}\n```'], ["format", "tool", "words"]),
    ([BROKEN, {"score": 4}], ["format", "format"]),
])  # fmt: skip
def test_a_way_of_asking_for_json_that_an_endpoint_ignores_or_refuses_is_replaced(answers: list[Any], ways: list[str]) -> None:
    workflow = read(("config.execution.max_retries", 1 if BROKEN in answers else 0))
    outcome, endpoint, _unused = run(workflow, {"write": [DRAFT], "rate": answers})
    assert outcome.outputs["score"] == 4
    assert [way_of(body) for name, body in endpoint.asked if name == "rate"] == ways


def test_the_way_of_asking_for_json_that_worked_is_kept() -> None:
    routes = [{"condition": {"logic": "score < 2"}, "to": "rate"}, {"condition": {"logic": "default"}, "to": "END"}]
    answers = ["prose", *(calls(("answer", json.dumps({"score": score}))) for score in (1, 1, 5))]
    _unused, endpoint, _unused = run(read(("edges.2", {"from": "rate", "routes": routes})), {"write": [DRAFT], "rate": answers})
    assert [way_of(body) for name, body in endpoint.asked if name == "rate"] == ["format", "tool", "tool", "tool"]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (["no json"], "not valid after 2 attempts"),
        ([{"score": 11}], "less than or equal to 10"),
        ([{"score": "4"}], "valid integer"),
        ([{"score": 4, "x": 1}], "not permitted"),
        ([{}], "required"),
        ([CallError("HTTP 500", True)], "HTTP 500 after 2 calls"),
        ([CallError("HTTP 404: no model", False, status=404)], "HTTP 404: no model"),
    ],
)
def test_repeated_wrong_answers_fail_the_run(answers: list[Any], message: str) -> None:
    error, endpoint, _unused = run(read(), {"write": [DRAFT], "rate": answers})
    assert error.kind == "model" and error.node == "rate" and message in error.message
    # Two "no json" answers show that nothing enforces the schema; the next request describes it in words.
    assert endpoint.order.count("rate") == (1 if "404" in message else 4 if answers == ["no json"] else 2)


@pytest.mark.parametrize("first", ["no json", {"score": 11}, '```json\n{"score": 4}\n```', CallError("HTTP 429", True, 0.01)])
def test_a_wrong_answer_is_requested_again(first: Any) -> None:
    outcome, endpoint, _unused = run(read(), {"write": [DRAFT], "rate": [first, {"score": 4}]})
    assert outcome.outputs["score"] == 4
    if first == {"score": 11}:
        said = endpoint.asked[2][1]["messages"]
        assert [message["role"] for message in said] == ["user", "assistant", "user"] and "JSON Schema" in said[-1]["content"]


def test_a_model_can_call_only_its_own_tools() -> None:
    workflow = read(("nodes.1.tools", ["calculate"]))
    asking = calls(("calculate", '{"expression": "2 + 3"}'), ("shell", "{}"), ("calculate", "no json"))
    outcome, endpoint, _unused = run(workflow, {"write": [DRAFT], "rate": [asking, {"score": 5}]})
    told = [message["content"] for message in endpoint.asked[2][1]["messages"] if message["role"] == "tool"]
    assert outcome.outputs["score"] == 5 and told[0] == "5"
    assert "there is no tool 'shell'" in told[1] and "not a JSON object" in told[2]


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
def test_reasoning_is_sent_back_with_the_tool_calls(key: str) -> None:
    workflow = read(("nodes.1.tools", ["current_time"]))
    thinks = {**calls(("current_time", "{}")), key: "I need the time."}
    _unused, endpoint, _unused = run(workflow, {"write": [DRAFT], "rate": [thinks, {"score": 4}]})
    sent = next(message for message in endpoint.asked[2][1]["messages"] if message["role"] == "assistant")
    assert sent[key] == "I need the time." and sent["tool_calls"]


@pytest.mark.parametrize(("on_error", "ends"), [("fail", "tool"), ("continue", "")])
def test_on_error_decides_whether_a_failed_tool_ends_the_run(on_error: str, ends: str) -> None:
    workflow = read(("nodes.1.tools", [{"name": "calculate", "on_error": on_error}]))
    found, _unused, _unused = run(
        workflow, {"write": [DRAFT], "rate": [calls(("calculate", '{"expression": "1 / 0"}')), {"score": 5}]}
    )
    assert found.kind == ends if ends else found.outputs["score"] == 5


def test_a_model_that_calls_tools_endlessly_is_stopped_after_tool_rounds() -> None:
    workflow = read(("nodes.1.tools", ["current_time"]), ("config.execution.tool_rounds", 3))
    error, endpoint, _unused = run(workflow, {"write": [DRAFT], "rate": [calls(("current_time", ""))]})
    assert error.kind == "tool" and "after 3 rounds" in error.message and endpoint.order.count("rate") == 3


@pytest.mark.parametrize(
    ("gate", "warns", "fails"),
    [
        ({"metric": "steps", "max": 1}, "steps is 2, above 1", ""),
        ({"metric": "total_tokens", "max": 1, "on_fail": "fail"}, "", "total_tokens is 10"),
        ({"metric": "steps", "min": 2, "max": 2}, "", ""),
        ({"condition": "score > 8"}, "score > 8 is false", ""),
        ({"condition": "score > 8", "on_fail": "fail"}, "", "score > 8 is false"),
        ({"condition": "draft > 8"}, "cannot be evaluated", ""),
    ],
)
def test_a_gate_passes_warns_or_fails_the_run(gate: dict[str, Any], warns: str, fails: str) -> None:
    found, _unused, _unused = run(read(("config.gates", {"gates": [gate]})), {"write": [DRAFT], "rate": [{"score": 4}]})
    if fails:
        assert found.kind == "gate" and fails in found.message
    else:
        assert len(found.warnings) == bool(warns) and warns in "".join(found.warnings)


def test_a_plain_text_answer_needs_no_json() -> None:
    plain = ("nodes.0", {"id": "write", "prompt": "write {topic}", "outputs": ["draft"], "output_schema": {"type": "str"}})
    outcome, endpoint, _unused = run(read(plain), {"write": [" just words\n"], "rate": [{"score": 4}]})
    assert outcome.outputs["draft"] == "just words" and "response_format" not in endpoint.asked[0][1]


def test_a_run_whose_next_node_no_longer_exists_cannot_be_resumed() -> None:
    _unused, _unused, saved = run(read(), {"write": [DRAFT], "rate": [{"score": 4}]})
    progress = Progress.from_text(saved[0])
    renamed = read(("nodes.1.id", "other"), ("edges.1.to", "other"), ("edges.2.from", "other"))
    assert Executor(read(), Scripted({}), httpx.AsyncClient(verify=TLS)).can_resume(progress)
    assert not Executor(renamed, Scripted({}), httpx.AsyncClient(verify=TLS)).can_resume(progress)
