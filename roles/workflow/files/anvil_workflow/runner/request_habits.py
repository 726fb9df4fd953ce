# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an endpoint refuses of a request, read from its error, and the request without it.

Endpoints differ in the settings and messages that they take. What one refuses is remembered for its model until the process ends.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from anvil_workflow.language.schema import Llm
from anvil_workflow.runner.model_messages import REASONING

log = logging.getLogger(__name__)

COMPLETION, SYSTEM = "max_completion_tokens", "system"
OPTIONAL = ("temperature", "seed")
UNSUPPORTED = re.compile(
    r"unsupported|not supported|n.t support|unrecogni[sz]ed|unknown|unexpected|extra (inputs|fields)|not (permitted|allowed)"
    r"|invalid (parameter|argument|field)|deprecated",
    re.IGNORECASE,
)
NO_SYSTEM = re.compile(
    r"system (role|messages?|prompts?)\b.*(n.t|not) (be )?(supported?|allowed)|roles must alternate", re.IGNORECASE
)
# The words of vLLM, SGLang, llama-server, OpenAI, Anthropic and Google for a prompt that is too long.
TOO_LONG = re.compile(
    r"context[_ ](length|size|window)|exceeds? the (available )?context|prompt is too long|exceed_context_size"
    r"|longer than the (model|maximum model length)|input token count .*exceeds",
    re.IGNORECASE,
)


class RequestHabits:
    """What the endpoint of each model refuses. The same model name at one URL is one model."""

    def __init__(self) -> None:
        self._refused: dict[tuple[str, str, str], set[str]] = {}

    def fit(self, llm: Llm, body: Mapping[str, Any]) -> dict[str, Any]:
        """The request without what its endpoint refuses."""
        refused = self._refused.get(_identify(llm), set())
        if not refused:
            return dict(body)
        fitted = {key: value for key, value in body.items() if key not in refused}
        if COMPLETION in refused and "max_tokens" in fitted:
            fitted[COMPLETION] = fitted.pop("max_tokens")
        messages = [{key: value for key, value in message.items() if key not in refused} for message in body["messages"]]
        if SYSTEM in refused and messages[0]["role"] == "system":
            first, second, *rest = messages
            messages = [{**second, "content": f"{first['content']}\n\n{second['content']}"}, *rest]
        return {**fitted, "messages": messages}

    def learn(self, llm: Llm, body: Mapping[str, Any], reason: str) -> bool:
        """Whether the endpoint refuses a part of the request that it can be sent without."""
        found = _find_refused(body, reason)
        refused = self._refused.setdefault(_identify(llm), set())
        if not found or found in refused:
            return False
        refused.add(found)
        log.warning("model %s is asked %s from now on; its endpoint answered %s", llm.model, _describe(found), reason)
        return True


def is_too_long(status: int, reason: str) -> bool:
    """Whether a failed call says that the prompt does not fit the model.

    429 is a limit of tokens per minute, 503 a server that loads.
    """
    return status not in (429, 503) and TOO_LONG.search(reason) is not None


def _find_refused(body: Mapping[str, Any], reason: str) -> str:
    if COMPLETION in reason and "max_tokens" in body:
        return COMPLETION
    if body["messages"][0]["role"] == "system" and NO_SYSTEM.search(reason):
        return SYSTEM
    if not UNSUPPORTED.search(reason):
        return ""
    sent = {key for message in body["messages"] for key in message}
    names = [*(key for key in OPTIONAL if key in body), *(key for key in REASONING if key in sent)]
    return next((key for key in names if re.search(rf"\b{key}\b", reason)), "")


def _describe(refused: str) -> str:
    return {COMPLETION: "with max_completion_tokens for max_tokens", SYSTEM: "with its system text before the prompt"}.get(
        refused, f"without {refused}"
    )


def _identify(llm: Llm) -> tuple[str, str, str]:
    return llm.provider or "", llm.api_base or "", llm.model or ""
