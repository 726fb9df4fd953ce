"""Compose files from other projects run on a real engine; a second run changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.compose_interpretation import interpret_file
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.experiment_compose import read_compose_document
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.experiment_options import ExperimentOptions
from bed import Bed
from conftest import REPO
from harness import run_module
from serving import FAST_GPU, LLAMA, PYTHON_IMAGE, SERVER

# One server with every key that is compared or passed on.
WHOLE = """
x-server: &server
  image: IMAGE
  command: --model /models/fast.gguf --alias whole --host 0.0.0.0 --port 8000 -c 512 -np 1 -t 1
  restart: always
services:
  server:
    <<: *server
    hostname: model
    user: "10001:10001"
    read_only: true
    init: true
    working_dir: /tmp
    stop_signal: SIGINT
    stop_grace_period: 1m5s
    shm_size: 128mb
    ulimits: {memlock: 65536, nofile: {soft: 1024, hard: 4096}}
    sysctls: {net.core.somaxconn: 512}
    group_add: ["44"]
    dns: [127.0.0.1]
    tmpfs: [/tmp, "/scratch:size=16m"]
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    mem_limit: 2g
    pids_limit: 200
    environment: {FLAG: true, OFF: off, NUMBER: 1e3, DOLLAR: "a$$b", QUOTED: 'a "b"', EMPTY: ""}
    labels: {traefik.enable: true, rule: "Host(`x`)"}
    logging: {driver: json-file, options: {max-size: 10m, max-file: "2"}}
    extra_hosts: ["host.docker.internal:host-gateway", "other=10.0.0.1"]
    healthcheck: {test: "true", interval: 90s, start_period: 10m}
    ports: ["8000:8000"]
    volumes: ["FOLDER:/models:ro", "data:/data", {type: tmpfs, target: /more}]
    depends_on: {helper: {condition: service_started}}
    runtime: nvidia
  helper:
    image: IMAGE
    entrypoint: ["sleep"]
    command: "600"
    init: true
    networks: [own]
networks: {own: {}}
volumes: {data: {}}
"""


def bring_up(folder: Path, root: Path, bed: Bed, models: Path, **options: Any) -> dict[str, Any]:
    for path in folder.glob("*.yaml"):
        text = path.read_text().replace("/srv/models", str(models))
        path.write_text(text.replace("/model.gguf", "/fast.gguf").replace("/m.gguf", "/fast.gguf"))
    base = build_plan("h", {"anvil_root": str(root), "anvil_gpus": {"small": {"uuid": FAST_GPU, "vram_mib": 32607}}}, {})

    def run() -> dict[str, Any]:
        found = interpret_file(folder / "compose.yaml", lambda _name, _files: {})
        given = {"gpu": "small", "profiles": ("gpu",), "ready_timeout": "30", "vram_mib": "4000", **options}
        project, _notes = read_compose_document(found, ExperimentOptions("trial", **given), base)
        return run_module("anvil_serve", project=project.as_dict(), secrets={}, gpus=[])

    first = run()
    assert not first["failed"], first["msg"]
    assert all(row["ready"] in (True, None) for row in first["serves"].values())
    started = bed.started()
    again = run()
    assert not again["failed"] and not again["changed"], again["serves"]
    assert bed.started() == started
    return first


def lists_models(port: int) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5) as reply:
        return bool(reply.status == 200)


@pytest.mark.parametrize(("layout", "port", "served"), [("05-llama-cpp", 8083, "local"), ("12-profiles", 8050, "m")])
def test_a_public_layout_runs_and_a_second_run_changes_nothing(
    clean_bed: Bed, models: Path, tmp_path: Path, layout: str, port: int, served: str
) -> None:
    folder = tmp_path / "layout"
    shutil.copytree(REPO / "tests" / "layouts" / layout, folder)
    text = (folder / "compose.yaml").read_text()
    for image in ("ghcr.io/ggml-org/llama.cpp:server-cuda", "ghcr.io/ggml-org/llama.cpp:server"):
        text = text.replace(image, LLAMA)
    (folder / "compose.yaml").write_text(text)
    bring_up(folder, tmp_path / "anvil", clean_bed, models, served_name=served)
    assert lists_models(port)


def test_a_compose_file_with_every_key_runs(clean_bed: Bed, models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    folder.mkdir()
    text = WHOLE.replace("IMAGE", LLAMA).replace("FOLDER", str(models))
    (folder / "compose.yaml").write_text(text)
    bring_up(folder, tmp_path / "anvil", clean_bed, models)
    assert lists_models(8000)


def test_the_harness_without_ansible_comes_up_beside_the_inventory(clean_bed: Bed, tmp_path: Path) -> None:
    """A stand-in with vLLM's flags replaces vLLM, which is not in the image."""
    entry = tmp_path / "stand-in.yml"
    entry.write_text(yaml.safe_dump({"services": {"vllm": {"entrypoint": ["python3", "-c", SERVER.replace("$", "$$")]}}}))
    variables = {"MODEL": "org/m", "SERVED_NAME": "trial", "PORT": "30010", "GPU_UUID": FAST_GPU, "IMAGE": PYTHON_IMAGE}
    environment = {**os.environ, **variables, "EXTRA_ARGS": "--max-model-len 512"}
    clean_bed.docker("volume", "create", "vllm-hfcache")
    files = ["--file", str(REPO / "examples" / "experiment" / "docker-compose.yml"), "--file", str(entry)]

    def compose(*words: str) -> None:
        subprocess.run(["docker", "compose", *files, *words], env=environment, check=True, capture_output=True)

    compose("up", "--detach")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not answers(30010):
        time.sleep(0.1)
    assert answers(30010)
    (seen,) = json.loads(clean_bed.docker("inspect", "anvil-trial-vllm-1"))
    assert seen["HostConfig"]["DeviceRequests"][0]["DeviceIDs"] == [FAST_GPU]
    started = clean_bed.started()
    compose("up", "--detach")
    assert clean_bed.started() == started
    compose("down", "--volumes")
    assert "vllm-hfcache" in clean_bed.docker("volume", "ls", "--format", "{{.Name}}").split()


def answers(port: int) -> bool:
    try:
        return lists_models(port)
    except OSError:
        return False
