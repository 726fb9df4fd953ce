# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""measure.yml measures two real llama-servers, one of them slowed, through real routers with the real load generator."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from bed import Bed, wait_until
from conftest import COLLECTIONS, REPO
from routersite import spawn_module

TOKEN = "t0ken-of-the-router"
SETUP = """
- hosts: all
  gather_facts: false
  tasks:
    - anvil.serving.anvil_plan:
      register: anvil
    - ansible.builtin.include_role: {name: anvil.serving.router}
"""
IMAGE, LLAMA = "anvil.local/aiperf:1", "anvil.local/llama-server:1"
# Prompts of 64 tokens: the tiny model has a token for each byte.
BENCHMARK = ("-e", "evaluate=benchmark", "-e", "input_tokens=64")
QUICK = ("-e", f"load_image={IMAGE}", "-e", "requests=4", "-e", "concurrency=2", "-e", "output_tokens=16")
SERVE = {"engine": "llama_cpp", "image": LLAMA, "model": "/m", "args": ["-c", "8192"]}
PORTS = {"heavy": 9001, "fast": 9002}


@dataclass
class Operator:
    """An operator who runs playbooks in a folder of their own."""

    bed: Bed
    folder: Path

    def attempt(self, name: str, *more: str) -> subprocess.CompletedProcess[str]:
        """Run a playbook and check that its output does not contain the token."""
        path = self.folder / "setup.yml" if name == "setup" else REPO / f"playbooks/{name}.yml"
        program = Path(sys.executable).with_name("ansible-playbook")
        environment = {
            **os.environ,
            "PWD": str(self.folder),
            "ROUTER_TOKEN": TOKEN,
            "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        }
        argv = [str(program), str(path), "-i", str(self.folder / "hosts.yml"), "--limit", "here", *more]
        done = subprocess.run(argv, env=environment, cwd=self.folder, capture_output=True, text=True, check=False)
        assert TOKEN not in done.stdout + done.stderr
        return done

    def play(self, name: str, *more: str) -> str:
        """Run a playbook, require that it succeeds, and return its output."""
        done = self.attempt(name, *more)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        return done.stdout

    def names(self) -> list[str]:
        return self.bed.docker("ps", "--all", "--format", "{{.Names}}").split()


def start_serve(bed: Bed, folder: Path, tier: str, *more: str) -> None:
    models = (folder / "models").resolve()
    cpus = ["--cpus", "0.02"] if tier == "heavy" else []
    run = ["run", "-d", "--name", f"measured-{tier}", "--network", "anvil", *cpus, "-v", f"{models}:/models:ro", LLAMA]
    start = ["-m", f"/models/{tier}.gguf", "--alias", tier, "--host", "0.0.0.0", "--port", str(PORTS[tier]), "-c", "8192"]
    bed.docker(*run, *start, "-np", "2", *more)


@pytest.fixture(scope="module")
def operator(bed: Bed, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("measuring")
    folder.chmod(0o755)
    serves = {tier: {**SERVE, "served_name": tier, "port": port, "container": f"measured-{tier}"} for tier, port in PORTS.items()}
    variables = {
        "anvil_root": str(folder / "anvil"),
        "anvil_secrets": {"router_token": "{{ lookup('ansible.builtin.env', 'ROUTER_TOKEN') }}"},
        "anvil_serves": serves,
        "anvil_router": {"image": "{{ router_image }}", "publish": "127.0.0.1:8124"},
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
    }
    folder.joinpath("hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"here": {}, "there": {}}, "vars": variables}}))
    folder.joinpath("setup.yml").write_text(SETUP)
    bed.start_engine()
    bed.clear()
    bed.docker("network", "create", "anvil")
    folder.joinpath("models").symlink_to(models)
    for tier in PORTS:
        start_serve(bed, folder, tier)
    yield Operator(bed, folder)
    bed.clear()


@pytest.mark.parametrize("version", ["2.0.2", "0.13.2"])
def test_the_gate_fails_for_the_slowed_tier_and_passes_for_the_other(operator: Operator, version: str) -> None:
    router = ("-e", f"router_image=anvil.local/router:{version}", "-e", "router_verify=false")
    operator.play("setup", *router)
    limits = {"ttft_p95_s": 1.5, "error_rate_max": 0, "benchmark_ttft_p95_s": 5, "benchmark_tokens_per_second_min": 0.1}
    (operator.folder / "slo.yaml").write_text(yaml.safe_dump({"tiers": {"fast": limits}}))
    fast = operator.play("measure", *router, *QUICK, *BENCHMARK, "-e", "tiers=fast", "-e", "gate=slo.yaml")
    assert "gate: 4 of 4 limits hold" in fast and "benchmark of fast: 1 of 1 checks pass (ttft_p50_s" in fast, fast[-3000:]
    if version == "0.13.2":
        return
    (operator.folder / "slo.yaml").write_text(yaml.safe_dump({"default": {"ttft_p95_s": 1.5}}))
    done = operator.attempt("measure", *router, *QUICK, "-e", "tiers=heavy", "-e", "gate=slo.yaml")
    assert done.returncode == 2 and "heavy, concurrency 2: ttft_p95_s is" in done.stdout, done.stdout[-3000:]
    (host,) = json.loads((operator.folder / "measured/report.json").read_text())
    (load,) = host["loads"]
    assert (load["tier"], load["requests"], load["errors"]) == ("heavy", 4, 0) and load["ttft_p95_s"] > 1.5
    assert load["tokens_per_second"] > 0 and host["serves"]["heavy"]["image"].startswith("sha256:")
    assert "<svg" in (operator.folder / "measured/report.html").read_text()
    assert not [name for name in operator.names() if "measure-" in name]


def test_each_host_of_a_fleet_has_a_report_and_replicas_are_measured(operator: Operator) -> None:
    """Both hosts are this one: what differs between them is their name."""
    given = {"anvil_router": {"image": "anvil.local/router:2.0.2", "publish": "127.0.0.1:8124", "replicas": 2}}
    router = ("-e", json.dumps(given), "-e", "router_verify=false")
    operator.play("setup", *router)
    (operator.folder / "slo.yaml").write_text(yaml.safe_dump({"default": {"benchmark_latency_p95_s": 0.001}}))
    only = ("-e", "tiers=fast", "-e", "load=false", "-e", "requests=2", "-e", "output_tokens=8")
    done = operator.attempt("measure", *router, *BENCHMARK, *only, "-e", "gate=slo.yaml", "--limit", "all")
    for host in ("here", "there"):
        assert done.returncode == 2 and f"{host}: fast: benchmark_latency_p95_s is" in done.stdout, done.stdout[-3000:]
        (own,) = json.loads((operator.folder / f"measured/{host}/report.json").read_text())
        (benchmark,) = own["evaluations"]
        assert own["host"] == host and benchmark["passed"] and benchmark["evidence"]["completed"] == 2
    assert len(json.loads((operator.folder / "measured/report.json").read_text())) == 2
    operator.bed.docker("rm", "--force", "anvil-router-1", "anvil-router-2", "anvil-router-edge")


# Stands in for the program `claude`, the only judge that the image knows, which needs an account: a real llama-server grades. A
# tiny model grades only under a schema that leaves it no choice; without one it answers with its phrase, which is no grade.
DIMENSIONS = (
    "decomposition_granularity",
    "requirement_coverage",
    "dependency_correctness",
    "acceptance_verifiability",
    "faithfulness",
)
JUDGE = """#!/usr/bin/env python3
import json, os, sys, urllib.request
body = {"model": "fast", "max_tokens": 400, "messages": [{"role": "user", "content": sys.stdin.read()[:2000]}]}
if os.environ.get("SCHEMA"):
    schema = {"name": "grade", "schema": json.loads(os.environ["SCHEMA"])}
    body["response_format"] = {"type": "json_schema", "json_schema": schema}
with urllib.request.urlopen("http://measured-fast:9002/v1/chat/completions", json.dumps(body).encode(), 120) as answer:
    print(json.dumps({"result": json.load(answer)["choices"][0]["message"]["content"]}))
"""


def fixed(**values: object) -> dict[str, object]:
    """A schema of an object with these values."""
    properties = {name: value if isinstance(value, dict) else {"const": value} for name, value in values.items()}
    return {"type": "object", "properties": properties, "required": list(values), "additionalProperties": False}


SCHEMA = json.dumps(fixed(scores=fixed(**dict.fromkeys(DIMENSIONS, 5)), total=25, notes="x"))
GRADES = ("-e", json.dumps({"anvil_judge_environment": {"SCHEMA": SCHEMA}}))


def test_a_measured_profile_is_compared_promoted_and_stale_once_its_tier_changes(operator: Operator) -> None:
    bed, image = operator.bed, "anvil.local/router:0.13.2-judge"
    judge = operator.folder / "claude"
    judge.write_text(JUDGE)
    judge.chmod(0o755)
    bed.docker("create", "--name", "judge", "anvil.local/router:0.13.2")
    bed.docker("cp", str(judge), "judge:/usr/local/bin/claude")
    bed.docker("commit", "judge", image)
    bed.docker("rm", "judge")
    prompts = operator.folder / "data/2026-07-04-planning/prompts"
    prompts.mkdir(parents=True)
    prompts.joinpath("1.txt").write_text("Plan a small web shop.")
    router = ("-e", f"router_image={image}", "-e", "router_verify=false")
    operator.play("setup", *router)
    nonsense = ("-e", "load=false", "-e", "evaluate=calibrate", "-e", "eval_data=data")
    only = (*nonsense, *GRADES)
    said = operator.play("measure", *router, *only)
    assert "profile: fast, planning: added: allow 1 (1 samples), live is nothing" in said, said
    measured = json.loads((operator.folder / "measured/here/measured.json").read_text())
    assert measured["measured"]["fast"]["image"].startswith("sha256:") and "--alias" in measured["measured"]["fast"]["arguments"]
    # The tiny model fails the preflight, so nothing is promoted.
    refused = operator.attempt(
        "measure", *router, "-e", "load=false", "-e", "evaluate=preflight", "-e", "promote=true", "-e", "tiers=fast"
    )
    assert refused.returncode == 2 and "preflight of fast: 0 of 2 checks pass" in refused.stdout, refused.stdout
    limited = operator.attempt("measure", *router, *only, "-e", "tiers=fast")
    assert limited.returncode == 2 and "calibrate cannot be limited to some tiers" in limited.stdout
    live = ("exec", "anvil-router", "cat", "/etc/anvil/profile.json")
    assert '"entries": []' in bed.docker(*live)
    refused = operator.attempt("measure", *router, *nonsense, "-e", "promote=true")
    assert refused.returncode == 2 and "calibrate: failed" in refused.stdout and "JSON" in refused.stdout, refused.stdout[-3000:]
    bed.docker("stop", "--time", "0", "measured-heavy")
    refused = operator.attempt("measure", *router, *only, "-e", "promote=true")
    assert refused.returncode == 2 and "rows: no row of heavy was measured" in refused.stdout, refused.stdout[-3000:]
    assert '"entries": []' in bed.docker(*live)
    bed.docker("start", "measured-heavy")
    operator.play("measure", *router, *only, "-e", "promote=true")
    assert [one["tier_id"] for one in json.loads(bed.docker(*live))["entries"]] == ["fast", "heavy"]
    assert "stale: image" not in operator.play("router_status", *router)
    bed.docker("rm", "-f", "measured-fast")
    start_serve(bed, operator.folder, "fast", "--metrics")
    for playbook in ("router_status", "status"):
        done = operator.attempt(playbook, *router)
        told = " ".join((done.stdout + done.stderr).split())
        assert "tier fast: its rows of the live profile are stale: arguments changed" in told


def test_check_mode_says_what_would_run_and_starts_nothing(operator: Operator) -> None:
    router = ("-e", "router_image=anvil.local/router:0.13.2")
    said = operator.play("measure", *router, *QUICK, "--check")
    assert "2 loads on fast, heavy: concurrency 2, 4 requests each" in said and "at most 1200 s" in said
    (operator.folder / "slo.yaml").write_text("tiers: {fast: {ttft: 1}}")
    wrong = operator.attempt("measure", *router, *QUICK, "--check", "-e", "gate=slo.yaml")
    assert wrong.returncode != 0 and "no such limit" in wrong.stdout


def test_a_killed_measurement_leaves_no_container_and_never_shows_its_key(operator: Operator) -> None:
    tier = {"id": "fast", "base_url": "http://measured-fast:9002/v1", "model": "fast", "serve": "fast"}
    given = {"router": {"tiers": [tier], "presets": {"fast": ["fast"]}, "token": "t"}, "networks": ["anvil"], "image": IMAGE}
    os.environ["DOCKER_HOST"] = operator.bed.environment["DOCKER_HOST"]
    run = spawn_module("anvil_measure", "", {**given, "secrets": {"t": TOKEN}, "requests": 100000})
    name = f"anvil-measure-{run.pid}"
    wait_until("its container", lambda: name in operator.names())
    # aiperf gives its processes titles of their own a moment after it has started.
    wait_until("aiperf", lambda: any(word in operator.bed.docker("top", name) for word in ("--request-count", "aiperf")), 60)
    shown = operator.bed.docker("inspect", name) + operator.bed.docker("top", name, "-ef")
    assert "anvil-measure" in shown and TOKEN not in shown
    run.send_signal(signal.SIGKILL)
    run.wait()
    wait_until("the end of its container", lambda: name not in operator.names())
