"""A long converge prints its progress: every change on a terminal, rarely in a log, nothing if progress is turned off."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from bed import Bed
from conftest import REPO
from drive import PLAYBOOK, environment, play, write_inventory
from hub import Hub

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
            "night": {"engine": "llama_cpp", "model": "/models/fast.gguf", "port": 30004, "residency": "on_demand"},
        },
    )


def on_terminal(inventory: Path, *words: str, playbook: Path = REPO / "playbooks" / "site.yml") -> list[str]:
    """Run a playbook on a terminal and return its progress lines."""
    outer, inner = pty.openpty()
    argv = [str(PLAYBOOK), str(playbook), "-i", str(inventory), *words]
    plain = environment(inventory.parent, ANSIBLE_NOCOLOR="1", ANSIBLE_STDOUT_CALLBACK="anvil.serving.calm")
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
    assert running.wait(90) == 0, printed.decode()
    assert SECRET.encode() not in printed
    return [line for line in printed.decode().splitlines() if line.startswith("[box] ")]


def test_a_terminal_shows_each_change_of_each_serve_and_nothing_in_an_unchanged_run(inventory: Path) -> None:
    told = on_terminal(inventory)
    heavy = [line for line in told if line.startswith("[box] heavy: ")]
    assert any("starting" in line for line in heavy) and heavy[-1].startswith("[box] heavy: ready"), told
    assert any(line.startswith("[box] fast: ready") for line in told)
    assert not any("night" in line for line in told)  # a serve on demand is not started
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


def one_task(folder: Path, module: str, options: dict[str, Any]) -> list[str]:
    """Run one task on a terminal and return its progress lines."""
    playbook = [{"hosts": "all", "gather_facts": False, "tasks": [{f"anvil.serving.{module}": options}]}]
    (folder / "play.yml").write_text(json.dumps(playbook))
    return on_terminal(write_inventory(folder), playbook=folder / "play.yml")


def left_behind(name: str) -> list[str]:
    """The progress files that mention this name; files of other runs on this machine are ignored."""
    found = []
    for path in Path("/tmp").glob(".anvil-progress-*"):
        with contextlib.suppress(FileNotFoundError):
            found += [str(path)] if name in path.read_text() else []
    return found


def test_a_long_download_prints_its_progress(clean_bed: Bed, tmp_path: Path) -> None:
    hub = Hub()
    try:
        hub.add("org/told", {"model.safetensors": os.urandom(24 << 20)})
        hub.faults.stall = threading.Event()
        stall = hub.faults.stall

        def release() -> None:
            """Continue the transfer some seconds after its request, however slowly Ansible starts."""
            while not hub.fetched("model.safetensors"):
                time.sleep(0.1)
            stall.wait(5.0)
            stall.set()

        threading.Thread(target=release, daemon=True).start()
        pull = {"repo": "org/told", "folder": str(tmp_path / "models"), "endpoint": hub.endpoint, "reserve_mib": 0}
        told = one_task(tmp_path, "anvil_model", pull)
        assert told and told[-1].startswith("[box] org/told: ") and " of 24.0 MiB, " in told[-1] and "left" in told[-1], told
        assert one_task(tmp_path, "anvil_model", pull) == []
    finally:
        hub.close()
    assert left_behind("org/told") == []


def test_a_long_build_prints_its_steps_and_no_secret(clean_bed: Bed, tmp_path: Path) -> None:
    image = {
        "name": "anvil.test/progress/image",
        "stack": "vllm",
        "base": "anvil.local/dockerhost:1",
        "network": "none",
        "dockerfile": "ARG BASE\nFROM ${BASE}\nRUN sleep 6\n"
        f"RUN --mount=type=secret,id=hf_token echo {SECRET} {time.time_ns()} && sleep 3\n",
        "build_secrets": {"hf_token": SECRET},
    }
    told = one_task(tmp_path, "anvil_image", image)
    assert any(" stage-0 2/3: RUN sleep 6" in line for line in told), told
    assert all(line.startswith("[box] anvil.test/progress/image:vllm-") for line in told)
    assert one_task(tmp_path, "anvil_image", image) == []
    clean_bed.docker("rmi", "--force", *clean_bed.docker("images", "--quiet", "anvil.test/progress/image").split())
    assert left_behind("anvil.test/progress/image") == []


def test_progress_is_printed_with_become_too(inventory: Path) -> None:
    told = on_terminal(inventory, "--become", "--become-method", "su")
    assert any(line.startswith("[box] heavy: starting") for line in told), told
    assert any(line.startswith("[box] heavy: ready") for line in told)


@pytest.fixture
def distant(clean_bed: Bed, tmp_path: Path) -> str:
    """An image that is only in a registry: llama-server with 60 MB of incompressible data."""
    clean_bed.docker("run", "--detach", "--name", "registry", "anvil.local/registry:2")
    address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    name = clean_bed.docker("inspect", "--format", address, "registry") + ":5000/llama-server:big"
    (tmp_path / "ballast").write_bytes(os.urandom(60_000_000))
    clean_bed.docker("create", "--name", "filled", "anvil.local/llama-server:1")
    clean_bed.docker("cp", str(tmp_path / "ballast"), "filled:/ballast")
    clean_bed.docker("commit", "filled", name)
    clean_bed.docker("rm", "filled")
    clean_bed.docker("push", "--quiet", name)
    clean_bed.docker("rmi", name)
    return name


def test_an_image_pull_prints_layers_and_bytes(clean_bed: Bed, inventory: Path, distant: str) -> None:
    whole = json.loads(inventory.read_text())
    whole["all"]["hosts"]["box"]["anvil_serves"]["heavy"].update(image=distant, entrypoint=["llama-server"])
    inventory.write_text(json.dumps(whole))
    pausing = threading.Thread(target=hold_up, args=(clean_bed, 9.0))
    pausing.start()
    told = on_terminal(inventory)
    pausing.join(60)
    heavy = [line.removeprefix("[box] heavy: ") for line in told if line.startswith("[box] heavy: ")]
    pulling = [line for line in heavy if line.startswith(f"pulling {distant}, ")]
    assert pulling and all(re.search(r", \d+ of \d+ layers, \d+(\.\d)? [kM]B \(\d+ s\)$", line) for line in pulling), told
    assert heavy[-1].startswith("ready") and "[box] fast: waiting for images (2 s)" in told


def hold_up(bed: Bed, seconds: float) -> None:
    """Pause the registry when the pull begins: it runs on this machine, and the pull would end before it can be observed."""
    seen = {**os.environ, **bed.environment}
    follow = ["docker", "logs", "--follow", "registry"]
    with subprocess.Popen(follow, env=seen, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as log:
        assert log.stdout is not None
        asked = any("GET /v2/llama-server/blobs" in line for line in log.stdout)
        log.kill()
    assert asked
    bed.docker("pause", "registry")
    time.sleep(seconds)
    bed.docker("unpause", "registry")
