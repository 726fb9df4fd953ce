"""Serves over two simulated hosts start, change, are refused and heal as one: llama.cpp's RPC, and a stand-in for vLLM.

The stand-in has vLLM's flags and nothing of its work: the head answers when every member has connected to its master port.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import rpcserver
import yaml
from bed import Bed, BedError, Host
from conftest import COLLECTIONS, REPO
from serving import PYTHON_IMAGE

NAMES = ["pair-a", "pair-b"]
PHRASE = "the heavy tier answers"
STANDIN = """
import http.server, json, socket, sys, time
words = dict(zip(sys.argv, sys.argv[1:]))
meeting = words["--master-addr"], int(words["--master-port"])
if "--headless" in sys.argv:
    while True:
        try:
            sys.exit(socket.create_connection(meeting).recv(1).decode())
        except ConnectionRefusedError:
            time.sleep(0.2)
members = [socket.create_server(meeting).accept() for _member in range(int(words["--nnodes"]) - 1)]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"data": [{"id": words["--served-model-name"]}], "choices": []}).encode())
    do_POST = do_GET
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer((words["--host"], int(words["--port"])), Handler).serve_forever()
"""


@dataclass
class Pair:
    """Two hosts, the head first, and an inventory of them."""

    folder: Path
    head: Host
    member: Host

    def write(self, interface: str = "eth0", **changes: Any) -> None:
        """The serves in the variables of both hosts. changes: keys of the one of llama.cpp. interface: of the other one."""
        fabric = {host.name: host.ip() for host in (self.head, self.member)}
        serve = {
            "engine": "llama_cpp",
            "image": rpcserver.IMAGE,
            "model": "/models/heavy.gguf",
            "volumes": ["/models:/models:ro"],
            "port": 9000,
            "hosts": NAMES,
            "fabric": fabric,
            "args": ["--ctx-size", "2048"],
            "ready_timeout": 40,
            **changes,
        }
        standin = {
            "engine": "vllm",
            "image": PYTHON_IMAGE,
            "entrypoint": ["python3", "-c", STANDIN],
            "model": "example/big",
            "port": 9001,
            "hosts": NAMES,
            "fabric": {name: {"address": address, "interface": interface} for name, address in fabric.items()},
            "args": ["--seed", changes.get("args", ["", "1"])[1]],
            "ready_timeout": 40,
        }
        everyone = {
            "anvil_root": "/opt/anvil",
            "ansible_connection": "community.docker.docker",
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
            "model_tiers_settle": 0.5,
            "anvil_serves__pair": {"pair": serve, "big": standin},
        }
        inventory = {"all": {"hosts": {name: {} for name in NAMES}, "vars": everyone}}
        self.folder.joinpath("hosts.yml").write_text(yaml.safe_dump(inventory))

    def play(self, name: str, *more: str) -> tuple[int, str]:
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        argv = [program, str(REPO / f"playbooks/{name}.yml"), "-i", str(self.folder / "hosts.yml"), *more]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS)}
        done = subprocess.run(argv, env=environment, cwd=self.folder, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def started(self) -> list[str]:
        """Both containers of each host, with the times of their starts."""
        argv = ["inspect", "--format", "{{.Name}} {{.Id}} {{.State.StartedAt}}", "anvil-pair", "anvil-big"]
        return [line for host in (self.head, self.member) for line in host.docker(*argv).splitlines()]

    def ask(self) -> str:
        """The answer of the head; empty where there is none."""
        body = json.dumps({"model": "pair", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 16})
        url = "http://127.0.0.1:9000/v1/chat/completions"
        try:
            text = self.head.run("curl", "--silent", "--max-time", "10", "-H", "content-type: application/json", "-d", body, url)
            return str(json.loads(text)["choices"][0]["message"]["content"]).strip()
        except (BedError, ValueError, KeyError):
            return ""

    def seconds_to_token(self, most: float = 60) -> float:
        begun = time.monotonic()
        while self.ask() != PHRASE:
            assert time.monotonic() - begun < most, "no token in time"
            time.sleep(0.2)
        return time.monotonic() - begun


@pytest.fixture(scope="module")
def pair(bed: Bed, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    if not rpcserver.ROOT.exists():
        pytest.skip("the RPC server is from Debian's packages; tests/testbed/rpcserver.py fetch downloads them on Debian")
    bed.clear()
    image = rpcserver.build(bed)
    head = bed.host_up(
        NAMES[0], images=[image, PYTHON_IMAGE], mounts=[f"{models}:/models:ro"]
    )  # it creates the network of the hosts
    member = bed.host_up(NAMES[1], images=[image, PYTHON_IMAGE])  # a member needs no weights
    made = Pair(tmp_path_factory.mktemp("pair"), head, member)
    made.write()
    yield made
    for name in NAMES:
        bed.host_down(name)


def test_a_model_over_two_hosts_starts_as_one_and_a_second_run_changes_nothing(pair: Pair) -> None:
    code, printed = pair.play("site")
    assert code == 0 and printed.count("  pair: created") == 2, printed
    assert pair.ask() == PHRASE
    # The member has no other way in than the fabric, and no weights.
    ports = json.loads(pair.member.docker("inspect", "--format", "{{json .HostConfig.PortBindings}}", "anvil-pair"))
    assert ports == {"50052/tcp": [{"HostIp": pair.member.ip(), "HostPort": "50052"}]}
    assert pair.member.docker("inspect", "--format", "{{len .Mounts}}", "anvil-pair") == "0"
    # The other one has the network of the host, and its API answers on the fabric only.
    asked = [pair.member.run("curl", "--silent", f"http://{pair.head.ip()}:9001/v1/models")]
    assert "big" in asked[0]
    with pytest.raises(BedError):
        pair.head.run("curl", "--silent", "http://127.0.0.1:9001/v1/models")

    before = pair.started()
    code, printed = pair.play("site")
    assert code == 0 and printed.count("nothing to do") == 2, printed
    assert pair.started() == before


def test_an_edited_flag_recreates_every_part_and_check_mode_says_so(pair: Pair) -> None:
    before = pair.started()
    pair.write(args=["--ctx-size", "4096"])
    code, printed = pair.play("site", "--check")
    assert code == 0 and printed.count("  pair: would be recreated") == 2 and pair.started() == before, printed
    code, printed = pair.play("site")
    assert code == 0 and printed.count("  pair: recreated") == 2, printed
    assert pair.ask() == PHRASE and not set(pair.started()) & set(before)


def test_nothing_changes_unless_every_host_can_start_its_part(pair: Pair) -> None:
    before = pair.started()
    changed = {NAMES[0]: pair.head.ip(), NAMES[1]: "10.9.9.9"}
    pair.write(args=["--ctx-size", "4096"], fabric=changed, interface="eth7")
    code, printed = pair.play("site")
    assert code == 2 and pair.started() == before, printed
    assert "the host does not have the address 10.9.9.9" in printed, printed
    assert "the host has no network interface eth7" in printed, printed

    pair.write(args=["--ctx-size", "8192"])
    code, printed = pair.play("recreate", "--limit", NAMES[0])
    assert code == 2 and f"{NAMES[1]} not in this run" in printed and pair.started() == before, printed
    pair.write(args=["--ctx-size", "4096"])


def test_a_member_that_dies_costs_one_request(pair: Pair) -> None:
    """Docker's restart policies heal: measured as in docs/multihost.md."""
    pair.member.run("sh", "-c", "kill -9 $(docker inspect --format '{{.State.Pid}}' anvil-pair)")
    assert pair.ask() == ""  # nobody had noticed
    print(f"seconds to the next token: {pair.seconds_to_token():.1f}")

    pair.member.docker("stop", "anvil-pair")
    assert pair.ask() == ""
    code, printed = pair.play("site")
    assert code == 0 and "pair: started" in printed and "it was in a restart loop" in printed, printed
    assert pair.seconds_to_token(1) < 1


def test_restart_means_every_part_and_no_other_serve(pair: Pair) -> None:
    before = pair.started()
    code, printed = pair.play("restart", "-e", "serves=pair")
    kept = set(pair.started()) & set(before)
    assert code == 0 and len(kept) == 2 and all("anvil-big" in one for one in kept) and pair.ask() == PHRASE, printed
