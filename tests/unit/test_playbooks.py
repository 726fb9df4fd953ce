"""Every playbook is run by an integration test or a scenario of molecule."""

from __future__ import annotations

import re

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import OTHER_VARIABLES, VARIABLES
from conftest import REPO

PLAYBOOKS = sorted(path.stem for path in (REPO / "playbooks").glob("*.yml"))
# How tests run a playbook: by its file, by its name in the installed collection, or by a helper of the tests, with the name of
# the playbook, or of several, or with a row of a table that begins with it.
FORMS = (
    r"(?:import_playbook: \S*|REPO / f?\")playbooks/{0}\.yml",
    r"\"playbooks\" / \"{0}\.yml\"",
    r"anvil\.serving\.{0}[\"']",
    r"\b(?:play|succeed)\(\s*\"(?:[\w-]+ )*{0}(?:\.yml)?[ \"]",
    r"^\s+\(\"{0}\", \(",
    r"\"ansible-playbook playbooks/{0}\.yml ",
)


def run_by(name: str) -> list[str]:
    """The files of tests that run a playbook. Comments do not count."""
    patterns = [re.compile(form.format(name), re.MULTILINE) for form in FORMS]
    found = []
    for folder in ("tests/integration", "tests/support", "extensions/molecule"):
        for path in sorted((REPO / folder).rglob("*")):
            if path.suffix in (".py", ".yml"):
                text = re.sub(r"^\s*#.*$", "", path.read_text(), flags=re.MULTILINE)
                found += [str(path.relative_to(REPO))] if any(one.search(text) for one in patterns) else []
    return found


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_a_test_runs_the_playbook(name: str) -> None:
    assert run_by(name), f"no integration test and no scenario of molecule runs playbooks/{name}.yml"


def test_a_playbook_that_no_test_runs_is_found() -> None:
    assert run_by("no-such-verb") == []


def test_every_variable_that_a_playbook_or_role_reads_is_known_to_the_plan() -> None:
    """A host whose inventory sets an unknown one is refused."""
    modules = {path.stem for kind in ("modules", "action", "lookup") for path in (REPO / "plugins" / kind).glob("*.py")}
    files = [*REPO.glob("playbooks/*.yml"), *REPO.glob("roles/*/tasks/*.yml"), *REPO.glob("roles/*/defaults/*.yml")]
    read = {name for path in files for name in re.findall(r"(?<![\w./-])anvil_[a-z_]+", path.read_text())}
    assert sorted(read - modules - {*VARIABLES, *OTHER_VARIABLES}) == []
