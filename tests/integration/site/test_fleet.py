"""Waves over four simulated hosts end with a host that fails or vanishes, and earlier hosts are rolled back on request."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from ansible_collections.community.docker.plugins.connection import docker as docker_connection
from bed import Bed, Host, wait_until
from conftest import COLLECTIONS, REPO
from replicas import BACKEND, ROUTER_IMAGE, TOKEN

NAMES = ["fleet-a", "fleet-b", "fleet-c", "fleet-d"]
SETUP = """
- hosts: all
  gather_facts: false
  tasks:
    - anvil.serving.anvil_plan:
      register: anvil
    - ansible.builtin.include_role: {name: anvil.serving.router}
      vars: {router_verify: false}
"""
# The connection of the simulated hosts, which tells a host without power as ssh does: as unreachable, not as a failed command.
POWERED = """

exec_in_host = Connection.exec_command


def exec_command(self, *args, **kwargs):
    code, out, err = exec_in_host(self, *args, **kwargs)
    look = ["docker", "inspect", "--format", "{{.State.Running}}", self.get_option("remote_addr")]
    if code and subprocess.run(look, capture_output=True, text=True).stdout.strip() != "true":
        raise AnsibleConnectionFailure("no route to host")
    return code, out, err


Connection.exec_command = exec_command
"""
VARIABLES = {
    "settle": 0.5,
    "anvil_root": "/opt/anvil",
    "anvil_secrets": {"router_token": "{{ lookup('ansible.builtin.env', 'FLEET_TOKEN') }}"},
    "anvil_serves": {
        "heavy": {
            "engine": "llama_cpp",
            "image": "anvil.local/llama-server:1",
            "model": "/m",
            "served_name": "fake",
            "port": 9000,
            "container": "backend",
            "args": ["-c", "4096"],
        }
    },
    "anvil_router": {"image": ROUTER_IMAGE, "request_timeout": "{{ router_patience | default(300) }}"},
    "ansible_connection": "powered",
    "ansible_user": "root",
    "ansible_python_interpreter": "/usr/bin/python3",
}


@dataclass
class Fleet:
    folder: Path
    hosts: list[Host]

    def play(self, playbook: str, *more: str) -> subprocess.CompletedProcess[str]:
        argv = [str(Path(sys.executable).with_name("ansible-playbook")), playbook, "-i", str(self.folder / "hosts.yml"), *more]
        environment = {
            **os.environ,
            "PWD": str(self.folder),
            "FLEET_TOKEN": TOKEN,
            "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
            "ANSIBLE_CONNECTION_PLUGINS": str(self.folder / "connections"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        }
        return subprocess.run(argv, env=environment, cwd=self.folder, capture_output=True, text=True, check=False)

    def timeouts(self) -> list[int]:
        """The relay timeout in each host's live config, read inside its router."""
        found = []
        for host in self.hosts:
            lines = host.docker("exec", "anvil-router", "cat", "/etc/anvil/config.toml").splitlines()
            found.extend(int(line.split("=")[1]) for line in lines if line.startswith("relay_timeout"))
        return found

    def revisions(self, done: subprocess.CompletedProcess[str]) -> dict[str, tuple[str, str, str]]:
        """What the run listed: the revision before, the live one and the outcome of each host."""
        lines = done.stdout[done.stdout.index("HOST ") :].splitlines()[1 : 1 + len(self.hosts)]
        return {host: (old, live, outcome) for host, old, live, outcome in (re.split(r"  +", line.strip()) for line in lines)}

    def vanish_in_turn_of(self, host: str, victim: str, after: float = 0) -> None:
        """Let the victim lose its power when the other host has its turn, so many seconds later."""
        kill = f"(sleep {after}; docker kill {victim}) > /dev/null 2>&1 {'&' if after else ''} echo 0.5"
        kill = kill.replace("  echo", "; echo")
        self.folder.joinpath("host_vars").mkdir(exist_ok=True)
        self.folder.joinpath("host_vars", host + ".yml").write_text(
            json.dumps({"settle": "{{ lookup('ansible.builtin.pipe', '" + kill + "') }}"})
        )

    def power_on(self, *names: str) -> None:
        for host in self.hosts:
            running = host.bed.docker("inspect", "--format", "{{.State.Running}}", host.name) == "true"
            if host.name in names and not running:
                host.bed.docker("start", host.name)
                wait_until(f"start of the Docker Engine of {host.name}", host.is_up)
                wait_until("start of the router", lambda host=host: host.docker("ps", "-q", "--filter", "name=anvil-router"))

    def started(self) -> list[str]:
        return [host.docker("inspect", "--format", "{{.State.StartedAt}}", "anvil-router") for host in self.hosts]


@pytest.fixture(scope="module")
def fleet(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    folder.joinpath("hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {key: {} for key in NAMES}, "vars": VARIABLES}}))
    folder.joinpath("setup.yml").write_text(SETUP)
    folder.joinpath("connections").mkdir()
    folder.joinpath("connections", "powered.py").write_text(Path(docker_connection.__file__).read_text() + POWERED)
    bed.clear()

    def start(name: str) -> Host:
        host = bed.host_up(name, images=[ROUTER_IMAGE])
        host.docker("network", "create", "anvil")
        host.docker(
            "run", "-d", "--name", "backend", "--network", "anvil", "--entrypoint", "python3", ROUTER_IMAGE, "-c", BACKEND
        )
        return host

    start_first = start(NAMES[0])  # it creates the network of the hosts
    with ThreadPoolExecutor(3) as pool:
        made = Fleet(folder, [start_first, *pool.map(start, NAMES[1:])])
    done = made.play("setup.yml")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    yield made
    for name in NAMES:
        bed.host_down(name)


MEASURED = {
    "schema": "anvil-serving.router.profile_bootstrap/v2",
    "mode": "live",
    "entries": [
        {
            "tier_id": "heavy",
            "work_class": "planning",
            "decision": "allow",
            "quality_score": 0.9,
            "sample_n": 4,
            "last_measured": "2026-07-04T00:00:00Z",
            "fingerprint": None,
        }
    ],
}
PROMOTE = str(REPO / "playbooks/promote.yml")


def test_the_first_measured_profile_is_read_and_stays_on_every_host(fleet: Fleet) -> None:
    """The inventory has no measurements."""
    fleet.folder.joinpath("measured.json").write_text(json.dumps(MEASURED))
    done = fleet.play(PROMOTE, "-e", "profile=measured.json")
    assert done.returncode == 0, done.stdout[-3000:]
    before = fleet.started()
    again = fleet.play("setup.yml")
    assert again.returncode == 0 and again.stdout.count("changed=0") == 4 and again.stdout.count(", kept") == 4, again.stdout
    assert fleet.started() == before
    # Planning is denied where nothing was measured.
    asked = json.dumps({"model": "planning", "messages": []})
    code = (
        "import urllib.request as u; "
        f"h = {{'Authorization': 'Bearer {TOKEN}'}}; "
        f"print(u.urlopen(u.Request('http://127.0.0.1:8000/v1/route', {asked!r}.encode(), h)).status)"
    )
    for host in fleet.hosts:
        assert host.docker("exec", "anvil-router", "python3", "-c", code) == "200"


def test_waves_stop_at_the_first_failed_host_and_roll_back_on_request(fleet: Fleet) -> None:
    assert fleet.timeouts() == [300] * 4

    done = fleet.play(PROMOTE, "-e", "router_patience=310")
    assert done.returncode == 0, done.stdout[-3000:]
    assert fleet.timeouts() == [310] * 4
    assert done.stdout.count("PLAY [Promote in waves]") == 3

    config = fleet.hosts[0].docker("exec", "anvil-router", "cat", "/etc/anvil/config.toml")
    fleet.folder.joinpath("good.toml").write_text(config.replace("= 310", "= 320"))
    # The loader accepts this config, but a router that starts with it exits.
    broken = config.replace("= 310", '= 320\nprofile_path = "/nowhere/profile.json"')
    fleet.folder.joinpath("broken.toml").write_text(broken)
    fleet.folder.joinpath("host_vars").mkdir()
    fleet.folder.joinpath("host_vars", NAMES[2] + ".yml").write_text(json.dumps({"config": "broken.toml"}))
    for name in (NAMES[0], NAMES[1], NAMES[3]):
        fleet.folder.joinpath("host_vars", name + ".yml").write_text(json.dumps({"config": "good.toml"}))

    before = fleet.started()
    failed = fleet.play(PROMOTE)
    assert failed.returncode != 0
    assert fleet.timeouts()[:3] == [320, 320, 310], failed.stdout[-3000:]

    fleet.folder.joinpath("good.toml").write_text(config.replace("= 310", "= 330"))
    undone = fleet.play(PROMOTE, "-e", "rollback_fleet=true")
    assert undone.returncode != 0
    assert fleet.timeouts()[:3] == [320, 320, 310], undone.stdout[-3000:]
    assert "TASK [Roll back the hosts promoted before]" in undone.stdout
    after = fleet.started()
    assert after[0] != before[0] and after[1] != before[1]

    assert [row[2] for row in fleet.revisions(undone).values()][:3] == ["rolled back", "rolled back", "failed"]
    assert undone.returncode == 2

    back = fleet.play(str(REPO / "playbooks/rollback.yml"), "--limit", NAMES[0], "-e", "revision=previous")
    assert back.returncode == 0, back.stdout[-3000:]
    assert fleet.timeouts()[0] != 320


def test_router_restart_restarts_only_the_routers_of_the_limited_hosts(fleet: Fleet) -> None:
    before = fleet.started()
    done = fleet.play(str(REPO / "playbooks/router_restart.yml"), "--limit", f"{NAMES[0]}:{NAMES[3]}")
    assert done.returncode == 0, done.stdout[-2000:]
    assert [new != old for new, old in zip(fleet.started(), before, strict=True)] == [True, False, False, True]


# Earlier tests promoted files of their own, which stay live until the inventory's are asked for.
RENDERED = ("-e", "config_from=inventory", "-e", "profile_from=inventory")


@pytest.fixture
def clean_variables(fleet: Fleet) -> Iterator[None]:
    def clean() -> None:
        for path in fleet.folder.glob("host_vars/*"):
            path.unlink()

    clean()
    yield
    clean()
    fleet.power_on(*NAMES)


@pytest.mark.usefixtures("clean_variables")
def test_a_mistake_in_the_last_wave_shows_before_the_first_host_is_changed(fleet: Fleet) -> None:
    before = fleet.started()
    fleet.folder.joinpath("host_vars").mkdir(exist_ok=True)
    fleet.folder.joinpath("host_vars", NAMES[3] + ".yml").write_text(json.dumps({"anvil_router": {"image": 3}}))
    done = fleet.play(PROMOTE, *RENDERED, "-e", "router_patience=340")
    assert done.returncode == 2 and "anvil_router.image" in done.stdout
    assert "PLAY [Promote in waves]" not in done.stdout and fleet.started() == before


@pytest.mark.usefixtures("clean_variables")
def test_a_host_that_vanishes_before_its_turn_ends_the_run_with_its_wave_and_the_earlier_ones_go_back(fleet: Fleet) -> None:
    first = fleet.play(PROMOTE, *RENDERED, "-e", "router_patience=350")
    assert first.returncode == 0, first.stdout[-3000:]
    before = fleet.started()
    fleet.vanish_in_turn_of(NAMES[0], NAMES[1])
    done = fleet.play(PROMOTE, *RENDERED, "-e", "router_patience=360", "-e", "rollback_fleet=true")
    assert done.returncode == 2, done.stdout[-3000:]
    rows = fleet.revisions(done)
    old = rows[NAMES[0]][0]
    assert rows[NAMES[0]] == (old, old, "rolled back")
    assert rows[NAMES[1]] == ("unknown", "unknown", "did not answer in its turn")
    assert rows[NAMES[2]][2] == rows[NAMES[3]][2] == "untouched" and old != "unknown"
    fleet.power_on(NAMES[1])
    assert fleet.timeouts() == [350] * 4
    assert fleet.started()[2:] == before[2:]


@pytest.mark.usefixtures("clean_variables")
def test_a_host_that_vanishes_in_its_turn_fails_alone_and_the_next_run_completes(fleet: Fleet) -> None:
    fleet.vanish_in_turn_of(NAMES[1], NAMES[1], after=1.0)
    done = fleet.play(PROMOTE, *RENDERED, "-e", "router_patience=370")
    assert done.returncode == 2, done.stdout[-3000:]
    rows = fleet.revisions(done)
    assert rows[NAMES[0]][2] == "promoted" and rows[NAMES[0]][0] != rows[NAMES[0]][1]
    assert rows[NAMES[1]][1] == "unknown"
    assert all(old == live != "unknown" and outcome == "untouched" for old, live, outcome in list(rows.values())[2:])
    fleet.power_on(NAMES[1])
    fleet.folder.joinpath("host_vars", NAMES[1] + ".yml").unlink()
    again = fleet.play(PROMOTE, *RENDERED, "-e", "router_patience=370")
    assert again.returncode == 0, again.stdout[-3000:]
    assert fleet.timeouts() == [370] * 4


@pytest.mark.usefixtures("clean_variables")
def test_a_host_that_vanishes_after_its_turn_is_listed_as_unknown_and_only_it_fails(fleet: Fleet) -> None:
    fleet.vanish_in_turn_of(NAMES[1], NAMES[0])
    done = fleet.play(PROMOTE, *RENDERED, "-e", "router_patience=380")
    assert done.returncode == 2, done.stdout[-3000:]
    rows = fleet.revisions(done)
    assert rows[NAMES[0]][1:] == ("unknown", "promoted")
    assert {row[2] for row in rows.values()} == {"promoted"}
    assert [bool(re.search(rf"{name} .*failed=1", done.stdout)) for name in NAMES] == [True, False, False, False]
    fleet.power_on(NAMES[0])
    assert fleet.timeouts() == [380] * 4
