# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What real runs of ansible-playbook print with the callback anvil.serving.calm, compared as whole texts.

``ANVIL_GOLDEN=write pytest tests/integration/site/test_screen.py`` writes the texts again.
"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import COLLECTIONS, REPO

DATA = Path(__file__).with_name("screen")
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
SECRET = "s3cret-of-the-tests"


class Operator:
    """A folder to type commands in, with an inventory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for path in DATA.glob("*.yml"):
            (folder / path.name).symlink_to(path)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "NO_COLOR"))},
            "HOME": str(folder),
            "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "ANSIBLE_LIBRARY": str(DATA / "library"),
            "ANSIBLE_DEPRECATION_WARNINGS": "true",
            "ANSIBLE_FORKS": "1",
            "PATH": f"{PLAYBOOK.parent}:{os.environ['PATH']}",
            "TERM": "xterm",
            "COLUMNS": "80",
        }

    def write_inventory(self, **hosts: dict[str, Any]) -> None:
        """One that is read as inventory.json; a host without variables is this machine."""
        here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        whole = {"all": {"hosts": {name: {**here, **variables} for name, variables in hosts.items()}}}
        (self.folder / "inventory.json").write_text(json.dumps(whole))

    def run(self, *words: str, **more: str) -> tuple[int, str]:
        """The exit code and all that was printed, where standard output is no terminal."""
        argv = [str(PLAYBOOK), *words, "-i", "inventory.json"]
        done = subprocess.run(
            argv, env={**self.environment, **more}, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        return done.returncode, self.clean(done.stdout)

    def run_on_terminal(self, *words: str, **more: str) -> str:
        outer, inner = pty.openpty()
        argv = [str(PLAYBOOK), *words, "-i", "inventory.json"]
        running = subprocess.Popen(
            argv, env={**self.environment, **more}, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=inner, stderr=inner
        )
        os.close(inner)
        printed = b""
        while True:
            try:
                more_of_it = os.read(outer, 65536)
            except OSError:
                break
            printed += more_of_it
            if not more_of_it:
                break
        os.close(outer)
        running.wait()
        return self.clean(printed.decode().replace("\r\n", "\n"))

    def clean(self, text: str) -> str:
        newer = "The command exited with a non-zero return code."
        return text.replace(str(self.folder), "FOLDER").replace(newer, "non-zero return code")


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path)


def compare(name: str, text: str) -> None:
    golden = DATA / f"{name}.txt"
    if os.environ.get("ANVIL_GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.fixture
def fleet(operator: Operator) -> Operator:
    """Two hosts, and a third that no connection reaches."""
    ssh = operator.folder / "ssh"
    ssh.write_text("#!/bin/sh\necho 'ssh: connect to host 192.0.2.1 port 22: No route to host' >&2\nexit 255\n")
    ssh.chmod(0o755)
    gone = {"ansible_connection": "ssh", "ansible_host": "192.0.2.1", "ansible_ssh_executable": str(ssh)}
    operator.write_inventory(one={}, three=gone, two={})
    return operator


def test_every_kind_of_event(fleet: Operator) -> None:
    code, printed = fleet.run("events.yml", "-e", f"token={SECRET}", "-e", "serves=heavy")
    assert code in (2, 4) and SECRET not in printed and "Traceback" not in printed
    compare("events", printed)
    plain = fleet.run_on_terminal("events.yml", "-e", f"token={SECRET}", "-e", "serves=heavy", NO_COLOR="1")
    assert plain == printed


def test_with_v_the_results_are_shown_as_a_whole_but_for_secrets(fleet: Operator) -> None:
    code, printed = fleet.run("events.yml", "-v")
    assert code in (2, 4) and SECRET not in printed
    for words in ("ok: Quiet", "skipped: Skipped", "included FOLDER/included.yml for one, two, three", "ansible_facts:"):
        assert words in printed or words.replace("one, two, three", "one, three, two") in printed, printed


def test_a_check_a_first_run_a_second_and_its_colours(operator: Operator) -> None:
    operator.write_inventory(one={}, two={})
    words = ("site.yml", "-e", f"folder={operator.folder}")
    code, printed = operator.run(*words, "-CD")
    assert code == 0 and not (operator.folder / "one").exists()
    compare("check", printed)
    coloured = operator.run_on_terminal(*words)
    assert coloured.count("\x1b[") == 8, coloured  # on and off, of two changes and two lines of the summary
    (operator.folder / "one").unlink()
    (operator.folder / "two").unlink()
    code, printed = operator.run(*words)
    assert code == 0
    compare("first", printed)
    code, printed = operator.run(*words)
    assert code == 0
    compare("second", printed)
    code, printed = operator.run(*words, ANVIL_NEXT_COMMAND="no")
    assert code == 0 and printed.endswith("\none: nothing to do\ntwo: nothing to do\n")


def test_a_mistake_in_one_inventory_stops_the_other_host_and_says_what_to_do(operator: Operator) -> None:
    operator.write_inventory(bad={"anvil_servs": {}}, good={})
    code, printed = operator.run("site.yml", "-l", "all", "-e", f"folder={operator.folder}")
    assert code == 2 and not (operator.folder / "good").exists()
    compare("mistake", printed)


def test_no_host_matches(operator: Operator) -> None:
    operator.write_inventory(one={})
    code, printed = operator.run("status.yml", "-l", "one,!one")
    assert "Traceback" not in printed and "Callback dispatch" not in printed, printed
    code, printed = operator.run("status.yml")
    assert code == 0 and printed == "Nothing to see\n\n", printed


@pytest.mark.parametrize("name", ["default", "ansible.builtin.default"])
def test_the_default_callback_works_as_ever(operator: Operator, name: str) -> None:
    operator.write_inventory(one={})
    code, printed = operator.run("site.yml", "-e", f"folder={operator.folder}", ANSIBLE_STDOUT_CALLBACK=name)
    assert code == 0
    assert "TASK [Write it]" in printed and "PLAY RECAP" in printed and "changed=1" in printed and "nothing to do" not in printed


def test_tasks_can_be_listed(operator: Operator) -> None:
    operator.write_inventory(one={})
    code, printed = operator.run("site.yml", "--list-tasks")
    assert code == 0 and "Write it" in printed
