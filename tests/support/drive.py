"""Run the collection's playbooks as an operator does: ansible-playbook, an inventory, and arguments."""

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
    """Write an inventory of one host, ``box``, which is this machine."""
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


def play(name: str, inventory: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run ``ansible-playbook playbooks/NAME.yml -i INVENTORY ARGUMENTS``; more: additional environment variables."""
    argv = [str(PLAYBOOK), str(REPO / "playbooks" / f"{name}.yml"), "-i", str(inventory), *arguments]
    folder = inventory.parent
    return subprocess.run(
        argv, env=environment(folder, **more), capture_output=True, text=True, check=False, cwd=folder, timeout=300
    )


def succeed(name: str, inventory: Path, *arguments: str, **more: str) -> str:
    """Run a playbook as ``play`` does, assert that it succeeds, and return its output."""
    done = play(name, inventory, *arguments, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
