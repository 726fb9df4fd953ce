"""A long converge tells how far it is: every change on a terminal, seldom in a log, nothing when asked to be quiet."""

from __future__ import annotations

import os
import pty
import subprocess
import time
from pathlib import Path

import pytest
from bed import Bed
from conftest import REPO
from drive import PLAYBOOK, environment, play, write_inventory

SECRET = "a-progress-s3cret"


@pytest.fixture
def inventory(clean_bed: Bed, models: Path, tmp_path: Path) -> Path:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    slow = ["/bin/sh", "-c", f'echo {SECRET}; sleep "$0"; exec llama-server "$@"']
    return write_inventory(
        tmp_path,
        anvil_root=str(tmp_path / "anvil"),
        anvil_secrets={"key": f"{{{{ lookup('ansible.builtin.file', '{secret}') }}}}"},
        anvil_engines={
            "llama_cpp": {
                "image": "anvil.local/llama-server:1",
                "volumes": [f"{models}:/models:ro"],
                "args": ["-c", "512", "-np", "1", "-t", "1"],
                "secrets": {"HIDDEN": "key"},
                "ready_timeout": 30,
            }
        },
        anvil_serves={
            "heavy": {"engine": "llama_cpp", "model": "/models/heavy.gguf", "port": 30002, "entrypoint": [*slow, "4"]},
            "fast": {"engine": "llama_cpp", "model": "/models/fast.gguf", "port": 30003, "entrypoint": [*slow, "1"]},
        },
    )


def on_terminal(inventory: Path) -> list[str]:
    """What the site playbook prints on a terminal."""
    outer, inner = pty.openpty()
    argv = [str(PLAYBOOK), str(REPO / "playbooks" / "site.yml"), "-i", str(inventory)]
    plain = environment(inventory.parent, ANSIBLE_NOCOLOR="1")
    running = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=inner, stderr=inner, env=plain, cwd=inventory.parent)
    os.close(inner)
    printed = b""
    while True:
        try:
            more = os.read(outer, 65536)
        except OSError:
            break
        if not more:
            break
        printed += more
    os.close(outer)
    assert running.wait(60) == 0, printed.decode()
    assert SECRET.encode() not in printed
    return [line for line in printed.decode().splitlines() if line.startswith("[box] ")]


def test_a_terminal_sees_each_change_of_each_serve_and_a_run_with_nothing_to_do_is_silent(inventory: Path) -> None:
    told = on_terminal(inventory)
    heavy = [line for line in told if line.startswith("[box] heavy: ")]
    assert any("starting" in line for line in heavy) and heavy[-1].startswith("[box] heavy: ready"), told
    assert any(line.startswith("[box] fast: ready") for line in told)
    assert len(told) == len(set(told))
    assert on_terminal(inventory) == []
    assert list((inventory.parent / "anvil").rglob(".progress*")) == []


@pytest.mark.parametrize("word", ["yes", "no"])
def test_a_log_gets_one_line_in_ten_seconds_or_none(inventory: Path, word: str) -> None:
    began = time.monotonic()
    done = play("site", inventory, ANVIL_PROGRESS=word)
    assert done.returncode == 0, done.stdout
    told = [line for line in done.stdout.splitlines() if line.startswith("[box] ")]
    most = 1 + int((time.monotonic() - began) / 10)
    assert (1 <= len(told) <= most if word == "yes" else told == []) and SECRET not in done.stdout + done.stderr
