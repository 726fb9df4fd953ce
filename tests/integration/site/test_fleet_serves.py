"""Serves on three simulated hosts: changes roll, a mistake or a lost host stops only itself, and serves= selects hosts."""

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
from typing import Any

import pytest
import yaml
from bed import Bed, Host
from conftest import COLLECTIONS, REPO
from serving import PYTHON_IMAGE, SERVER

NAMES = ["gpu-a", "gpu-b", "gpu-c"]


def serve(**environment: str) -> dict[str, Any]:
    return {
        "engine": "llama_cpp",
        "image": PYTHON_IMAGE,
        "model": "/m",
        "served_name": "fake",
        "port": 9000,
        "entrypoint": ["python3", "-c", SERVER],
        "environment": {"SERVES": "fake", **environment},
        "ready_timeout": 20,
    }


@dataclass
class Fleet:
    folder: Path
    hosts: list[Host]

    def write(self, **variables: Any) -> None:
        """The variables of every host; those of one host under its name with an underscore, as gpu_a."""
        own = {name: variables.pop(name.replace("-", "_"), {}) for name in NAMES}
        everyone = {
            "anvil_root": "/opt/anvil",
            "ansible_connection": "community.docker.docker",
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
            "model_tiers_settle": 0.5,
            **variables,
        }
        self.folder.joinpath("hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": own, "vars": everyone}}))

    def play(self, name: str, *more: str) -> tuple[int, str]:
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        argv = [program, str(REPO / f"playbooks/{name}.yml"), "-i", str(self.folder / "hosts.yml"), *more]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS)}
        done = subprocess.run(argv, env=environment, cwd=self.folder, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def containers(self) -> list[str]:
        """The container of the serve on each host."""
        found = [host.docker("ps", "--all", "--no-trunc", "--quiet").split() for host in self.hosts]
        return [one for (one,) in found]


@pytest.fixture(scope="module")
def fleet(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    bed.clear()
    first = bed.host_up(NAMES[0], images=[PYTHON_IMAGE])  # it creates the network of the hosts
    with ThreadPoolExecutor(2) as pool:
        others = list(pool.map(lambda name: bed.host_up(name, images=[PYTHON_IMAGE]), NAMES[1:]))
    made = Fleet(tmp_path_factory.mktemp("fleet"), [first, *others])
    made.write(anvil_serves={"fast": serve()})
    code, printed = made.play("site")
    assert code == 0, printed
    made.folder.joinpath("first.txt").write_text(printed)
    yield made
    for name in NAMES:
        bed.host_down(name)


def summary(printed: str) -> dict[str, str]:
    return dict(re.findall(r"^(gpu-\w): +(.*)$", printed, re.MULTILINE))


def test_the_first_run_changes_one_host_after_the_other(fleet: Fleet) -> None:
    changes = re.findall(r"^  (gpu-\w) +\S*fast\S* created", fleet.folder.joinpath("first.txt").read_text(), re.MULTILINE)
    assert changes == NAMES, fleet.folder.joinpath("first.txt").read_text()


def test_a_fleet_with_nothing_to_do_has_no_wave_and_prints_one_line_for_each_host(fleet: Fleet) -> None:
    before = fleet.containers()
    code, printed = fleet.play("site")
    assert code == 0 and "in waves" not in printed and "no host" not in printed
    assert set(summary(printed).values()) == {"nothing to do"} and fleet.containers() == before


def test_a_bad_change_stops_at_the_canary(fleet: Fleet) -> None:
    before = fleet.containers()
    fleet.write(
        anvil_serves={"fast": {**serve(), "entrypoint": ["python3", "-c", "raise SystemExit('a flag it does not know')"]}}
    )
    code, printed = fleet.play("site")
    after = fleet.containers()
    fleet.write(anvil_serves={"fast": serve()})
    assert code == 2 and after[1:] == before[1:] and after[0] != before[0], printed
    told = summary(printed)
    assert told["gpu-a"].startswith("failed") and told["gpu-b"] == told["gpu-c"] == "stopped, because another host failed"
    assert not re.search(r"--limit|-l gpu", printed[printed.index("To try again") :])
    assert fleet.play("site")[0] == 0


def test_a_mistake_of_one_host_stops_only_that_host_unless_strict_is_given(fleet: Fleet) -> None:
    before = fleet.containers()
    fleet.write(anvil_serves={"fast": serve(NEW="1")}, gpu_a={"anvil_platform": "vax"})
    code, printed = fleet.play("site", "-e", "strict=true")
    assert code == 2 and fleet.containers() == before
    assert summary(printed)["gpu-b"] == "stopped, because another host failed" and "anvil_platform" in printed

    code, printed = fleet.play("site")
    after = fleet.containers()
    assert code == 2 and after[0] == before[0] and after[1] != before[1] and after[2] != before[2], printed
    assert summary(printed)["gpu-a"].startswith("failed: The inventory of gpu-a has 1 mistake")
    assert all(summary(printed)[name].startswith("changed fast") for name in NAMES[1:])


def test_status_shows_every_host_and_fails_only_those_that_it_could_not_read(fleet: Fleet) -> None:
    lost = {"ansible_host": "a-host-without-power"}
    fleet.write(anvil_serves={"fast": serve(NEW="1")}, gpu_a={"anvil_platform": "vax"}, gpu_b=lost)
    code, printed = fleet.play("status", "-e", f"json={fleet.folder / 'status.json'}")
    logs_code, logs = fleet.play("logs", "-e", "serves=fast")
    assert code == logs_code == 2
    told = {host["host"]: host["trouble"] for host in json.loads((fleet.folder / "status.json").read_text())}
    assert "anvil_platform" in told["gpu-a"] and told["gpu-b"] and not told["gpu-c"]
    assert [summary(printed)[name].startswith("failed") for name in NAMES] == [True, True, False], printed
    assert [summary(logs)[name].startswith("failed") for name in NAMES] == [True, True, False], logs


def test_serves_means_the_hosts_that_have_them(fleet: Fleet) -> None:
    other = {"anvil_serves": {"night": serve()}}
    fleet.write(anvil_serves={"fast": serve(NEW="1")}, gpu_a={"anvil_platform": "vax"}, gpu_c=other)
    before = fleet.containers()
    code, printed = fleet.play("restart", "-e", "serves=nigt")
    assert code == 2 and "did you mean night?" in printed and "the serves of gpu-a are unknown" in printed

    fleet.write(anvil_serves={"fast": serve(NEW="1")}, gpu_c=other)
    code, printed = fleet.play("recreate", "-e", "serves=fast")
    after = fleet.containers()
    assert code == 0, printed
    assert [new != old for new, old in zip(after, before, strict=True)] == [True, True, False]
    assert summary(printed)["gpu-c"] == "nothing to do"
