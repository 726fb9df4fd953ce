# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether all hosts of the serves over several hosts take part in a run: none of them changes without the others. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem

STARTING = ("up", "restarted", "recreated", "rolled_back", "adopted")


@dataclass(frozen=True)
class Run:
    """The hosts of the play, those of them that have not failed, and how many hosts work at a time (0: not known)."""

    hosts: tuple[str, ...]
    healthy: tuple[str, ...]
    forks: int = 0


def find_obstacles(project: Mapping[str, Any], only: Sequence[str], state: str, run: Run) -> list[Problem]:
    """Why the serves over several hosts may not change in this run.

    project, only, state: as ``project``, ``serves`` and ``state`` of anvil_serve.
    """
    if state not in STARTING:
        return []
    raw = project.get("services") or "{}"
    services = json.loads(raw) if isinstance(raw, str) else raw
    problems: list[Problem] = []
    for name, service in sorted(services.items()):
        described = service.get("anvil") or {}
        hosts = described.get("hosts") or []
        if not hosts or (only and not {name, *(described.get("tags") or [])} & set(only)):
            continue
        where = f"serve {name}"
        if state == "rolled_back":
            hint = "write its earlier definition in the inventory, and type ansible-playbook site.yml"
            problems.append(Problem("a serve over several hosts is not rolled back by itself", where, hint=hint))
            continue
        away = [host for host in hosts if host not in run.hosts]
        failed = [host for host in hosts if host in run.hosts and host not in run.healthy]
        why = [f"{', '.join(away)} not in this run"] if away else []
        why += [f"{', '.join(failed)} failed in this run; see there"] if failed else []
        if why:
            hint = (
                "run it for all hosts of the serve, without --limit" if away else "correct that host, and type the command again"
            )
            problems.append(Problem("its hosts change together or not at all", where, "; ".join(why), hint))
        elif 0 < run.forks < len(hosts):
            what = f"its {len(hosts)} hosts start at the same time, and this run works on {run.forks} at a time"
            problems.append(Problem(what, where, hint=f"add -f {len(hosts)}, or set forks in ansible.cfg"))
    return problems


def lists_changes(serves: Mapping[str, Mapping[str, Any]]) -> bool:
    """serves: as anvil_serve returns them."""
    return any(serve.get("action") not in (None, "none") for serve in serves.values())
