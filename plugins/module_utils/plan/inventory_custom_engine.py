# SPDX-License-Identifier: GPL-3.0-or-later
"""Check the keys of a serve with ``engine: custom``: a server of which only the inventory knows how it is started and asked."""

from __future__ import annotations

import re
from dataclasses import replace

from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import CUSTOM, ENGINES, Engine
from ansible_collections.anvil.serving.plugins.module_utils.catalog.served_kinds import KINDS
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import VARIABLE, Section

URL_PATH = re.compile(r"/([^/?#\s][^?#\s]{0,199})?")
CUSTOM_KEYS = ("ready_path", "key_env")


def read_engine_of_serve(section: Section, name: str) -> Engine:
    """The engine of a serve. name: empty where it is unknown.

    For ``custom``, key_env names the variable from which the server reads its API key.
    """
    if name != CUSTOM:
        for only in CUSTOM_KEYS:
            if name and section.has(only):
                section.add_problem(only, "{0} is only for engine custom".format(only), "remove it: {0} needs none".format(name))
        return ENGINES[name] if name else Engine()
    if not section.has("kind"):
        section.add_problem(
            "kind", "the serve has engine custom and no kind", "set it to what the server answers: " + ", ".join(KINDS)
        )
    key = section.read_text("key_env", "the environment variable with the API key, such as API_KEY", VARIABLE)
    return replace(ENGINES[CUSTOM], key_env=key or "")


def read_ready_path(section: Section, name: str) -> str:
    """The path that answers 200 once a custom server is ready; empty: ``/v1/models`` lists the model then."""
    if name != CUSTOM:
        return ""
    return section.read_text("ready_path", "a path such as /health", URL_PATH) or ""
