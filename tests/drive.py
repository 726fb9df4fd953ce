"""Run the collection's playbooks as an operator does: ansible-playbook, an inventory folder, the words he types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import COLLECTIONS, REPO

PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")


def write_inventory(folder: Path, **variables: Any) -> Path:
    """An inventory of one host, ``box``, which is this machine."""
    host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, **variables}
    path = folder / "inventory.json"
    path.write_text(json.dumps({"all": {"hosts": {"box": host}}}))
    return path


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "HOME": str(folder),
        "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        **more,
    }


def play(name: str, inventory: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """``ansible-playbook playbooks/NAME.yml -i inventory WORDS``; what it printed and its exit code."""
    argv = [str(PLAYBOOK), str(REPO / "playbooks" / f"{name}.yml"), "-i", str(inventory), *words]
    folder = inventory.parent
    return subprocess.run(
        argv, env=environment(folder, **more), capture_output=True, text=True, check=False, cwd=folder, timeout=300
    )


def succeed(name: str, inventory: Path, *words: str, **more: str) -> str:
    """As ``play``, for a playbook that must work; returns what it printed."""
    done = play(name, inventory, *words, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
