# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/development.md lists the wings and their rooms with what they say of themselves, and the code keeps to that order.

``ANVIL_GOLDEN=write pytest tests/unit/test_layout.py`` writes the tables again; the order of the wings is the page's own.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import REPO

PAGE = REPO / "docs" / "development.md"
COLLECTION = "ansible_collections.anvil.serving."
LONGEST = 400
DOES_IO = {"http", "select", "shutil", "socket", "ssl", "subprocess", "tempfile", "threading", "time", "docker"}
# Of the module os, a pure room uses only what works on the text of a path.
PATH_TEXT = {"basename", "dirname", "isabs", "join", "normpath", "relpath", "split", "splitext"}
# Where a heading of the page says that the wings lie, and how the code there names them.
HOUSES = {
    "plugins/module_utils": COLLECTION + "plugins.module_utils",
    "plugins/plugin_utils": COLLECTION + "plugins.plugin_utils",
    "roles/workflow/files/anvil_workflow": "anvil_workflow",
}


@dataclass(frozen=True)
class Wing:
    """A package with rooms. about: the first paragraph of its docstring."""

    house: str
    name: str
    about: str
    rooms: dict[str, str]

    @property
    def folder(self) -> Path:
        return REPO / self.house / self.name


@cache
def parse(path: Path) -> tuple[str, tuple[ast.AST, ...]]:
    """The docstring of a file, and the nodes that import or that name an attribute, inside functions too."""
    tree = ast.parse(path.read_text())
    kinds = (ast.Import, ast.ImportFrom, ast.Attribute)
    return ast.get_docstring(tree) or "", tuple(node for node in ast.walk(tree) if isinstance(node, kinds))


def first_paragraph(path: Path) -> str:
    text = parse(path)[0]
    return " ".join(text.split("\n\n")[0].split()).replace("``", "`")


def imported_modules(path: Path) -> Iterator[str]:
    """The full name of every module that a file imports, inside functions too."""
    for node in parse(path)[1]:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield str(node.module)


def imports_of(path: Path, package: str) -> Iterator[tuple[str, ...]]:
    """What a file imports from below a package, inside functions too: (wing, room), or (wing,) where that is all it names."""
    for node in parse(path)[1]:
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(package + "."):
            parts = str(node.module).split(".")[package.count(".") + 1 :]
            for name in node.names:
                yield (*parts, name.name)[:2]


@cache
def import_graph(house: str, wing: str) -> dict[str, set[str]]:
    """Room to the rooms of the same wing that it imports."""
    files = {path.stem: path for path in (REPO / house / wing).glob("*.py") if path.stem != "__init__"}
    return {
        room: {found[1] for found in imports_of(path, HOUSES[house]) if found[0] == wing and found[1] in files}
        for room, path in sorted(files.items())
    }


def in_order(house: str, wing: str) -> list[str]:
    """The rooms of a wing: each after those that it imports. Raises graphlib.CycleError."""
    sorter = TopologicalSorter(import_graph(house, wing))
    sorter.prepare()
    found: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        found += ready
        sorter.done(*ready)
    return found


def wings_of_code(house: str) -> dict[str, Wing]:
    found = {}
    for init in (REPO / house).glob("*/__init__.py"):
        folder = init.parent
        rooms = {room: first_paragraph(folder / f"{room}.py").rstrip(".") for room in in_order(house, folder.name)}
        found[folder.name] = Wing(house, folder.name, first_paragraph(init), rooms)
    return found


def wings_of_page(house: str) -> list[Wing]:
    """The wings below a house's heading, in the page's order."""
    part = PAGE.read_text().split(f"\n### `{house}/`\n", 1)[1]
    part = re.split(r"\n##{1,2} ", part)[0]
    found = []
    for section in part.split("\n#### ")[1:]:
        title, about, *table = section.strip().split("\n\n")
        rooms = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", "".join(table), flags=re.MULTILINE))
        found.append(Wing(house, title.strip("`/"), about, rooms))
    return found


def as_page(wing: Wing) -> str:
    rows = "".join(f"| `{room}` | {text} |\n" for room, text in wing.rooms.items())
    return f"#### `{wing.name}/`\n\n{wing.about}\n\n| room | what it is about |\n|---|---|\n{rows}"


def write_page() -> None:
    text = PAGE.read_text()
    for house in HOUSES:
        code = wings_of_code(house)
        for wing in wings_of_page(house):
            start = text.index(f"#### `{wing.name}/`\n", text.index(f"### `{house}/`\n"))
            end = re.compile(r"\n#{2,4} |\Z").search(text, start + 5)
            assert end is not None
            text = text[:start] + as_page(code.get(wing.name, wing)) + text[end.start() :]
    PAGE.write_text(text)


@pytest.mark.parametrize("house", HOUSES)
def test_every_room_is_listed_with_what_it_says_of_itself(house: str) -> None:
    if os.environ.get("ANVIL_GOLDEN") == "write":
        write_page()
    page, code = wings_of_page(house), wings_of_code(house)
    assert sorted(wing.name for wing in page) == sorted(code)
    for wing in page:
        assert wing == code[wing.name]
        assert list(wing.rooms) == list(code[wing.name].rooms), "not in the order of the imports"


@pytest.mark.parametrize("house", HOUSES)
def test_a_wing_imports_only_wings_above_it(house: str) -> None:
    order = [wing.name for wing in wings_of_page(house)]
    wrong = {
        (f"{wing}/{path.name}", found[0])
        for wing in order
        for path in (REPO / house / wing).rglob("*.py")
        for found in imports_of(path, HOUSES[house])
        if found[0] not in order or order.index(found[0]) > order.index(wing)
    }
    assert not wrong


@pytest.mark.parametrize("house", HOUSES)
def test_the_package_lists_its_wings_in_the_order_of_the_page(house: str) -> None:
    text = ast.get_docstring(ast.parse((REPO / house / "__init__.py").read_text())) or ""
    assert ", ".join(wing.name for wing in wings_of_page(house)) in text.split("\n\n")


@pytest.mark.parametrize(
    ("house", "others"),
    [
        ("plugins/module_utils", ()),
        ("plugins/plugin_utils", ("plugins/module_utils",)),
        ("roles/workflow/files/anvil_workflow", ()),
    ],
)
def test_a_house_imports_only_itself_and_the_houses_below(house: str, others: tuple[str, ...]) -> None:
    allowed = tuple(HOUSES[each] + "." for each in (house, *others))
    wrong = {
        (path.name, module)
        for path in (REPO / house).rglob("*.py")
        for module in imported_modules(path)
        if module.startswith((COLLECTION, "anvil_workflow")) and not f"{module}.".startswith(allowed)
    }
    assert not wrong


def io_of(path: Path) -> Iterator[str]:
    """The modules and functions in a file that read or change something outside of it."""
    yield from (module for module in imported_modules(path) if module.split(".")[0] in DOES_IO)
    for node in parse(path)[1]:
        is_of_os = isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("os", "os.path")
        if is_of_os and node.attr not in {"path", *PATH_TEXT}:
            yield ast.unparse(node)


@pytest.mark.parametrize("house", HOUSES)
def test_pure_rooms_import_nothing_that_does_io(house: str) -> None:
    pure = [
        wing.folder / f"{room}.py"
        for wing in wings_of_page(house)
        for room, text in wing.rooms.items()
        if re.search(r"\bPure\b", text)
    ]
    assert not {(path.name, found) for path in pure for found in io_of(path)}


@pytest.mark.parametrize("house", HOUSES)
def test_rooms_of_a_wing_do_not_import_each_other_in_a_circle(house: str) -> None:
    for wing in wings_of_page(house):
        assert sorted(in_order(house, wing.name)) == sorted(import_graph(house, wing.name))


@pytest.mark.parametrize("house", HOUSES)
def test_all_code_lies_in_wings(house: str) -> None:
    loose = {path.name for path in (REPO / house).glob("*.py")} - {"__init__.py", "__main__.py"}
    assert not loose


def test_no_product_file_is_too_long() -> None:
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "plugins", "roles", "console"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True, cwd=REPO).stdout.split("\0")
    files = [REPO / name for name in names if name.endswith((".py", ".j2", ".sh"))]
    lines = {str(path.relative_to(REPO)): len(path.read_text().splitlines()) for path in files if path.exists()}
    assert len(lines) > 100
    assert not {name: count for name, count in lines.items() if count > LONGEST}


@pytest.mark.parametrize("folder", ["action", "modules"])
def test_every_plugin_finds_what_it_imports(folder: str) -> None:
    names = sorted(path.stem for path in (REPO / "plugins" / folder).glob("*.py"))
    assert names
    for name in names:
        importlib.import_module(f"{COLLECTION}plugins.{folder}.{name}")
