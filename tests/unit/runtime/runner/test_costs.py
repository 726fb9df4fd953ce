"""What a run costs: tokens as they are reported, prices, the limit, and no call counted twice or as free."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any

import httpx
import pytest
from anvil_workflow.environment.variables import SettingsError
from anvil_workflow.language.schema import Price
from anvil_workflow.runner.costs import Spending, Tokens, describe_spending, price_call, read_prices, read_usage
from anvil_workflow.runner.endpoints import CallError
from anvil_workflow.runner.executor import Executor, Progress
from anvil_workflow.runner.metrics import Metrics
from anvil_workflow.runner.node_answers import RunError
from anvil_workflow.runner.tracing import NO_SPAN
from workflowcases import read

TLS = ssl.create_default_context()
# A round number for each token: a prompt token costs 1, one of an answer 10.
DEAR = Price(prompt=1e6, completion=1e7)
USED = {"prompt_tokens": 2, "completion_tokens": 3}


@pytest.mark.parametrize(
    ("reported", "tokens"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}, Tokens(7, 3)),
        ({"input_tokens": 7, "output_tokens": 3}, Tokens(7, 3)),
        ({"prompt_tokens": 7.0, "completion_tokens": 3.0}, Tokens(7, 3)),
        ({"prompt_tokens": 7, "completion_tokens": 0}, Tokens(7, 0)),
        ({"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 5}}, Tokens(7, 3, 5)),
        ({"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 50}}, Tokens(7, 3, 7)),
        ({"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": None}, Tokens(7, 3)),
        (None, None),
        ({}, None),
        ([], None),
        ("7", None),
        ({"total_tokens": 10}, None),
        ({"prompt_tokens": 7}, None),
        ({"prompt_tokens": 0, "completion_tokens": 0}, None),
        ({"prompt_tokens": "7", "completion_tokens": 3}, None),
        ({"prompt_tokens": True, "completion_tokens": 3}, None),
        ({"prompt_tokens": -7, "completion_tokens": 3}, None),
        ({"prompt_tokens": 7.5, "completion_tokens": 3}, None),
        ({"prompt_tokens": 10**13, "completion_tokens": 3}, None),
        ({"prompt_tokens": float("nan"), "completion_tokens": 3}, None),
    ],
)
def test_tokens_are_known_or_unknown_and_never_zero(reported: Any, tokens: Tokens | None) -> None:
    assert read_usage(reported) == tokens


@pytest.mark.parametrize(
    ("price", "usage", "cost"),
    [
        (Price(prompt=0.5, completion=1.5), USED, 0.0000055),
        (Price(prompt=0, completion=0), USED, 0.0),
        (Price(prompt=2, completion=0, cached_prompt=1), {**USED, "prompt_tokens_details": {"cached_tokens": 1}}, 0.000003),
        (Price(prompt=0.5, completion=1.5), None, None),
        (None, USED, None),
    ],
)
def test_a_call_costs_its_tokens_times_the_price_of_a_million(price: Price | None, usage: Any, cost: float | None) -> None:
    assert price_call("m", usage, {"m": price} if price else {}).cost == cost


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ('{"m": {"prompt": 1, "completion": 2.5}}', {"m": Price(prompt=1, completion=2.5)}),
        ("{", "it is not JSON"),
        ("[]", "dictionary"),
        ('{"m": {"prompt": -1, "completion": 2}}', "m.prompt"),
        ('{"m": {"prompt": 1}}', "m.completion"),
        ('{"m": {"prompt": 1, "completion": 2, "output": 3}}', "m.output"),
    ],
)
def test_prices_of_the_deployment(text: str, found: Any) -> None:
    if isinstance(found, dict):
        assert read_prices(text) == found
        return
    with pytest.raises(SettingsError, match=found):
        read_prices(text)


def test_the_limit_says_cost_limit_and_what_is_not_in_it() -> None:
    spending = Spending({}, {"m": DEAR}, 50.0)
    spending.add("a", "m", USED)
    assert spending.explain_limit() == ""
    spending.add("a", "m", None)
    spending.add("b", "other", USED)
    spending.add("b", "m", USED)
    assert spending.explain_limit() == (
        "the run has cost 64 so far; 2 calls of unknown cost are not in it; its limit is 50 (config.execution.max_cost), so no "
        "further call is sent"
    )
    shown = describe_spending(spending.spent, True)
    assert [(one["node"], one["model"], one["calls"], one["cost"]) for one in shown["nodes"]] == [
        ("a", "m", 2, 32.0), ("b", "other", 1, 0.0), ("b", "m", 1, 32.0),
    ]  # fmt: skip
    keys = ("model", "calls", "unknown_calls", "unpriced_calls", "cost")
    assert [tuple(one[key] for key in keys) for one in shown["models"]] == [("m", 3, 1, 0, 64.0), ("other", 1, 0, 1, 0.0)]
    assert describe_spending(spending.spent, False)["models"][0]["cost"] is None


class Endpoint:
    """Answers with the entries of a script, the last one again and again. An entry: (answer, usage), or an exception."""

    def __init__(self, script: list[Any]) -> None:
        self.script, self.calls = list(script), 0

    async def complete(self, _llm: Any, _body: Any) -> Any:
        self.calls += 1
        entry = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(entry, BaseException):
            raise entry
        content, usage = entry
        answer = {"choices": [{"message": {"content": json.dumps(content)}, "finish_reason": "stop"}]}
        return answer if usage is None else {**answer, "usage": usage}


WRITTEN, RATED = {"draft": "d", "done": True}, {"score": 4}
PRICED = ("config.prices", {"m": {"prompt": 1e6, "completion": 1e7}})


def run(workflow: Any, script: list[Any], start: str = "", interrupted: bool = False) -> tuple[Any, Progress, int, list[str]]:
    """Run the workflow; return (outputs or error, its progress, the number of calls, the checkpoints)."""
    endpoint, saved = Endpoint(script), list[str]()
    found: dict[str, Any] = {}

    async def save(progress: Progress) -> None:
        saved.append(progress.as_text())

    async def go() -> Any:
        async with httpx.AsyncClient(verify=TLS) as client:
            executor = Executor(workflow, endpoint, client)
            progress = found["progress"] = Progress.from_text(start) if start else await executor.begin({"topic": "tea"})
            if interrupted:
                executor.note_interruption(progress)
            try:
                return (await executor.run(progress, save, NO_SPAN)).outputs
            except (RunError, KeyboardInterrupt) as error:
                return error

    return asyncio.run(go()), found["progress"], endpoint.calls, saved


def test_every_call_counts_also_those_of_a_wrong_answer_and_of_a_run_that_fails() -> None:
    answer, progress, calls, _saved = run(read(PRICED), [(WRITTEN, USED), ({"score": 99}, USED), ({"score": 98}, USED)])
    assert isinstance(answer, RunError) and calls == 3
    assert (progress.cost, progress.prompt_tokens, progress.completion_tokens, progress.unknown_calls) == (96.0, 6, 9, 0)
    assert {node: models["m"]["calls"] for node, models in progress.spent.items()} == {"write": 1, "rate": 2}


def test_without_prices_there_is_no_cost_and_tokens_count_all_the_same() -> None:
    _answer, progress, _calls, _saved = run(read(), [(WRITTEN, USED), (RATED, USED)])
    assert progress.cost is None and progress.prompt_tokens == 4 and progress.unknown_calls == 0


@pytest.mark.parametrize(
    ("first", "unknown"),
    [
        ((WRITTEN, None), 1),
        (CallError("no answer in 5 s", True, is_open=True), 1),
        (CallError("HTTP 503", True, status=503), 0),
        ((WRITTEN, {"prompt_tokens": 0, "completion_tokens": 0}), 1),
    ],
)
def test_a_call_of_unknown_cost_is_told_and_is_not_free(first: Any, unknown: int) -> None:
    failed = isinstance(first, CallError)
    _answer, progress, _calls, _saved = run(read(PRICED), [first, *([(WRITTEN, USED)] if failed else []), (RATED, USED)])
    assert progress.unknown_calls == unknown and progress.cost == (64.0 if failed else 32.0)


def test_a_run_that_reached_its_limit_sends_no_further_call() -> None:
    limited = read(PRICED, ("config.execution.max_cost", 32))
    error, progress, calls, _saved = run(limited, [(WRITTEN, USED), (RATED, USED)])
    assert isinstance(error, RunError) and (error.kind, error.node, calls) == ("cost", "rate", 1) and progress.cost == 32.0
    assert error.message.startswith("the run has cost 32 so far; its limit is 32 ")
    outputs, progress, calls, _saved = run(read(PRICED, ("config.execution.max_cost", 33)), [(WRITTEN, USED), (RATED, USED)])
    assert outputs["score"] == 4 and calls == 2 and progress.cost == 64.0
    _error, progress, calls, _saved = run(limited, [({"draft": 1}, USED), (WRITTEN, USED)])
    assert calls == 1, "a retry is a call too"


def test_a_resumed_run_counts_no_replayed_call_and_every_repeated_one() -> None:
    _answer, _progress, _calls, saved = run(read(PRICED), [(WRITTEN, USED), ({"score": 99}, USED), KeyboardInterrupt()])
    # After the first node, and before the second call of the second node: a kill here loses the cost of no call that ended.
    assert [json.loads(one)["cost"] for one in saved] == [32.0, 64.0]
    assert [json.loads(one)["count"] for one in saved] == [1, 1] and [json.loads(one)["at"] for one in saved] == [["rate"]] * 2
    outputs, progress, calls, _saved = run(read(PRICED), [(RATED, USED)], start=saved[-1], interrupted=True)
    assert outputs["score"] == 4 and calls == 1 and progress.cost == 96.0
    assert progress.unknown_calls == 1, "the call that was under way at the kill"
    assert progress.count == 2 and progress.spent["rate"]["m"]["calls"] == 3


def test_a_checkpoint_of_an_older_release_is_continued() -> None:
    old = {"state": {"topic": "tea", "draft": "d", "done": True}, "at": ["rate"], "prompt_tokens": 5, "count": 1}
    outputs, progress, _calls, _saved = run(read(PRICED), [(RATED, USED)], start=json.dumps(old))
    assert outputs["score"] == 4 and progress.cost == 32.0 and progress.prompt_tokens == 7


def test_a_call_that_was_under_way_when_the_run_ended_is_of_unknown_cost() -> None:
    """The run reaches its time limit, as JobRunner sets it."""

    class Slow:
        async def complete(self, _llm: Any, _body: Any) -> Any:
            await asyncio.sleep(60)

    async def go() -> Progress:
        async with httpx.AsyncClient(verify=TLS) as client:
            executor = Executor(read(PRICED), Slow(), client)
            progress = await executor.begin({"topic": "tea"})

            async def save(_progress: Progress) -> None:
                return

            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await executor.run(progress, save, NO_SPAN)
            return progress

    assert asyncio.run(go()).unknown_calls == 1


def test_parallel_branches_share_one_limit() -> None:
    """Calls that are under way when the limit is reached are not called back, and no other one begins."""
    items = read(
        PRICED,
        ("config.execution.max_cost", 32),
        ("config.execution.parallel", 2),
        ("edges.1", {"from": "write", "parallel": {"items_field": "items", "target_node": "rate", "collect_field": "found"}}),
        ("state.fields.items.default", ["a", "b", "c", "d", "e", "f"]),
        ("nodes.0.llm", {"model": "free"}),
        ("config.prices", {"m": {"prompt": 1e6, "completion": 1e7}, "free": {"prompt": 0, "completion": 0}}),
    )
    error, progress, calls, _saved = run(items, [(WRITTEN, USED), (RATED, USED)])
    assert isinstance(error, RunError) and error.kind == "cost" and calls <= 3 and progress.cost <= 64.0


def test_the_metrics_count_each_call_where_it_was_made() -> None:
    metrics = Metrics()
    spending = Spending({}, {"m": DEAR}, None, metrics.count_call)
    spending.add("a", "m", USED)
    spending.add("a", "m", None)
    spending.note_interrupted("a", "m")
    text = metrics.write().decode()
    assert 'workflow_cost_total{model="m"} 32.0' in text and 'workflow_unknown_calls_total{model="m"} 1.0' in text
    assert 'workflow_tokens_total{kind="prompt"} 2.0' in text
