# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pages: every link leads somewhere, everything public is described, the picture shows the wings as they are.

``make docs`` checks more of the same; this takes no Sphinx.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from ansible_collections.anvil.serving.plugins.module_utils.plan import build_plan
from conftest import REPO

DOCS = REPO / "docs"
PAGES = [REPO / "README.md", *sorted(DOCS.glob("*.md"))]
LINK = re.compile(r"!?\[[^]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@cache
def prose_of(page: Path) -> str:
    """A page without its blocks of code."""
    text = FENCE.sub("", page.read_text())
    return "\n".join(line for line in text.splitlines() if not line.startswith("    "))


@cache
def anchors_of(page: Path) -> set[str]:
    """What code hosts and the site both make of headings."""
    titles = re.findall(r"^#{1,6} (.+)$", prose_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(prose_of(page)):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in anchors_of(file)):
            broken.append(target)
    assert not broken


def test_every_picture_says_what_it_shows() -> None:
    assert not [page.name for page in PAGES if re.search(r"!\[\s*\]\(", page.read_text())]


def test_every_page_is_in_the_contents_of_the_site() -> None:
    listed = re.findall(r"^([\w-]+)$", (DOCS / "site" / "index.md").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in DOCS.glob("*.md"))


def test_every_page_that_the_code_names_is_there() -> None:
    names: set[str] = set()
    for folder in ("plugins", "roles", "templates", "playbooks", "bootstrap", "tests", "bench", "examples"):
        for path in (REPO / folder).rglob("*"):
            if path.suffix in {".py", ".j2", ".yml", ".yaml", ".sh", ".md"}:
                names |= set(re.findall(r"\bdocs/[\w-]+\.md\b", path.read_text()))
    assert names
    assert not {name for name in names if not (REPO / name).exists()}


@pytest.mark.parametrize("kind", ["plugins/modules/*.py", "plugins/callback/*.py", "roles/*", "playbooks/*.yml"])
def test_every_module_role_and_playbook_is_described(kind: str) -> None:
    page = (DOCS / "reference.md").read_text()
    prefix = "anvil.serving." if kind.startswith(("roles", "plugins/callback")) else ""
    names = [path.name.removesuffix(".py") for path in sorted(REPO.glob(kind))]
    assert names
    assert not [name for name in names if f"`{prefix}{name}`" not in page]


def test_the_example_of_a_host_has_no_mistake_and_is_the_same_on_both_pages() -> None:
    readme, quickstart = (
        re.findall(r"```yaml\n(anvil_gpus:.*?)```", page.read_text(), flags=re.DOTALL)
        for page in (REPO / "README.md", DOCS / "quickstart.md")
    )
    assert len(readme) == 1 and readme == quickstart
    assert build_plan.build_plan("my-host", yaml.safe_load(readme[0]), {"router_token": "file"})
    assert readme[0].count("\n") <= 32


def keys_of_inventory() -> dict[str, tuple[str, ...]]:
    """The tuples of keys that the plan knows, by their names: ``GPU_KEYS``, ``VARIABLES``, …"""
    found: dict[str, tuple[str, ...]] = {"VARIABLES": build_plan.VARIABLES}
    for room in pkgutil.iter_modules([str(Path(build_plan.__file__).parent)]):
        module = importlib.import_module(f"{build_plan.__package__}.{room.name}")
        found |= {name: value for name, value in vars(module).items() if re.fullmatch("[A-Z]+_KEYS", name)}
    return found


SECTIONS = {"GPU": "GPUs", "SERVE": "Serves", "SHARED": "Serves", "MODEL": "Serves"}
SECTIONS |= dict.fromkeys(("ROUTER", "TIER", "PROFILE"), "Router")
SECTIONS |= dict.fromkeys(("EDGE", "TLS", "CLIENT"), "Edge")


def test_every_key_of_an_inventory_is_described() -> None:
    text = (DOCS / "inventory.md").read_text()
    found = keys_of_inventory()
    assert len(found) > 8
    missing = []
    for name, keys in found.items():
        section = SECTIONS.get(name.removesuffix("_KEYS"))
        part = text.split(f"\n## {section}", 1)[1].split("\n## ", 1)[0] if section else text
        missing += [(section, key) for key in keys if not re.search(rf"`{key}\b", part)]
    assert not missing


def test_the_picture_is_drawn_from_its_text_and_shows_the_wings() -> None:
    drawn = subprocess.run(
        [sys.executable, "docs/site/picture.py", "--check"], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert drawn.returncode == 0, drawn.stderr
    page, picture = (DOCS / "development.md").read_text(), (DOCS / "images" / "architecture.txt").read_text()
    for house in re.findall(r"^wings ([\w/]+):", picture, flags=re.MULTILINE):
        part = re.split(r"\n##{1,2} ", page.split(f"\n### `{house}/`\n", 1)[1])[0]
        block = picture.split(f"\nwings {house}:", 1)[1].split("\n\n", 1)[0]
        assert re.findall(r"^  (\w+) +\|", block, flags=re.MULTILINE) == re.findall(r"^#### `(\w+)/`$", part, flags=re.MULTILINE)


def test_no_command_that_we_print_or_document_has_a_token_among_its_arguments() -> None:
    """Every user of a machine sees the arguments of a process; ``curl -H @FILE`` and ``-H @-`` read the header."""
    listed = [
        "git",
        "ls-files",
        "-z",
        "--",
        "README.md",
        "docs",
        "playbooks",
        "roles",
        "plugins",
        "templates",
        "bootstrap",
        "examples",
    ]
    names = subprocess.run(listed, capture_output=True, text=True, check=True, cwd=REPO).stdout.split("\0")
    texts = {name: (REPO / name).read_bytes().decode("utf-8", "replace") for name in names if (REPO / name).is_file()}
    assert len(texts) > 300
    forms = (
        r"(?:-H|--header)[ =]*\\?[\"'](?:Authorization|X-API-Key|Proxy-Authorization|Cookie)\b",
        r"\b(?:docker login|podman login)\b.*(?: -p|--password)[ =](?!-stdin)",
        r"\bcurl\b.* (?:-u|--user) ",
        r"\b(?:hf|huggingface-cli)\b.*--token[ =]",
        r"\bansible-playbook\b.* -e [\"']?[a-z_]*(?:token|api_key|password|secret)=(?!NAME\b)",
    )
    found = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if any(re.search(form, line) for form in forms)
    ]
    assert found == []
