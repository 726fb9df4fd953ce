"""Adoption of containers started in other ways: host network, --rm, paused, stopped, by other tools; several at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from ansible_collections.anvil.serving.plugins.module_utils.host.listening_ports import find_listener
from bed import Bed, wait_until
from drive import succeed, write_inventory
from serving import HEAVY_GPU, LLAMA, PYTHON_IMAGE, SERVER, Field, actions, scripted

SHELL_SECRET = "sk-aaaabbbbccccddddeeee"
ENV_SECRET = "not-of-any-known-shape"


@pytest.fixture
def trial(field: Field) -> Field:
    for name in ("heavy", "fast"):
        field.edit(name, secrets={}, mounts=(), **scripted(SERVES=name))
    return field


def make_bad(field: Field, name: str = "heavy") -> None:
    field.edit(name, restart="no", **scripted(SERVES=name, LIVES="0"))


def by_hand(bed: Bed, name: str, *options: str, port: int = 30002, verb: str = "run") -> str:
    detach = ["--detach"] if verb == "run" else []
    server = ["--entrypoint", "python3", PYTHON_IMAGE, "-c", SERVER, "--port", str(port)]
    return bed.docker(verb, *detach, "--init", "--name", name, "--env", "SERVES=old", *options, *server)


def state_of(bed: Bed, container: str) -> str:
    return bed.docker("inspect", "--format", "{{.Name}} {{.State.Status}}", container).lstrip("/")


def test_a_port_held_by_the_adopted_container_in_the_host_network_is_not_a_conflict(trial: Field) -> None:
    old = by_hand(trial.bed, "on-host", "--network", "host")
    wait_until("a server that listens", lambda: find_listener(("127.0.0.1", 30002, "tcp")) is not None)
    refused = trial.run(serves=["heavy"])
    assert refused["failed"] and "port 127.0.0.1:30002 is taken" in refused["msg"]
    assert "by container on-host with the host's network (python3, pid" in refused["msg"]
    make_bad(trial)
    failed = trial.run("adopted", serves=["heavy"], containers=["on-host"])
    assert failed["failed"] and "the old container runs again" in failed["msg"]
    assert state_of(trial.bed, old) == "on-host running"
    trial.edit("heavy", **scripted(SERVES="heavy"))
    done = trial.foresee("adopted", serves=["heavy"], containers=["on-host"])
    assert not done["failed"] and list(trial.bed.started()) == ["bed-heavy"]


def test_a_container_that_removes_itself_is_adopted_only_on_confirmation(trial: Field) -> None:
    by_hand(trial.bed, "fleeting", "--rm", "--volume", "/data")
    before = trial.bed.started()
    refused = trial.foresee("adopted", serves=["heavy"], containers=["fleeting"])
    assert refused["failed"] and "fleeting cannot be put back" in refused["msg"] and "lost with it" in refused["msg"]
    assert "-e serves=heavy -e container=fleeting -e confirm=true" in refused["msg"] and trial.bed.started() == before
    done = trial.foresee("adopted", serves=["heavy"], containers=["fleeting"], confirm=True)
    assert not done["failed"] and list(trial.bed.started()) == ["bed-heavy"]


@pytest.mark.parametrize(
    ("verb", "then", "state"), [("run", "pause", "paused"), ("run", "stop", "exited"), ("create", "", "created")]
)
def test_a_container_that_did_not_run_is_restored_in_its_former_state(trial: Field, verb: str, then: str, state: str) -> None:
    old = by_hand(trial.bed, "idle", "--publish", "127.0.0.1:30002:30002", "--restart", "always", verb=verb)
    if then:
        trial.bed.docker(then, "idle")
    make_bad(trial)
    failed = trial.run("adopted", serves=["heavy"], containers=["idle"])
    assert failed["failed"] and f"the old container is back ({state})" in failed["msg"]
    assert state_of(trial.bed, old) == f"idle {state}"
    assert trial.bed.docker("inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", old) == "always"


def test_several_containers_are_adopted_at_once_and_each_is_restored_by_itself(trial: Field) -> None:
    by_hand(trial.bed, "one", "--publish", "127.0.0.1:30002:30002", "--volume", "/data")
    two = by_hand(trial.bed, "two", "--publish", "127.0.0.1:30003:30003", port=30003)
    make_bad(trial, "fast")
    done = trial.run("adopted", containers=["heavy=one", "fast=two"])
    assert done["failed"] and "serve fast: the adoption failed; the old container runs again" in done["msg"]
    assert done["serves"]["heavy"]["ready"] and sorted(trial.bed.started()) == ["bed-heavy", "two"]
    assert state_of(trial.bed, two) == "two running"
    assert "the anonymous volumes of container one stay on the host" in str(done["warnings"])
    trial.edit("fast", **scripted(SERVES="fast"))
    again = trial.run("adopted", containers=["heavy=one", "fast=two"])
    assert actions(again)["heavy"] == ("none", []) and sorted(trial.bed.started()) == ["bed-fast", "bed-heavy"]
    assert "is a serve of this inventory already" in trial.run("adopted", containers=["heavy=bed-fast"])["msg"]


def test_a_container_of_another_tool_is_adopted_only_on_confirmation(trial: Field) -> None:
    by_hand(trial.bed, "task", "--label", "com.docker.swarm.service.name=llm", "--publish", "127.0.0.1:30002:30002")
    refused = trial.run("adopted", serves=["heavy"], containers=["task"])
    assert refused["failed"] and "belongs to Docker Swarm (service llm)" in refused["msg"]
    assert "docker service scale llm=0" in refused["msg"] and list(trial.bed.started()) == ["task"]


def test_no_secret_of_the_old_container_is_shown(trial: Field) -> None:
    line = f'exec python3 -c "$S" --port 30002 --api-key {SHELL_SECRET} --hf-token {ENV_SECRET}'
    options = ["--env", f"S={SERVER}", "--env", f"HF_TOKEN={ENV_SECRET}", "--env", "SERVES=old"]
    options += ["--publish", "127.0.0.1:30002:30002", "--entrypoint", "sh"]
    trial.bed.docker("run", "--detach", "--init", "--name", "shell", *options, PYTHON_IMAGE, "-c", line)
    make_bad(trial)
    predicted = trial.run("adopted", check=True, serves=["heavy"], containers=["shell"])
    failed = trial.run("adopted", serves=["heavy"], containers=["shell"])
    shown = json.dumps([predicted, failed])
    assert failed["failed"] and "--api-key <hidden>" in failed["msg"]
    assert SHELL_SECRET not in shown and ENV_SECRET not in shown


def test_the_playbook_writes_the_inventory_of_a_container_and_then_adopts_by_it(
    clean_bed: Bed, models: Path, tmp_path: Path
) -> None:
    line = f"exec llama-server -m /m/heavy.gguf --alias heavy --host 0.0.0.0 --port 30002 -c 512 --api-key {SHELL_SECRET}"
    options = ["--publish", "127.0.0.1:30002:30002", "--volume", f"{models}:/m:ro", "--gpus", f'"device={HEAVY_GPU}"']
    clean_bed.docker("run", "--detach", "--init", "--name", "old", *options, "--entrypoint", "sh", LLAMA, "-c", line)
    common = {
        "anvil_root": str(tmp_path / "anvil"),
        "anvil_secrets": {"heavy_api_key": f"{{{{ lookup('ansible.builtin.file', '{tmp_path / 'key'}') }}}}"},
        "anvil_gpus": {"big": {"uuid": HEAVY_GPU, "vram_mib": 97887}},
    }
    (tmp_path / "key").write_text("k" * 20)
    inventory = write_inventory(tmp_path, **common)
    words = ["-e", "serves=heavy", "-e", "container=old", "-e", f"output={tmp_path / 'adopted'}"]
    printed = succeed("adopt", inventory, *words, "-e", "write=true")
    (file,) = (tmp_path / "adopted").rglob("heavy.yml")
    assert str(file) in printed and SHELL_SECRET not in printed and SHELL_SECRET not in file.read_text()
    offered = yaml.safe_load(file.read_text())
    inventory = write_inventory(tmp_path, **common, **offered)
    done = succeed("adopt", inventory, *words)
    assert "changed=1" in done and SHELL_SECRET not in done
    assert list(clean_bed.started()) == ["old"] and "changed=0" in succeed("site", inventory)
