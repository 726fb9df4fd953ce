# SPDX-License-Identifier: GPL-3.0-or-later
"""``idle`` of a serve on demand: after how long without a request watch stops it. Pure."""

from __future__ import annotations

import re

from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import ON_DEMAND
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import Section

SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
LEAST, MOST = 60, 30 * 86400
RULE = "a time from 60 s to 30 d, such as 30m"


def read_idle(section: Section) -> int:
    """Seconds; 0: watch never stops it."""
    if not section.has("idle"):
        return 0
    found = re.fullmatch(r"(\d{1,7})\s*([smhd]?)", str(section.raw["idle"]).strip())
    seconds = int(found[1]) * SECONDS[found[2]] if found and not isinstance(section.raw["idle"], bool) else 0
    if not LEAST <= seconds <= MOST:
        section.add_problem("idle", "idle is {0!r}".format(section.raw["idle"]), "write " + RULE)
        return 0
    if section.raw.get("residency") != ON_DEMAND:
        section.add_problem(
            "idle",
            "idle is only for a serve on demand: site.yml would start any other again",
            "set residency: on_demand, or remove idle",
        )
        return 0
    return seconds
