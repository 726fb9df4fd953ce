"""Faults on a real engine. After each: a clear error, the other serve untouched, and the next run converges."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bed import Bed, BedError, wait_until
from serving import HEAVY_GPU, PYTHON_IMAGE, UNCHANGED, Field, actions, answer_of, scripted, start_module, wait_for

GOOD: dict[str, Any] = {
    "image": "anvil.local/llama-server:1",
    "entrypoint": (),
    "environment": {"PLAIN": "1"},
    "args": ("-c", "512", "-np", "1", "-t", "1"),
    "restart": "unless-stopped",
    "ready_timeout": 30,
}


def assert_converges(field: Field) -> None:
    answer = field.run()
    assert not answer["failed"], answer["msg"]
    assert {serve["ready"] for serve in answer["serves"].values()} == {True}
    assert not field.run()["changed"]


def refused(field: Field, *words: str, **params: Any) -> dict[str, Any]:
    """Run the module. It must fail with these words, without a traceback, and must not touch fast."""
    fast = field.bed.started().get("bed-fast")
    failed = field.run(**params)
    assert failed["failed"], failed
    for word in words:
        assert word in failed["msg"], failed["msg"]
    assert "Traceback" not in failed["msg"] and field.bed.started().get("bed-fast") == fast
    return failed


# -------------------------------------------------------------------------------------------------- faults of a server

SERVERS: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "exits at once": (scripted(LIVES="0"), "restart_loop", ["the container has exited", "exit code 7", "that was my life"]),
    "exits after 3 s": ({**scripted(LIVES="3", STATUS="503"), "restart": "no"}, "exited", ["exit code 7", "that was my life"]),
    "is killed for memory": ({**scripted(EATS="64"), "restart": "no"}, "oom_killed", ["ran out of memory"]),
    "never answers": ({**scripted(STATUS="mute"), "ready_timeout": 2}, "starting", ["not ready after 2 s", "no answer from"]),
    "loads for ever": ({**scripted(STATUS="503"), "ready_timeout": 2}, "loading", ["not ready after 2 s", "answers 503"]),
    "serves another model": (scripted(SERVES="other"), "wrong_model", ["lists other", "but not heavy"]),
    "wants another key": (scripted(STATUS="401"), "refused", ["answers 401 to the key that api_key names"]),
}


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_that_does_not_become_ready_is_reported(field: Field, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fields, state, words = SERVERS[kind]
    assert not field.run()["failed"]
    field.edit("heavy", **fields)
    if "memory" in kind:
        limit_memory(field, monkeypatch)
    began = time.monotonic()
    failed = refused(field, "serve heavy: not ready: " + state, *words)
    assert failed["serves"]["heavy"]["state"] == state and failed["serves"]["fast"]["ready"] is True
    assert time.monotonic() - began < 12  # immediately if it cannot succeed any more, otherwise at its deadline
    monkeypatch.undo()
    field.edit("heavy", **GOOD)
    assert_converges(field)


def limit_memory(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heavy with a memory limit and without swap, which the inventory cannot express."""
    rendered = field.project()
    heavy = '    container_name: "bed-heavy"\n'
    rendered["compose"] = rendered["compose"].replace(heavy, heavy + "    mem_limit: 32m\n    memswap_limit: 32m\n")
    patch_heavy(field, monkeypatch, rendered, memory_bytes=32 << 20)


def patch_heavy(field: Field, monkeypatch: pytest.MonkeyPatch, rendered: dict[str, Any], **keys: Any) -> None:
    services = json.loads(rendered["services"])
    services["heavy"].update(keys)
    monkeypatch.setattr(field, "project", lambda: {**rendered, "services": services})


def test_a_container_that_never_becomes_healthy_is_reported_at_its_deadline(field: Field) -> None:
    field.edit("heavy", **scripted(STATUS="mute"), ready_timeout=3)
    field.add(healthcheck={"test": ["CMD", "false"], "interval": "500ms", "retries": 1})
    failed = field.run()
    assert failed["failed"] and failed["serves"]["heavy"]["state"] == "unhealthy", failed["msg"]
    assert failed["serves"]["fast"]["ready"] is True
    field.more.clear()
    field.edit("heavy", **GOOD)
    assert_converges(field)


# --------------------------------------------------------------------------------------------------- missing resources


@pytest.fixture
def registry(clean_bed: Bed) -> Iterator[str]:
    """A real registry without images, on an address of the bed's bridge."""
    clean_bed.docker("run", "--detach", "--name", "registry", "anvil.local/registry:2")
    address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    yield clean_bed.docker("inspect", "--format", address, "registry") + ":5000"


def test_an_unknown_image_and_an_unreachable_registry_have_different_errors(field: Field, registry: str) -> None:
    assert not field.run()["failed"]
    field.edit("heavy", image=f"{registry}/llama-server:9")
    refused(field, f"image {registry}/llama-server:9 is not on this host", "the registry has no such image")
    field.bed.docker("stop", "--time", "0", "registry")
    refused(field, f"image {registry}/llama-server:9 is not on this host", "the host cannot reach the registry")
    field.edit("heavy", **GOOD)
    assert_converges(field)


@pytest.mark.parametrize("fault", ["pulled", "unknown"])
def test_a_missing_card_is_refused(field: Field, fault: str) -> None:
    assert not field.run()["failed"]
    gone = HEAVY_GPU if fault == "pulled" else "GPU-99999999-0000-0000-0000-000000000000"
    table = field.bed.gpu_table.read_text()
    if fault == "pulled":
        field.bed.pull_gpu(gone)
    field.edit("heavy", gpu_uuids=(gone,), args=GOOD["args"])
    heavy = field.bed.started()["bed-heavy"]
    refused(field, f"GPU {gone} is not on this host", "the driver lists: ")
    assert field.bed.started()["bed-heavy"] == heavy
    field.foresee()
    field.bed.gpu_table.write_text(table)
    field.edit("heavy", gpu_uuids=(HEAVY_GPU,))
    assert_converges(field)


def test_an_engine_without_the_nvidia_driver_is_reported(field: Field) -> None:
    field.bed.restart_engine(nvidia=False)
    try:
        failed = field.run()
        assert failed["failed"] and "the Docker Engine has no nvidia device driver" in failed["msg"]
        assert "install nvidia-container-toolkit" in failed["msg"]
    finally:
        field.bed.restart_engine()
    assert_converges(field)


def test_a_port_taken_between_check_and_start_is_reported(field: Field) -> None:
    heavy = field.serves.pop("heavy")
    field.run()
    field.serves["heavy"] = heavy
    fast = field.bed.started()["bed-fast"]
    process = start_module(field)
    # The module writes the compose file after it found the ports free, a tenth of a second before docker binds them.
    wait_for(lambda: '"heavy"' in (field.root / "anvil-serves" / "compose.yaml").read_text(), process)
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wait_for(lambda: steal(thief, 30002), process)
        failed = answer_of(process)
    assert failed["failed"] and "serve heavy: port 127.0.0.1:30002 is taken" in failed["msg"], failed["msg"]
    assert "it was free a moment before" in failed["msg"] and field.bed.started()["bed-fast"] == fast
    assert_converges(field)


def steal(thief: socket.socket, port: int) -> bool:
    try:
        thief.bind(("127.0.0.1", port))
        thief.listen()
    except OSError:
        return False
    return True


def test_a_disk_without_room_for_the_compose_file_is_reported_and_nothing_changes(field: Field) -> None:
    field.root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(field.root)], check=True)
    try:
        field.run()
        before, files = field.bed.started(), field.files()
        with (field.root / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(1024))
        field.edit("heavy", args=("-c", "512", "-np", "1", "-t", "1"))
        failed = field.run()
        assert failed["failed"] and "free space on that file system" in failed["msg"], failed
        (field.root / "ballast").unlink()
        assert (field.bed.started(), field.files()) == (before, files)
        assert_converges(field)
    finally:
        subprocess.run(["umount", str(field.root)], check=True)


# ------------------------------------------------------------------------- killed processes, and runs at the same time


def test_an_engine_killed_during_a_bring_up_is_reported_and_the_next_run_converges(field: Field) -> None:
    field.run(serves=["fast"])
    process = start_module(field)
    wait_for(lambda: "bed-heavy" in field.bed.docker("ps", "--all", "--format", "{{.Names}}"), process)
    field.bed.stop_engine(signal.SIGKILL)
    failed = answer_of(process)
    assert failed["failed"] and "Traceback" not in failed["msg"]
    assert "Docker Engine does not answer" in failed["msg"] or "the Docker Engine stopped" in failed["msg"], failed["msg"]
    field.bed.start_engine()
    again = field.run()
    if again["failed"]:  # sometimes the engine keeps the port of a container that it has not started yet
        assert "to free the port: systemctl restart docker" in again["msg"], again["msg"]
        field.bed.restart_engine()
    assert_converges(field)


STATE, RESTARTED = "{{.State.Status}} {{gt .RestartCount 0}}", "running true"


def test_a_process_that_a_killed_engine_started_and_did_not_record_is_replaced(field: Field) -> None:
    assert not field.run()["failed"]
    before = field.bed.started()
    container = before["bed-heavy"].split()[0]
    field.bed.stop_engine(signal.SIGKILL)
    # This is the state after an engine dies between the start of a process and the write of its record.
    record = field.bed.data / "containers" / container / "config.v2.json"
    told = json.loads(record.read_text())
    process = Path("/proc") / str(told["State"]["Pid"])
    assert process.exists()
    told["State"].update({"Running": False, "Pid": 0, "StartedAt": "0001-01-01T00:00:00Z"})
    record.write_text(json.dumps(told))
    field.bed.start_engine()
    # The engine restarts and kills the container repeatedly; each time it runs for two seconds.
    wait_until("a container that runs again", lambda: field.bed.docker("inspect", "--format", STATE, "bed-heavy") == RESTARTED)
    predicted = actions(field.run(check=True))
    assert actions(field.run()) == predicted and predicted["heavy"] == ("recreate", ["killed"])
    assert field.bed.started()["bed-fast"].split()[0] == before["bed-fast"].split()[0]
    assert not process.exists()  # otherwise it would keep the memory of its card
    assert_converges(field)


def names(field: Field) -> str:
    try:
        return field.bed.docker("ps", "--all", "--format", "{{.Names}}={{.State}}")
    except BedError:
        return ""


STEPS: dict[str, Callable[[Field], bool]] = {
    "the lock is held": lambda f: (f.root / "anvil-serves" / ".lock").exists(),
    "the compose file is written": lambda f: (f.root / "anvil-serves" / "compose.yaml").exists(),
    "a secret is written": lambda f: (f.root / "anvil-serves" / "env" / "heavy.env").exists(),
    "a container is created": lambda f: "bed-heavy=created" in names(f) or "bed-fast=created" in names(f),
    "a container runs": lambda f: "=running" in names(f),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_run_after_a_kill_of_the_module_at_each_step_converges(field: Field, step: str) -> None:
    process = start_module(field)
    wait_for(lambda: STEPS[step](field), process)
    os.kill(process.pid, signal.SIGKILL)  # its child docker compose continues, and holds the lock until it ends
    process.wait()
    assert_converges(field)


def test_a_kill_of_the_module_during_a_pull_changes_no_container(field: Field, registry: str) -> None:
    assert not field.run()["failed"]
    before = field.bed.started()
    image = f"{registry}/llama-server:1"
    field.bed.docker("tag", "anvil.local/llama-server:1", image)
    field.bed.docker("push", "--quiet", image)
    field.bed.docker("rmi", image)
    field.bed.docker("pause", "registry")
    field.edit("heavy", image=image)
    process = start_module(field)
    time.sleep(1.5)
    assert process.poll() is None
    process.kill()
    process.wait()
    field.bed.docker("unpause", "registry")
    assert {name: field.bed.started()[name] for name in before} == before
    done = field.foresee()
    assert done["pulled"] == [image] and actions(done) == {"heavy": ("recreate", ["image"]), "fast": UNCHANGED}
    assert not field.run()["changed"]


def test_two_runs_at_the_same_time_converge_to_one_state(field: Field) -> None:
    answers: list[dict[str, Any]] = []
    both = [threading.Thread(target=lambda: answers.append(answer_of(start_module(field)))) for _operator in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert [answer["failed"] for answer in answers] == [False, False], answers
    assert sorted(answer["changed"] for answer in answers) == [False, True]
    assert actions(field.run()) == {"heavy": UNCHANGED, "fast": UNCHANGED}


def test_another_container_with_the_name_of_a_serve_is_not_changed(field: Field) -> None:
    field.run(serves=["fast"])
    field.bed.docker("run", "--detach", "--init", "--name", "bed-heavy", "--entrypoint", "sleep", PYTHON_IMAGE, "600")
    foreign = field.bed.started()["bed-heavy"]
    refused(
        field,
        "the container name bed-heavy is taken",
        "retire it: ansible-playbook playbooks/retire.yml -e containers=bed-heavy",
        "playbooks/adopt.yml -e serves=heavy",
    )
    assert field.bed.started()["bed-heavy"] == foreign
    field.run("absent", containers=["bed-heavy"], confirm=True)
    assert_converges(field)
