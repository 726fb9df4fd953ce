# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a ready server runs with the settings of its command line. Pure; unknown stays unknown.

Sources: vLLM's ``/v1/models`` reports ``max_model_len`` of each model; llama.cpp's ``/props`` reports the context of one slot
(``default_generation_settings.n_ctx``) and ``total_slots``. llama-server b6000 and later cap a context silently at what the
model was trained with, and pad each slot's share to a multiple of 256.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, List, Mapping

from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import Settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engine_options import CONTEXT, SLOTS

PADDING = 256


@dataclass(frozen=True)
class Difference:
    """A flag, the requested value, and the value that the server reports."""

    flag: str
    asked: int
    effective: int

    def as_text(self) -> str:
        return "{0} requests {1}, but the server runs with {2}".format(self.flag, self.asked, self.effective)


def _document(text: str) -> Mapping[str, Any]:
    try:
        read = json.loads(text)
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def compare_vllm(settings: Settings, served_name: str, models: str) -> List[Difference]:
    """``models``: the text of ``/v1/models``."""
    asked = settings.tokens(CONTEXT)
    listed = _document(models).get("data")
    rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    reported = [row.get("max_model_len") for row in rows if row.get("id") == served_name]
    if not asked or not reported or not isinstance(reported[0], int):
        return []
    return [Difference(settings.spelling(CONTEXT), asked, reported[0])] if reported[0] != asked else []


def compare_llama(settings: Settings, props: str) -> List[Difference]:
    """``props``: the text of ``/props``. A context that is only padded upwards counts as equal."""
    document = _document(props)
    slots, effective = document.get("total_slots"), document.get("default_generation_settings")
    context = effective.get("n_ctx") if isinstance(effective, dict) else None
    wanted_slots = settings.tokens(SLOTS)
    wanted = settings.tokens(CONTEXT)
    found = []
    if wanted_slots and isinstance(slots, int) and slots != wanted_slots:
        found.append(Difference(settings.spelling(SLOTS), wanted_slots, slots))
    if wanted and isinstance(context, int):
        # The slots share the context (--kv-unified) or have a part of it each, depending on version and flags.
        shares = {wanted, wanted // (slots if isinstance(slots, int) and slots > 0 else 1)}
        if not any(share <= context < share + PADDING for share in shares):
            found.append(Difference(settings.spelling(CONTEXT), wanted, context))
    return found
