# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What model calls cost: tokens as the endpoint reports them, prices, and the limit of a run. Pure.

An answer without a count of tokens is a call of unknown cost, never one that costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from anvil_workflow.environment.variables import SettingsError
from anvil_workflow.language.schema import Price

# A larger number of tokens is no number of tokens.
MOST_TOKENS = 10**12
PER_TOKENS = 1_000_000
DIGITS = 9
# The names of the two counts: those of chat completions, and those of other APIs that gateways pass on.
PROMPT_NAMES, COMPLETION_NAMES = ("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")


@dataclass(frozen=True)
class Tokens:
    """The tokens of one call. cached: those of the prompt that were in a cache."""

    prompt: int
    completion: int
    cached: int = 0


@dataclass(frozen=True)
class CallCost:
    """One call. tokens: None where the endpoint did not report them. prompt_cost, completion_cost: None where unknown."""

    model: str
    tokens: Tokens | None = None
    prompt_cost: float | None = None
    completion_cost: float | None = None

    @property
    def cost(self) -> float | None:
        if self.prompt_cost is None or self.completion_cost is None:
            return None
        return round(self.prompt_cost + self.completion_cost, DIGITS)


def read_usage(reported: Any) -> Tokens | None:
    """The tokens of an answer; None where they are not known: no answer is made of no tokens."""
    if not isinstance(reported, Mapping):
        return None
    prompt, completion = (_read_count(reported, names) for names in (PROMPT_NAMES, COMPLETION_NAMES))
    if prompt is None or completion is None or prompt + completion == 0:
        return None
    details = reported.get("prompt_tokens_details")
    cached = _read_count(details, ("cached_tokens",)) if isinstance(details, Mapping) else None
    return Tokens(prompt, completion, min(cached or 0, prompt))


def _read_count(reported: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = reported.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1 and 0 <= value < MOST_TOKENS:
            return int(value)
    return None


def price_call(model: str, reported: Any, prices: Mapping[str, Price]) -> CallCost:
    """What one answer costs."""
    tokens, price = read_usage(reported), prices.get(model)
    if tokens is None or price is None:
        return CallCost(model, tokens)
    cached = price.prompt if price.cached_prompt is None else price.cached_prompt
    prompt = (tokens.prompt - tokens.cached) * price.prompt + tokens.cached * cached
    return CallCost(model, tokens, prompt / PER_TOKENS, tokens.completion * price.completion / PER_TOKENS)


def read_prices(text: str) -> dict[str, Price]:
    """The prices in the environment variable WORKFLOW_PRICES. Raises SettingsError."""
    if not text.strip():
        return {}
    try:
        return TypeAdapter(dict[str, Price]).validate_python(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"WORKFLOW_PRICES: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except ValueError:
        example = '{"heavy": {"prompt": 0.5, "completion": 1.5}}'
        raise SettingsError(f"WORKFLOW_PRICES: it is not JSON: write {example}, per 1,000,000 tokens") from None


def new_entry() -> dict[str, Any]:
    return {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "unknown_calls": 0, "unpriced_calls": 0, "cost": 0.0}


def add_up(entries: Any) -> dict[str, Any]:
    """The sum of several entries."""
    total = new_entry()
    for entry in entries:
        for key in total:
            total[key] += entry.get(key, 0)
    total["cost"] = round(total["cost"], DIGITS)
    return total


class Spending:
    """What one run spends. spent: node -> model -> entry; part of the progress of the run, so every replica continues it.

    total: the sum of all entries.
    """

    def __init__(
        self,
        spent: dict[str, dict[str, dict[str, Any]]],
        prices: Mapping[str, Price],
        limit: float | None = None,
        count: Callable[[CallCost], None] = lambda call: None,
    ) -> None:
        self.spent, self._prices, self._limit, self._count = spent, prices, limit, count
        self.total = add_up(entry for models in spent.values() for entry in models.values()) if spent else new_entry()
        # Whether a call was added since the progress was stored.
        self.is_fresh = False

    def add(self, node: str, model: str, reported: Any) -> CallCost:
        """Add an answer. reported: its ``usage``, whatever the endpoint sent as that; None for a call that was cut off."""
        call = price_call(model, reported, self._prices)
        for entry in (self._find(node, model), self.total):
            entry["calls"] += 1
            if call.tokens is None:
                entry["unknown_calls"] += 1
                continue
            entry["prompt_tokens"] += call.tokens.prompt
            entry["completion_tokens"] += call.tokens.completion
            if call.cost is not None:
                entry["cost"] = round(entry["cost"] + call.cost, DIGITS)
            elif self._prices:
                entry["unpriced_calls"] += 1
        self.is_fresh = True
        self._count(call)
        return call

    def note_interrupted(self, node: str, model: str) -> None:
        """A call of this node may have been under way when a server ended; what it cost is not known."""
        for entry in (self._find(node, model), self.total):
            entry["calls"] += 1
            entry["unknown_calls"] += 1

    def _find(self, node: str, model: str) -> dict[str, Any]:
        return self.spent.setdefault(node, {}).setdefault(model, new_entry())

    @property
    def has_prices(self) -> bool:
        return bool(self._prices)

    def explain_limit(self) -> str:
        """Why no further call may be sent; empty where one may."""
        if self._limit is None:
            return ""
        total = self.total
        if total["cost"] < self._limit:
            return ""
        open_calls = total["unknown_calls"] + total["unpriced_calls"]
        more = f"; {open_calls} calls of unknown cost are not in it" if open_calls else ""
        limit = f"its limit is {self._limit:g} (config.execution.max_cost)"
        return f"the run has cost {total['cost']:g} so far{more}; {limit}, so no further call is sent"


def describe_spending(spent: Mapping[str, Mapping[str, Mapping[str, Any]]], priced: bool) -> dict[str, Any]:
    """What a run spent, by node and by model, as its job shows it. priced: prices were set; without any there is no cost."""

    def show(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {**entry, "cost": entry["cost"] if priced else None}

    rows = [(node, model, entry) for node, models in spent.items() for model, entry in models.items()]
    by_model = {model: add_up(entry for _node, one, entry in rows if one == model) for _node, model, _entry in rows}
    return {
        "nodes": [{"node": node, "model": model, **show(entry)} for node, model, entry in rows],
        "models": [{"model": model, **show(entry)} for model, entry in by_model.items()],
    }
