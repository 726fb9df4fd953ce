# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a workflow from any point to its end: a node, a checkpoint, the next node.

The state of a run is its Progress, plain JSON. ``save`` is awaited after each node and before the next one begins, so a run
that is resumed starts at the first node that is not in its progress.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from anvil_workflow.environment.variables import SettingsError
from anvil_workflow.language.conditions import ConditionError, find_value
from anvil_workflow.language.field_types import check_value
from anvil_workflow.language.prompts import PromptError
from anvil_workflow.language.schema import END, START, Parallel, Price
from anvil_workflow.language.workflow import CompiledNode, Workflow
from anvil_workflow.runner.answer_forms import AnswerForms
from anvil_workflow.runner.costs import CallCost, Spending, new_entry
from anvil_workflow.runner.endpoints import Endpoint
from anvil_workflow.runner.evaluation import evaluate
from anvil_workflow.runner.node_answers import Purse, RunError, Usage, answer_node
from anvil_workflow.runner.tools import BoundTool, bind_tool
from anvil_workflow.runner.tracing import Span

KEPT_STEPS = 500


@dataclass
class Progress:
    """The state of a run. at: the nodes to run next, one for each branch. join: the node where branches join.

    rounds: iterations of each loop. items: finished items of a parallel edge, index -> outputs. source: the node of that edge.
    steps: the nodes that ran, the newest last: node, started_at (Unix time), ms, tokens, retries, cost, unknown_calls. running:
    nodes that run now. spent: as ``Spending`` has it; cost, unknown_calls and the tokens are its sums.
    """

    state: dict[str, Any]
    at: list[str]
    join: str | None = None
    rounds: dict[str, int] = field(default_factory=dict)
    source: str | None = None
    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    retries: int = 0
    busy_ms: float = 0.0
    running: int = 0
    cost: float | None = None
    unknown_calls: int = 0
    spent: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def as_text(self) -> str:
        """A node that runs is not counted: it begins again where this is resumed."""
        kept = {**self.__dict__, "count": self.count - self.running, "running": 0}
        return json.dumps(kept, ensure_ascii=False, separators=(",", ":"))

    def as_ended(self) -> str:
        """The progress of an ended run: what it did, without the state that nothing continues from."""
        return json.dumps({**self.__dict__, "state": {}, "items": {}}, ensure_ascii=False, separators=(",", ":"))

    def take_total(self, spending: Spending) -> None:
        total = spending.total
        self.prompt_tokens, self.completion_tokens = total["prompt_tokens"], total["completion_tokens"]
        self.unknown_calls, self.cost = total["unknown_calls"], total["cost"] if spending.has_prices else None

    @classmethod
    def from_text(cls, text: str) -> Progress:
        read = cls(**json.loads(text))
        if not read.spent and read.prompt_tokens + read.completion_tokens:  # of a release that kept the sums only
            counted = {"prompt_tokens": read.prompt_tokens, "completion_tokens": read.completion_tokens}
            read.spent = {"(earlier)": {"": {**new_entry(), **counted}}}
        return read


@dataclass(frozen=True)
class Outcome:
    """The end of a run. outputs: the declared ones. warnings: gates that failed with on_fail: warn."""

    outputs: dict[str, Any]
    warnings: list[str]


Save = Callable[[Progress], Awaitable[None]]


class Executor:
    """Runs one workflow, any number of times in parallel."""

    def __init__(
        self,
        workflow: Workflow,
        endpoint: Endpoint,
        client: httpx.AsyncClient,
        prices: Mapping[str, Price] | None = None,
        count: Callable[[CallCost], None] = lambda call: None,
    ) -> None:
        """prices: of the deployment, which override those of the file. count: is told of every call."""
        self.workflow, self._endpoint, self._forms = workflow, endpoint, AnswerForms()
        self.prices, self._count = {**workflow.file.config.prices, **(prices or {})}, count
        self._tools: dict[str, list[BoundTool]] = {
            node.id: [bind_tool(tool.name, tool.config, tool.on_error, client) for tool in node.tools]
            for node in workflow.nodes.values()
        }

    async def begin(self, inputs: Mapping[str, Any]) -> Progress:
        """The progress before the first node."""
        progress = Progress(state={**self.workflow.defaults, **inputs}, at=[])
        await self._choose_next(START, progress)
        return progress

    def can_resume(self, progress: Progress) -> bool:
        """Whether the workflow, which may be newer than the one the run began with, still has the nodes that come next."""
        ahead = [*progress.at, *([progress.join] if progress.join else [])]
        fits = all(name == END or name in self.workflow.nodes for name in ahead)
        return fits and (progress.source is None or progress.source in self.workflow.edges)

    def note_interruption(self, progress: Progress) -> None:
        """The server ended while the nodes that come next were running: each may have made one call that nothing tells of."""
        spending = Spending(progress.spent, self.prices)
        for name in dict.fromkeys(progress.at):
            node = self.workflow.nodes.get(name)
            if node is not None and name != progress.join:
                spending.note_interrupted(name, node.llm.model or "")
        progress.take_total(spending)

    async def run(self, progress: Progress, save: Save, span: Span) -> Outcome:
        """Run from the progress to the end. Raises RunError, and what ``save`` raises."""
        spending = Spending(progress.spent, self.prices, self.workflow.execution.max_cost, self._count)

        async def keep() -> None:
            """Store what the calls of a node cost before it makes another one, so that a kill loses the cost of none."""
            if spending.is_fresh:
                await store(progress)

        async def store(done: Progress) -> None:
            done.take_total(spending)
            spending.is_fresh = False
            await save(done)

        try:
            return await self._walk(progress, store, span, Purse(spending, keep))
        finally:
            progress.take_total(spending)
            span.note_cost(progress.cost, progress.unknown_calls)

    async def _walk(self, progress: Progress, save: Save, span: Span, purse: Purse) -> Outcome:
        began = time.monotonic()
        before = progress.busy_ms
        while progress.at != [END]:
            if progress.join is not None:
                await self._run_branches(progress, save, span, purse)
                progress.at, progress.join = [progress.join], None
            elif progress.source is not None:
                await self._run_items(progress, save, span, purse)
            else:
                name = progress.at[0]
                await self._run_node(name, progress, span, {}, purse)
                await self._choose_next(name, progress)
            progress.busy_ms = before + (time.monotonic() - began) * 1000
            if progress.at != [END]:
                await save(progress)
        progress.take_total(purse.spending)
        return await self._finish(progress)

    # --- nodes

    async def _run_node(
        self, name: str, progress: Progress, span: Span, local: Mapping[str, Any], purse: Purse
    ) -> dict[str, Any]:
        """Run a node and put its answer into the state. local: the item of a parallel edge, whose answer is only returned."""
        limit = self.workflow.execution.max_steps
        if progress.count >= limit:
            raise RunError("workflow", f"the run needs more than max_steps ({limit} nodes)", name)
        progress.count, progress.running = progress.count + 1, progress.running + 1
        node = self.workflow.nodes[name]
        started, began = time.time(), time.perf_counter()
        values = {**progress.state, **local, "state": progress.state}
        for local_name, path in node.inputs.items():
            values[local_name] = find_value(progress.state, path)
        child = span.start(name, "CHAIN")
        execution = self.workflow.execution
        try:
            tools, retries, rounds = self._tools[name], execution.max_retries, execution.tool_rounds
            reply = await answer_node(node, values, self._endpoint, self._forms, tools, retries, rounds, child, purse)
        except (SettingsError, PromptError) as error:
            child.fail(str(error))
            raise RunError("workflow", str(error), name) from None
        except RunError as error:
            child.fail(error.message if node.traced else error.kind)
            raise
        except asyncio.CancelledError:
            child.fail("cancelled")
            raise
        finally:
            progress.running -= 1
        child.note_cost(reply.usage.cost, reply.usage.unknown_calls)
        if node.traced:
            child.finish({key: values.get(key) for key in node.prompt.names}, reply.values)
        else:
            child.finish()
        if not local:
            progress.state.update(reply.values)
        self._record(node, progress, reply.usage, started, (time.perf_counter() - began) * 1000)
        return reply.values

    @staticmethod
    def _record(node: CompiledNode, progress: Progress, usage: Usage, started: float, ms: float) -> None:
        progress.retries += usage.retries
        progress.steps.append(
            {
                "node": node.id,
                "started_at": round(started, 3),
                "ms": round(ms, 1),
                "tokens": usage.prompt_tokens + usage.completion_tokens,
                "retries": usage.retries,
                "cost": usage.cost,
                "unknown_calls": usage.unknown_calls,
            }
        )
        del progress.steps[:-KEPT_STEPS]

    # --- branches and items

    async def _run_branches(self, progress: Progress, save: Save, span: Span, purse: Purse) -> None:
        """Run each branch up to the join. A branch that fails ends the others."""

        async def walk(number: int) -> None:
            while (name := progress.at[number]) != progress.join:
                await self._run_node(name, progress, span, {}, purse)
                progress.at[number] = self.workflow.edges[name].to[0]
                if any(at != progress.join for at in progress.at):
                    await save(progress)

        await _run_all(walk(number) for number in range(len(progress.at)))

    async def _run_items(self, progress: Progress, save: Save, span: Span, purse: Purse) -> None:
        assert progress.source is not None
        parallel = self.workflow.edges[progress.source].parallel
        assert parallel is not None
        items = progress.state.get(parallel.items_field)
        if items is None:
            items = []
        if not isinstance(items, list):
            raise RunError("workflow", f"{parallel.items_field} is not a list", parallel.target_node)
        steps, limit = len(items) - len(progress.items), self.workflow.execution.max_steps
        if progress.count + steps > limit:
            what = f"{parallel.items_field} has {len(items)} items, and the run may have max_steps ({limit} nodes)"
            raise RunError("workflow", what, parallel.target_node)
        ahead = iter([number for number in range(len(items)) if str(number) not in progress.items])

        async def work() -> None:
            for number in ahead:
                local = {"item": items[number], "item_index": number}
                progress.items[str(number)] = await self._run_node(parallel.target_node, progress, span, local, purse)
                if len(progress.items) < len(items):
                    await save(progress)

        await _run_all(work() for _unused in range(min(steps, self.workflow.execution.parallel)))
        await self._collect(parallel, len(items), progress)

    async def _collect(self, parallel: Parallel, count: int, progress: Progress) -> None:
        answers = [progress.items[str(number)] for number in range(count)]
        outputs = self.workflow.nodes[parallel.target_node].outputs
        collected = [answer[outputs[0]] if len(outputs) == 1 else answer for answer in answers]
        wrong = check_value(self.workflow.field_types[parallel.collect_field], collected)
        if wrong:
            raise RunError("workflow", f"the answers do not fit {parallel.collect_field}: {wrong}", parallel.target_node)
        progress.state[parallel.collect_field] = collected
        progress.source, progress.items = None, {}
        await self._choose_next(parallel.target_node, progress)

    # --- edges

    async def _choose_next(self, name: str, progress: Progress) -> None:
        """Decide which node follows a finished one."""
        edge = self.workflow.edges[name]
        if edge.parallel is not None:
            progress.at, progress.source = [edge.parallel.target_node], name
        elif edge.loop is not None:
            rounds = progress.rounds.get(name, 0) + 1
            done = progress.state.get(edge.loop.condition_field) is True or rounds >= edge.loop.max_iterations
            progress.at = [edge.loop.exit_to if done else name]
            # A loop that is entered again later starts counting at 0.
            progress.rounds[name] = 0 if done else rounds
        elif edge.routes:
            progress.at = [await self._choose_route(name, progress)]
        else:
            progress.at, progress.join = list(edge.to), edge.join

    async def _choose_route(self, name: str, progress: Progress) -> str:
        for condition, target in self.workflow.edges[name].routes:
            try:
                if condition is None or await evaluate(condition, progress.state):
                    return target
            except ConditionError as error:
                raise RunError("condition", f"a condition cannot be evaluated: {error}", name) from None
        raise AssertionError("the last route is the default")

    # --- the end

    async def _finish(self, progress: Progress) -> Outcome:
        warnings: list[str] = []
        failures: list[str] = []
        gates = self.workflow.gates
        for gate in gates.gates:
            if gate.condition is not None:
                try:
                    holds = await evaluate(self.workflow.conditions[gate.condition], progress.state)
                    wrong = "" if holds else f"{gate.condition} is false"
                except ConditionError as error:
                    wrong = f"a condition cannot be evaluated: {error}"
            else:
                value = _measure(str(gate.metric), progress)
                low = gate.min is not None and value < gate.min
                high = gate.max is not None and value > gate.max
                bound = f"below {gate.min:g}" if low else f"above {gate.max:g}" if high else ""
                wrong = f"{gate.metric} is {value:g}, {bound}" if bound else ""
            if wrong:
                (warnings if (gate.on_fail or gates.on_fail) == "warn" else failures).append(wrong)
        if failures:
            raise RunError("gate", "a quality gate failed: " + "; ".join(failures))
        return Outcome({name: progress.state.get(name) for name in self.workflow.outputs}, warnings)


def _measure(metric: str, progress: Progress) -> float:
    values = {
        "duration_ms": progress.busy_ms,
        "prompt_tokens": progress.prompt_tokens,
        "completion_tokens": progress.completion_tokens,
        "total_tokens": progress.prompt_tokens + progress.completion_tokens,
        "steps": progress.count,
        "retries": progress.retries,
        "cost": progress.cost or 0.0,
    }
    return float(values[metric])


async def _run_all(works: Any) -> None:
    """Run all in parallel. The first failure cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as group_error:
        leaf: BaseException = group_error
        while isinstance(leaf, BaseExceptionGroup):
            leaf = leaf.exceptions[0]
        raise leaf from None
