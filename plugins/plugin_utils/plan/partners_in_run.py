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
    """The hosts of the play, and those of them that have not failed."""

    hosts: tuple[str, ...]
    healthy: tuple[str, ...]


def find_obstacles(project: Mapping[str, Any], only: Sequence[str], state: str, run: Run) -> list[Problem]:
    """Why the serves over several hosts may not change in this run.

    project, only, state: as ``project``, ``serves`` and ``state`` of anvil_serve.
    """
    if state not in STARTING:
        return []
    problems: list[Problem] = []
    for name, described in _list_chosen(project, only):
        hosts = described.get("hosts") or []
        if not hosts:
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
    return problems


def _list_chosen(project: Mapping[str, Any], only: Sequence[str]) -> list[tuple[str, Mapping[str, Any]]]:
    """The serves that are named, or all, each with its ``x-anvil``."""
    raw = project.get("services") or "{}"
    services = json.loads(raw) if isinstance(raw, str) else raw
    described = [(name, service.get("anvil") or {}) for name, service in sorted(services.items())]
    return [(name, one) for name, one in described if not only or {name, *(one.get("tags") or [])} & set(only)]


def choose_parts(project: Mapping[str, Any], only: Sequence[str], parts: str) -> list[str]:
    """The names of the chosen serves that are ``members``, or ``others``. project, only: as for ``find_obstacles``."""
    return [name for name, one in _list_chosen(project, only) if bool(one.get("rank")) == (parts == "members")]


def lists_changes(serves: Mapping[str, Mapping[str, Any]]) -> bool:
    """serves: as anvil_serve returns them."""
    return any(serve.get("action") not in (None, "none") for serve in serves.values())
