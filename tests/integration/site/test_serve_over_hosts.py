"""One model over two simulated hosts with llama.cpp's RPC: it starts, changes, is refused and heals as one serve."""

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

NAMES = ["pair-a", "pair-b"]
PHRASE = "the heavy tier answers"


@dataclass
class Pair:
    """Two hosts, the head first, and an inventory of them."""

    folder: Path
    head: Host
    member: Host

    def write(self, **changes: Any) -> None:
        """The serve in the variables of both hosts. changes: keys of the serve."""
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
        everyone = {
            "anvil_root": "/opt/anvil",
            "ansible_connection": "community.docker.docker",
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
            "model_tiers_settle": 0.5,
            "anvil_serves__pair": {"pair": serve},
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
        """The container of each host, with the time of its start."""
        form = "{{.Id}} {{.State.StartedAt}}"
        return [host.docker("inspect", "--format", form, "anvil-pair") for host in (self.head, self.member)]

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
    head = bed.host_up(NAMES[0], images=[image], mounts=[f"{models}:/models:ro"])  # it creates the network of the hosts
    member = bed.host_up(NAMES[1], images=[image])  # a member needs no weights
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
    pair.write(args=["--ctx-size", "4096"], fabric={NAMES[0]: pair.head.ip(), NAMES[1]: "10.9.9.9"})
    code, printed = pair.play("site")
    assert code == 2 and "10.9.9.9" in printed and pair.started() == before, printed
    assert f"why:  {NAMES[1]} failed in this run; see there" in printed, printed

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


def test_restart_and_down_mean_every_part(pair: Pair) -> None:
    before = pair.started()
    code, printed = pair.play("restart", "-e", "serves=pair")
    assert code == 0 and not set(pair.started()) & set(before) and pair.ask() == PHRASE, printed
    code, printed = pair.play("down", "-e", "serves=pair")
    assert code == 0, printed
    assert [host.docker("ps", "--all", "--quiet") for host in (pair.head, pair.member)] == ["", ""]
