"""A secret is shown on the terminal, and is in neither the output nor the log; without a terminal it is not shown."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import COLLECTIONS, REPO

pytestmark = pytest.mark.slow

SECRET = "v3ry-s3cret-t0ken"
PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  tasks:
    - anvil.serving.anvil_reveal: {name: the token, secret: "{{ lookup('ansible.builtin.env', 'HIDDEN') }}"}
"""


@pytest.fixture
def command(tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    playbook = tmp_path / "reveal.yml"
    playbook.write_text(PLAYBOOK)
    environment = {
        **os.environ,
        "HIDDEN": SECRET,
        "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_LOG_PATH": str(tmp_path / "log"),
    }
    return [str(Path(sys.executable).with_name("ansible-playbook")), "-vvvv", str(playbook)], environment


def test_it_is_on_the_terminal_and_nowhere_else(command: tuple[list[str], dict[str, str]], tmp_path: Path) -> None:
    argv, environment = command
    output = tmp_path / "output"
    child, terminal = pty.fork()
    if child == 0:
        with output.open("w") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        os.execve(argv[0], argv, environment)
    seen = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the child has ended
            break
        seen += piece
    _pid, status = os.waitpid(child, 0)
    assert status == 0, output.read_text()
    assert f"the token: {SECRET}" in seen.decode()
    assert "ok=1" in output.read_text()
    assert SECRET not in output.read_text() and SECRET not in (tmp_path / "log").read_text()


def test_without_a_terminal_it_is_refused(command: tuple[list[str], dict[str, str]], tmp_path: Path) -> None:
    argv, environment = command
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, start_new_session=True)
    assert done.returncode == 2 and "There is no terminal" in done.stdout, done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr + (tmp_path / "log").read_text()
