"""Experiments started by the playbook: they are separate from the inventory's serves, and end on command or on expiry."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path

import pytest
from bed import RTX_5090, RTX_PRO_6000, Bed
from drive import play, succeed, write_inventory

BIG, SMALL = RTX_PRO_6000.uuid, RTX_5090.uuid
SECRET = "an-experiment-s3cret"
SLEEP = ["--init", "--entrypoint", "sleep", "anvil.local/router:0.13.2", "600"]
TRIAL = ["-e", "model=/models/heavy.gguf", "-e", "experiment_name=trial", "-e", "engine=llama_cpp", "-e", "gpu=fast"]
TRIAL += ["-e", "experiment_port=30010", "-e", "vram_mib=4000", "-e", "extra_args='-c 512'", "-e", "served_name=mine"]


@pytest.fixture
def inventory(clean_bed: Bed, models: Path, tmp_path: Path) -> Path:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    return write_inventory(
        tmp_path,
        anvil_root=str(tmp_path / "anvil"),
        anvil_secrets={"key": f"{{{{ lookup('ansible.builtin.file', '{secret}') }}}}"},
        anvil_gpus={"small": {"uuid": SMALL, "vram_mib": 32607, "reserve_mib": 1000}},
        anvil_engines={
            "llama_cpp": {
                "image": "anvil.local/llama-server:1",
                "volumes": [f"{models}:/models:ro"],
                "args": ["-np", "1", "-t", "1"],
                "secrets": {"HIDDEN": "key"},
                "ready_timeout": 30,
            }
        },
        anvil_serves={
            "fast": {"engine": "llama_cpp", "model": "/models/fast.gguf", "port": 30003, "gpus": ["small"], "vram_mib": 9000}
        },
    )


def networks(bed: Bed) -> list[str]:
    return bed.docker("network", "ls", "--format", "{{.Name}}").split()


def served(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5) as reply:
        return str(json.load(reply)["data"][0]["id"])


def test_an_experiment_runs_beside_the_inventory_and_is_removed_by_one_command(clean_bed: Bed, inventory: Path) -> None:
    succeed("site", inventory)
    before = clean_bed.started()
    refused = play("experiment", inventory, *TRIAL, "-e", "vram_mib=23000")
    assert refused.returncode and "32607 - 1000 reserve = 31607 MiB: 393 MiB too much" in refused.stdout + refused.stderr
    predicted = succeed("experiment", inventory, *TRIAL, "-e", "ttl=2h", "--check")
    assert "changed=1" in predicted and clean_bed.started() == before

    printed = succeed("experiment", inventory, *TRIAL, "-e", "ttl=2h")
    assert "trial answers at http://127.0.0.1:30010/v1" in printed and "changed=1" in printed and SECRET not in printed
    assert served(30010) == "mine"
    first = clean_bed.started()
    assert first["anvil-fast"] == before["anvil-fast"] and set(first) == {"anvil-fast", "anvil-experiment-trial"}
    made = json.loads(clean_bed.docker("inspect", "anvil-experiment-trial"))[0]
    assert made["HostConfig"]["RestartPolicy"]["Name"] == "no"
    assert made["HostConfig"]["DeviceRequests"][0]["DeviceIDs"] == [SMALL]
    assert list(made["NetworkSettings"]["Networks"]) == ["anvil-experiments"]
    labels = made["Config"]["Labels"]
    assert (labels["anvil.serving.vram_mib"], labels["anvil.serving.ttl"]) == ("4000", "7200")

    assert "changed=0" in succeed("experiment", inventory, *TRIAL, "-e", "ttl=2h")
    assert clean_bed.started() == first
    told = succeed("status", inventory)
    assert "trial (experiment)  ready" in told and "trial: expires in 1 h 59 min" in told

    folder = Path(inventory.parent / "anvil" / "anvil-experiment-trial")
    assert (folder / "env" / "trial.env").exists()
    down = ["-e", "experiment_name=trial", "-e", "state=absent"]
    clean_bed.docker("run", "--detach", "--name", "guest", "--network", "anvil-experiments", *SLEEP)
    assert "changed=1" in succeed("experiment", inventory, *down)
    clean_bed.docker("rm", "--force", "guest")
    assert clean_bed.started() == before and not folder.exists()
    assert "anvil-experiments" in networks(clean_bed)  # another container still uses it
    assert "changed=1" in succeed("experiment", inventory, *down)
    assert "anvil-experiments" not in networks(clean_bed)
    assert "changed=0" in succeed("experiment", inventory, *down)


def test_ports_of_others_and_bad_arguments_are_refused_before_anything_changes(clean_bed: Bed, inventory: Path) -> None:
    clean_bed.docker("run", "--detach", "--name", "squatter", "--publish", "127.0.0.1:30010:1", *SLEEP)
    before = clean_bed.started()
    for words, said in (
        (["-e", "experiment_port=30003"], "the inventory uses port 30003 for serve fast"),
        ([], "port 127.0.0.1:30010 is taken"),
        (["-e", "extra_args=-c 512"], "quote the value twice"),
    ):
        failed = play("experiment", inventory, *TRIAL, *words)
        assert failed.returncode and said in failed.stdout + failed.stderr, failed.stdout + failed.stderr
    assert clean_bed.started() == before


def test_the_next_status_retires_and_reports_an_expired_experiment(clean_bed: Bed, inventory: Path, models: Path) -> None:
    compose = inventory.parent / "other.yaml"
    compose.write_text(
        f"""services:
  model:
    image: anvil.local/llama-server:1
    command: --model /models/fast.gguf --alias other --host 0.0.0.0 --port 8000 -c 512 -np 1 -t 1
    ports: ["127.0.0.1:30011:8000"]
    volumes: ["{models}:/models:ro"]
    environment: {{FLAG: true, OFF: off, NUMBER: 1e3}}
    x-anvil: {{secrets: {{HIDDEN: key}}}}
    deploy: {{resources: {{reservations: {{devices: [{{driver: nvidia, count: 1, capabilities: [gpu]}}]}}}}}}
"""
    )
    succeed("experiment", inventory, "-e", f"compose={compose}", "-e", "ttl=3s", "-e", f"gpu={BIG}", "-e", "vram_mib=4000")
    made = json.loads(clean_bed.docker("inspect", "anvil-experiment-other"))[0]
    assert made["HostConfig"]["DeviceRequests"][0]["DeviceIDs"] == [BIG]  # the card is not in the inventory; the driver lists it
    assert served(30011) == "other"
    environment = json.loads(clean_bed.docker("inspect", "--format", "{{json .Config.Env}}", "anvil-experiment-other"))
    assert {"FLAG=true", "OFF=off", "NUMBER=1000"} <= set(environment)
    assert f"HIDDEN={SECRET}" in clean_bed.docker("inspect", "--format", "{{json .Config.Env}}", "anvil-experiment-other")
    assert SECRET not in clean_bed.docker("inspect", "--format", "{{json .Config.Labels}}", "anvil-experiment-other")
    time.sleep(3)
    assert "retired: experiment other, its time to live was over" in succeed("status", inventory)
    assert clean_bed.started() == {} and not (inventory.parent / "anvil" / "anvil-experiment-other").exists()
    assert "anvil-experiments" not in networks(clean_bed)


def test_the_next_site_retires_an_expired_experiment_before_a_serve_needs_its_memory(clean_bed: Bed, inventory: Path) -> None:
    succeed("experiment", inventory, *TRIAL, "-e", "ttl=1s", "-e", "vram_mib=27000")
    time.sleep(1)
    printed = succeed("site", inventory)  # the serve needs 9,000 MiB of a card that has 31,607
    assert set(clean_bed.started()) == {"anvil-fast"} and "failed=0" in printed
    assert not (inventory.parent / "anvil" / "anvil-experiment-trial").exists()
    assert "anvil-experiments" not in networks(clean_bed)
    assert "changed=0" in succeed("site", inventory)


def test_a_compose_file_with_forbidden_settings_is_refused_with_every_reason(clean_bed: Bed, inventory: Path) -> None:
    compose = inventory.parent / "bad.yaml"
    compose.write_text("services: {x: {image: i, privileged: true, pid: host, ports: ['0.0.0.0:80:80']}}")
    failed = play("experiment", inventory, "-e", f"compose={compose}")
    printed = failed.stdout + failed.stderr
    assert failed.returncode and all(word in printed for word in ("privileged", "pid: host", "published on 0.0.0.0"))
    assert clean_bed.started() == {}
