# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What messages and pages tell an operator to type: playbooks, and docker only where it looks at what no playbook shows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from conftest import REPO

# Every command of docker that acts on something, and those that look.
FLAGS = r"(?:-\S+ (?:\S+ )??)*?"
GROUPS = r"compose|image|network|volume|container|system|context|buildx|builder"
COMMAND = re.compile(
    rf"(?<![\w.-])docker {FLAGS}(?:({GROUPS}) {FLAGS})?"
    r"(attach|build|commit|config|cp|create|df|down|events|exec|export|history|images|import|info|inspect|kill|load|login|logout|logs"
    r"|ls|pause|port|prune|ps|pull|push|rename|restart|rm|rmi|run|save|search|start|stats|stop|tag|top|unpause|up|update|use|version"
    r"|wait)\b"
)
# What only looks, and what no playbook shows.
LOOKS = {
    "compose config": "what Compose makes of a file, as its author sees it",
    "compose version": "a check of the host that names what it ran",
    "buildx version": "a check of the host that names what it ran",
    "events": "who starts or removes containers at this moment",
    "image inspect": "the processor of an image",
    "network inspect": "the addresses in a network",
    "network ls": "the networks of others",
    "stats": "the memory of a running container",
    "system df": "what uses the disk",
    "version": "whether the Docker Engine answers",
}
# Messages that name the program that failed, and advise nothing.
NAMED = {"buildx build", "compose config"}
# Projects that run without Ansible, by design: a rendered workflow with its pipelines, and the harness for experiments.
WITHOUT_ANSIBLE = {"templates/workflow/README.md.j2", "templates/workflow/ci/ci.sh.j2", "examples/experiment/README.md"}
DOCUMENTED = {"DOCUMENTATION", "EXAMPLES", "RETURN"}


def find_commands(text: str) -> list[str]:
    return [" ".join(part for part in found.groups() if part) for found in COMMAND.finditer(text)]


def list_texts(path: Path) -> list[str]:
    """The texts of a Python file that a program may show: no docstrings, no documentation of modules."""
    tree = ast.parse(path.read_text())
    silent = {
        id(node.value)
        for node in ast.walk(tree)
        if (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        or (isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id in DOCUMENTED for to in node.targets))
    }
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node.value for node in texts if id(node) not in silent]


@pytest.mark.slow
def test_messages_advise_playbooks() -> None:
    wrong = {
        str(path.relative_to(REPO)): command
        for path in sorted((REPO / "plugins").rglob("*.py"))
        for text in list_texts(path)
        for command in find_commands(text)
        if command not in LOOKS and command not in NAMED
    }
    assert not wrong


@pytest.mark.parametrize("folder", ["playbooks", "roles", "templates", "inventory", "examples"])
def test_playbooks_roles_and_templates_print_playbooks(folder: str) -> None:
    wrong = {}
    for path in sorted((REPO / folder).rglob("*")):
        name = str(path.relative_to(REPO))
        if path.suffix in (".yml", ".j2", ".md") and name not in WITHOUT_ANSIBLE and "Dockerfile" not in name:
            commands = [command for command in find_commands(path.read_text()) if command not in LOOKS]
            if commands:
                wrong[name] = commands
    assert not wrong


def test_pages_show_playbooks() -> None:
    """In blocks of commands. In sentences, the pages may say what a docker command does."""
    wrong = {}
    for page in (REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))):
        for line in page.read_text().splitlines():
            commands = find_commands(line) if re.match(r"\s{4,}(?:sudo )?docker ", line) else []
            # A read-only look into a volume, where Ansible does not reach the host.
            if any(command not in LOOKS for command in commands) and ":ro IMAGE -c 'cat " not in line:
                wrong[page.name] = line
    assert not wrong


@pytest.mark.slow
def test_what_is_allowed_is_needed() -> None:
    texts = [text for path in (REPO / "plugins").rglob("*.py") for text in list_texts(path)]
    texts += [page.read_text() for page in (REPO / "docs").glob("*.md")]
    assert set(LOOKS) <= {command for text in texts for command in find_commands(text)}


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("type docker load -i FILE on this host", ["load"]),
        ("docker compose -p x ps", ["compose ps"]),
        ("docker compose could not start it", []),
        ("docker -H unix:///x version", ["version"]),
        ("/etc/docker/daemon.json, docker-credential-x, docker_host_install", []),
        ("a docker run, then docker volume create v", ["run", "volume create"]),
    ],
)
def test_commands_are_found_in_sentences(text: str, commands: list[str]) -> None:
    assert find_commands(text) == commands
