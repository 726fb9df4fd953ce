# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a workflow from a point to its end. Small on purpose: a step, a checkpoint, the next step.

What a run has done is its Progress, plain JSON. ``save`` is awaited after each node and before the next begins, so that
whoever takes the run over starts at the first node that is not in there.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from .conditions import ConditionError, look_up
from .environment import SettingsError
from .forms import Forms
from .kinds import check_value
from .models import Endpoint, RunError, Usage, ask
from .schema import END, START, Parallel
from .tools import BoundTool, bind_tool
from .tracing import Span
from .workflow import Step, Workflow

KEPT_STEPS = 500


@dataclass
class Progress:
    """at: the nodes to run next, one for each branch. join: where branches meet. rounds: how often loops ran.

    items: of a parallel edge, what is done: index -> outputs. source: the node whose parallel edge that is.
    steps: the nodes that ran, the newest last: node, started (Unix time), ms, tokens.
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

    def as_text(self) -> str:
        return json.dumps(self.__dict__, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> Progress:
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Outcome:
    """outputs: the declared ones. warnings: gates that did not hold."""

    outputs: dict[str, Any]
    warnings: list[str]


Save = Callable[[Progress], Awaitable[None]]


class Executor:
    """Runs one workflow, any number of times."""

    def __init__(self, workflow: Workflow, endpoint: Endpoint, client: httpx.AsyncClient) -> None:
        self.workflow, self._endpoint, self._forms = workflow, endpoint, Forms()
        self._tools: dict[str, list[BoundTool]] = {
            step.id: [bind_tool(tool.name, tool.config, tool.on_error, client) for tool in step.tools]
            for step in workflow.steps.values()
        }

    def begin(self, inputs: Mapping[str, Any]) -> Progress:
        """The point before the first node."""
        progress = Progress(state={**self.workflow.defaults, **inputs}, at=[])
        self._leave(START, progress)
        return progress

    def can_resume(self, progress: Progress) -> bool:
        """Does the workflow, perhaps a newer one than the run began with, still have the nodes that come next?"""
        ahead = [*progress.at, *([progress.join] if progress.join else [])]
        fits = all(name == END or name in self.workflow.steps for name in ahead)
        return fits and (progress.source is None or progress.source in self.workflow.ways)

    async def run(self, progress: Progress, save: Save, span: Span) -> Outcome:
        """From the progress to the end. Raises RunError, and whatever ``save`` raises."""
        began = time.monotonic()
        before = progress.busy_ms
        while progress.at != [END]:
            if progress.join is not None:
                await self._run_branches(progress, save, span)
                progress.at, progress.join = [progress.join], None
            elif progress.source is not None:
                await self._run_items(progress, save, span)
            else:
                name = progress.at[0]
                await self._run_node(name, progress, span, {})
                self._leave(name, progress)
            progress.busy_ms = before + (time.monotonic() - began) * 1000
            if progress.at != [END]:
                await save(progress)
        return self._finish(progress)

    # --- nodes

    async def _run_node(self, name: str, progress: Progress, span: Span, local: Mapping[str, Any]) -> dict[str, Any]:
        """Run a node and put its answer into the state, unless it is one of many (local is then its item)."""
        limit = self.workflow.execution.max_steps
        if progress.count >= limit:
            raise RunError("workflow", f"the run is longer than max_steps ({limit} nodes)", name)
        progress.count += 1
        step = self.workflow.steps[name]
        started, began = time.time(), time.perf_counter()
        values = {**progress.state, **local, "state": progress.state}
        for local_name, path in step.inputs.items():
            values[local_name] = look_up(progress.state, path)
        child = span.start(name, "CHAIN")
        execution = self.workflow.execution
        try:
            tools, retries, rounds = self._tools[name], execution.max_retries, execution.tool_rounds
            reply = await ask(step, values, self._endpoint, self._forms, tools, retries, rounds, child)
        except SettingsError as error:
            child.fail(str(error))
            raise RunError("workflow", str(error), name) from None
        except RunError as error:
            child.fail(error.message)
            raise
        except asyncio.CancelledError:
            child.fail("cancelled")
            raise
        if step.traced:
            child.finish({key: values.get(key) for key in step.prompt.names}, reply.values)
        else:
            child.finish()
        if not local:
            progress.state.update(reply.values)
        self._note(step, progress, reply.usage, started, (time.perf_counter() - began) * 1000)
        return reply.values

    @staticmethod
    def _note(step: Step, progress: Progress, usage: Usage, started: float, ms: float) -> None:
        progress.prompt_tokens += usage.prompt_tokens
        progress.completion_tokens += usage.completion_tokens
        progress.retries += usage.retries
        progress.steps.append(
            {
                "node": step.id,
                "started_at": round(started, 3),
                "ms": round(ms, 1),
                "tokens": usage.prompt_tokens + usage.completion_tokens,
                "retries": usage.retries,
            }
        )
        del progress.steps[:-KEPT_STEPS]

    # --- branches and items

    async def _run_branches(self, progress: Progress, save: Save, span: Span) -> None:
        """Each branch by itself to the join. One that fails ends the others."""

        async def walk(number: int) -> None:
            while (name := progress.at[number]) != progress.join:
                await self._run_node(name, progress, span, {})
                progress.at[number] = self.workflow.ways[name].to[0]
                if any(at != progress.join for at in progress.at):
                    await save(progress)

        await _run_all(walk(number) for number in range(len(progress.at)))

    async def _run_items(self, progress: Progress, save: Save, span: Span) -> None:
        assert progress.source is not None
        parallel = self.workflow.ways[progress.source].parallel
        assert parallel is not None
        items = progress.state.get(parallel.items_field)
        if items is None:
            items = []
        if not isinstance(items, list):
            raise RunError("workflow", f"{parallel.items_field} is no list", parallel.target_node)
        gate = asyncio.Semaphore(self.workflow.execution.parallel)

        async def work(number: int, item: Any) -> None:
            async with gate:
                local = {"item": item, "item_index": number}
                progress.items[str(number)] = await self._run_node(parallel.target_node, progress, span, local)
                if len(progress.items) < len(items):
                    await save(progress)

        await _run_all(work(number, item) for number, item in enumerate(items) if str(number) not in progress.items)
        self._collect(parallel, len(items), progress)

    def _collect(self, parallel: Parallel, count: int, progress: Progress) -> None:
        answers = [progress.items[str(number)] for number in range(count)]
        outputs = self.workflow.steps[parallel.target_node].outputs
        collected = [answer[outputs[0]] if len(outputs) == 1 else answer for answer in answers]
        wrong = check_value(self.workflow.kinds[parallel.collect_field], collected)
        if wrong:
            raise RunError("workflow", f"the answers do not fit {parallel.collect_field}: {wrong}", parallel.target_node)
        progress.state[parallel.collect_field] = collected
        progress.source, progress.items = None, {}
        self._leave(parallel.target_node, progress)

    # --- edges

    def _leave(self, name: str, progress: Progress) -> None:
        """Decide where a finished node leads."""
        way = self.workflow.ways[name]
        if way.parallel is not None:
            progress.at, progress.source = [way.parallel.target_node], name
        elif way.loop is not None:
            rounds = progress.rounds.get(name, 0) + 1
            done = progress.state.get(way.loop.condition_field) is True or rounds >= way.loop.max_iterations
            progress.at = [way.loop.exit_to if done else name]
            # A loop that is entered again later counts anew.
            progress.rounds[name] = 0 if done else rounds
        elif way.routes:
            progress.at = [self._choose(name, progress)]
        else:
            progress.at, progress.join = list(way.to), way.join

    def _choose(self, name: str, progress: Progress) -> str:
        for condition, target in self.workflow.ways[name].routes:
            try:
                if condition is None or condition.holds(progress.state):
                    return target
            except ConditionError as error:
                raise RunError("condition", f"a condition cannot be worked out: {error}", name) from None
        raise AssertionError("the last route is the default")

    # --- the end

    def _finish(self, progress: Progress) -> Outcome:
        warnings: list[str] = []
        failures: list[str] = []
        gates = self.workflow.gates
        for gate in gates.gates:
            if gate.condition is not None:
                try:
                    wrong = "" if self.workflow.conditions[gate.condition].holds(progress.state) else f"not {gate.condition}"
                except ConditionError as error:
                    wrong = f"cannot be worked out: {error}"
            else:
                value = _measure(str(gate.metric), progress)
                low = gate.min is not None and value < gate.min
                high = gate.max is not None and value > gate.max
                bound = f"below {gate.min:g}" if low else f"above {gate.max:g}" if high else ""
                wrong = f"{gate.metric} is {value:g}, {bound}" if bound else ""
            if wrong:
                (warnings if (gate.on_fail or gates.on_fail) == "warn" else failures).append(wrong)
        if failures:
            raise RunError("gate", "a quality gate did not hold: " + "; ".join(failures))
        return Outcome({name: progress.state.get(name) for name in self.workflow.outputs}, warnings)


def _measure(metric: str, progress: Progress) -> float:
    values = {
        "duration_ms": progress.busy_ms,
        "prompt_tokens": progress.prompt_tokens,
        "completion_tokens": progress.completion_tokens,
        "total_tokens": progress.prompt_tokens + progress.completion_tokens,
        "steps": progress.count,
        "retries": progress.retries,
    }
    return float(values[metric])


async def _run_all(works: Any) -> None:
    """All at once; the first failure cancels the others and is the one that is told."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as group_error:
        leaf: BaseException = group_error
        while isinstance(leaf, BaseExceptionGroup):
            leaf = leaf.exceptions[0]
        raise leaf from None
