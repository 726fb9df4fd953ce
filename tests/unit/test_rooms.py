# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/development.md lists the rooms of module_utils with what they say of themselves; each imports only those above it."""

from __future__ import annotations

import ast
import re

from conftest import REPO

ROOMS = REPO / "plugins" / "module_utils"
PACKAGE = "ansible_collections.anvil.serving.plugins.module_utils"


def list_rooms() -> dict[str, str]:
    """Room to what the page says of it, in the page's order."""
    table = (REPO / "docs" / "development.md").read_text().split("## Rooms", 1)[1].split("\n## ", 1)[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, flags=re.MULTILINE))


def parse_room(room: str) -> ast.Module:
    return ast.parse((ROOMS / f"{room}.py").read_text())


def imports_of(room: str) -> set[str]:
    """The rooms that a room imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(parse_room(room)):
        if isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE + "."):
            found.add(str(node.module).rpartition(".")[2])
    return found


def test_every_room_is_listed_with_what_it_says_of_itself() -> None:
    there = sorted(path.stem for path in ROOMS.glob("*.py") if path.stem != "__init__")
    first = {room: " ".join((ast.get_docstring(parse_room(room)) or "").split("\n\n")[0].split()) for room in there}
    assert list_rooms() == {room: text.rstrip(".").replace("``", "`") for room, text in first.items()}


def test_a_room_imports_only_rooms_above_it() -> None:
    order = list(list_rooms())
    assert not {(room, other) for room in order for other in imports_of(room) if order.index(other) >= order.index(room)}
