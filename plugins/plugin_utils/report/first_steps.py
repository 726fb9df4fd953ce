# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a new host has and lacks, as lines; and the commands that come after its inventory was written. Pure."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.anvil.serving.plugins.plugin_utils.report.typed_command import TypedCommand

OURS = "anvil.serving."


def describe_host_read(facts: Mapping[str, Any], needs: Mapping[str, Any]) -> list[str]:
    """facts: the result of anvil_host_info. needs: of anvil_host_check, with every requirement tolerated."""
    engine, nvidia, disk = facts["engine"], facts["nvidia"], facts["disk"]
    docker = f"Docker Engine {engine['version']}" if engine["version"] else "no Docker Engine"
    compose = f"Compose {facts['compose']}" if facts["compose"] else "no Compose"
    driver = f"NVIDIA driver {nvidia['driver']} (CUDA {nvidia['cuda'] or '?'})" if nvidia["present"] else "no NVIDIA driver"
    lines = [f"{docker}, {compose}, {driver}, {disk['free_mib'] / 1024:.0f} GiB free in {disk['folder']}"]
    for card in facts["gpus"]:
        total = card["vram_total_mib"]
        memory = f"{total / 1024:.1f} GiB" if total else "memory unknown"
        what = card["trouble"] or f"compute capability {card['compute_capability'] or 'unknown'}"
        lines.append(f"card {card['index']}: {card['name'] or 'without a name'}, {memory}, {what}")
    lines += [f"port {number} is held by {holder}" for number, holder in facts["held_ports"].items()]
    for problem in needs.get("tolerated") or []:
        lines.append(f"missing: {problem['what']}" + (f" ({problem['where']})" if problem.get("where") else ""))
    return lines


def next_commands(typed: TypedCommand | None, folder: str, lacks: bool, exists: Callable[[str], bool]) -> list[str]:
    """The commands that lead to an answer. lacks: the host is no complete Docker host yet."""

    first = [name_command(typed, "prepare", folder, exists) + " -b"] if lacks else []
    discover = name_command(typed, "discover", folder, exists) + " -e folder=/srv/models"
    return [*first, discover, name_command(typed, "site", folder, exists)]


def name_command(typed: TypedCommand | None, name: str, folder: str, exists: Callable[[str], bool]) -> str:
    """The command that runs another playbook of the collection, as it is typed where ``typed`` was. folder: of the inventory."""
    program = typed.program if typed else "ansible-playbook"
    playbook = _playbook_beside(typed.playbooks[-1] if typed and typed.playbooks else "playbooks/init.yml", name, exists)
    return " ".join([program, shlex.quote(playbook), "-i", shlex.quote(folder)])


def _playbook_beside(typed: str, name: str, exists: Callable[[str], bool]) -> str:
    """The playbook ``name`` as it is typed where ``typed`` is another playbook of the collection."""
    if typed.startswith(OURS):
        return OURS + name
    folder = os.path.dirname(typed)
    above = os.path.normpath(os.path.join(folder, "..", f"{name}.yml"))
    return above if name == "site" and exists(above) else os.path.join(folder, f"{name}.yml")
