"""A gateway with a real router and edge in front of two simulated hosts with edges of their own: one tier over both."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from bed import Bed, Host, wait_until
from conftest import COLLECTIONS, REPO
from load import Load
from replicas import BACKEND, EDGE_IMAGE, ROUTER_IMAGE, TOKEN, make_certificate

GATEWAY, FIRST, SECOND = NAMES = ["tiers-gw", "tiers-a", "tiers-b"]
KEY = "gateway-" + "k" * 40
PORT = 8000
VARIABLES = {
    "anvil_root": "/opt/anvil",
    "anvil_secrets": {"gateway_key": "{{ lookup('ansible.builtin.env', 'GATEWAY_KEY') }}"},
    "model_tiers_settle": 0.5,
    "ansible_connection": "community.docker.docker",
    "ansible_user": "root",
    "ansible_python_interpreter": "/usr/bin/python3",
}
SERVE = {
    "engine": "llama_cpp",
    "image": ROUTER_IMAGE,
    "model": "/m",
    "served_name": "fake",
    "port": 9000,
    "publish": "0.0.0.0:30100",
    "entrypoint": ["python3", "-c", BACKEND],
    "args": ["-c", "4096"],
    "ready_timeout": 30,
}
FAR = {"anvil_clients": {"gateways": {"keys": ["gateway_key"]}}}
NEAR = {
    "anvil_secrets__gateway": {"router_token": "{{ lookup('ansible.builtin.env', 'FLEET_TOKEN') }}"},
    "anvil_edge": {"ca": "/etc/anvil-tls/ca.pem"},
    "anvil_router": {
        "image": ROUTER_IMAGE,
        "token": "router_token",
        "publish": f"0.0.0.0:{PORT}",
        "insecure": True,
        "tiers": [{"id": "chat", "slow_start": 0, "backends": [{"serve": "fast", "hosts": "far"}]}],
    },
}


@dataclass
class Tier:
    folder: Path
    hosts: dict[str, Host]

    def play(self, playbook: str, *more: str) -> subprocess.CompletedProcess[str]:
        path = REPO / f"playbooks/{playbook}.yml"
        argv = [str(Path(sys.executable).with_name("ansible-playbook")), str(path), "-i", str(self.folder / "hosts.yml"), *more]
        environment = {
            **os.environ,
            "FLEET_TOKEN": TOKEN,
            "GATEWAY_KEY": KEY,
            "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        }
        return subprocess.run(argv, env=environment, cwd=self.folder, capture_output=True, text=True, check=False)

    def write(self, **environment: str) -> None:
        """The inventory, with these variables in the environment of the serve."""
        far = {}
        for name in (FIRST, SECOND):
            tls = {"certificate": f"/etc/anvil-tls/{name}/edge.pem"}
            edge = {
                "tls": tls,
                "writer_image": ROUTER_IMAGE,
                "address": self.hosts[name].ip(),
                "server_name": name + ".example.org",
            }
            far[name] = {"anvil_edge": edge, "anvil_serves": {"fast": {**SERVE, "environment": environment}}}
        groups = {"gateways": {"hosts": {GATEWAY: NEAR}}, "far": {"hosts": far, "vars": FAR}}
        self.folder.joinpath("hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups, "vars": VARIABLES}}))

    def load(self, clients: int = 16) -> Load:
        made = Load(f"http://127.0.0.1:{PORT}", clients, token=TOKEN, model="chat", stream_seconds=1.0, pause=0.05)
        made.host = self.hosts[GATEWAY].ip()
        return made.start()

    def ask(self, timeout: float = 5.0) -> int:
        connection = http.client.HTTPConnection(self.hosts[GATEWAY].ip(), PORT, timeout=timeout)
        body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        reply = connection.getresponse()
        reply.read()
        connection.close()
        return reply.status

    def answered(self) -> dict[str, int]:
        """How many requests each backend got from the gateway, by its log."""
        log = self.hosts[GATEWAY].docker("logs", "anvil-router-edge")
        names = re.findall(r'"edge":"tier-chat","backend":"([^"]+)","method":"POST"', log)
        return {host: names.count(f"{host}:fast") for host in (FIRST, SECOND)}


@pytest.fixture(scope="module")
def tier(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tier]:
    folder = tmp_path_factory.mktemp("tiers")
    for name in (FIRST, SECOND):
        make_certificate(folder / name, name + ".example.org")
    authorities = "".join((folder / name / "edge.pem").read_text().partition("-----BEGIN PRIVATE")[0] for name in (FIRST, SECOND))
    folder.joinpath("ca.pem").write_text(authorities)
    bed.clear()

    def start(name: str) -> Host:
        return bed.host_up(name, images=[ROUTER_IMAGE, EDGE_IMAGE], mounts=[f"{folder}:/etc/anvil-tls:ro"])

    first = start(GATEWAY)  # it creates the network of the hosts
    with ThreadPoolExecutor(2) as pool:
        hosts = dict(zip(NAMES, [first, *pool.map(start, NAMES[1:])], strict=True))
    made = Tier(folder, hosts)
    made.write()
    done = made.play("site")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    yield made
    for name in NAMES:
        bed.host_down(name)


def test_requests_spread_over_the_hosts_and_a_second_run_changes_nothing(tier: Tier) -> None:
    again = tier.play("site")
    assert again.returncode == 0 and len(re.findall(r": +nothing to do", again.stdout)) == 3, again.stdout[-2000:]
    before, load = tier.answered(), tier.load()
    time.sleep(4)
    report = load.stop()
    assert report.failed == 0 and report.short > 20 and report.streams > 5, report
    got = [count - before[name] for name, count in tier.answered().items()]
    assert min(got) > 0.3 * sum(got), got


def test_a_change_of_the_serve_goes_from_host_to_host_and_fails_no_request(tier: Tier) -> None:
    load = tier.load()
    time.sleep(1)
    tier.write(CHANGED="1")
    done = tier.play("site")
    assert done.returncode == 0, done.stdout[-3000:]
    changed = re.findall(r"^  (tiers-[ab]) +\S*fast\S* recreated", done.stdout, re.MULTILINE)
    assert changed == [FIRST, SECOND], done.stdout
    report = load.stop()
    assert report.failed == 0 and report.streams > 5, report


def test_a_host_is_drained_under_load_and_readmitted_and_no_request_fails(tier: Tier) -> None:
    load = tier.load()
    drained = tier.play("drain_host", "-e", f"host={FIRST}")
    assert drained.returncode == 0 and "changed" in drained.stdout, drained.stdout[-2000:]
    before = tier.answered()
    time.sleep(2)
    after = tier.answered()
    assert after[FIRST] == before[FIRST] and after[SECOND] > before[SECOND]
    readmitted = tier.play("readmit_host", "-e", f"host={FIRST}")
    assert readmitted.returncode == 0 and "changed" in readmitted.stdout, readmitted.stdout[-2000:]
    wait_until("requests for the readmitted host", lambda: tier.answered()[FIRST] > after[FIRST])
    assert load.stop().failed == 0


def test_a_host_that_loses_its_power_fails_only_what_it_was_answering(tier: Tier) -> None:
    load = tier.load()
    time.sleep(1)
    tier.hosts[SECOND].bed.docker("kill", SECOND)
    killed_at = time.monotonic()
    assert tier.ask() == 200 and time.monotonic() - killed_at < 2
    # It cannot be known from here which requests it was answering: at most one of each client.
    time.sleep(13)
    report = load.stop()
    assert report.failed <= 16 and report.failed_short <= 8, report
    late = tier.load(clients=8)
    time.sleep(2)
    report = late.stop()
    assert report.failed == 0 and report.short > 5, report
    refused = tier.play("drain_host", "-e", f"host={FIRST}")
    assert refused.returncode != 0 and "tier-chat would have no backend that is up" in refused.stdout, refused.stdout[-2000:]
