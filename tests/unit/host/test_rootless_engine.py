"""What a rootless Docker Engine may not do, from its own description and from the processes of rootlesskit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.host import rootless_engine
from ansible_collections.anvil.serving.plugins.module_utils.host.rootless_engine import find_lowest_port, judge_engine

# What Docker Engine 26.1.5 answered on a host with cgroup v1.
ROOTLESS = {
    "SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"],
    "CgroupDriver": "none",
    "CgroupVersion": "1",
    "MemoryLimit": False,
    "PidsLimit": False,
}
DELEGATED = {**ROOTLESS, "CgroupDriver": "systemd", "CgroupVersion": "2", "MemoryLimit": True, "PidsLimit": True}
NONE, ALL, BIND = "0000000000000000", "000001ffffffffff", "0000000000000400"
HOST_MAP, CHILD_MAP = Path("/proc/self/uid_map").read_text(), "0 1000 1\n1 100000 65536\n"


def add_process(proc: Path, pid: int, name: str, capabilities: str, uid_map: str) -> None:
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "comm").write_text(name + "\n")
    (folder / "status").write_text(f"Name:\t{name}\nCapPrm:\t{NONE}\nCapEff:\t{capabilities}\n")
    (folder / "uid_map").write_text(uid_map)


@pytest.mark.parametrize(
    ("info", "processes", "lowest"),
    [
        # The parent publishes the ports; the child has every capability in a user namespace of its own, and none on the host.
        (ROOTLESS, [("rootlesskit", NONE, HOST_MAP), ("rootlesskit", ALL, CHILD_MAP)], 1024),
        (ROOTLESS, [("rootlesskit", BIND, HOST_MAP), ("rootlesskit", ALL, CHILD_MAP)], 0),
        (ROOTLESS, [("rootlesskit", NONE, HOST_MAP), ("rootlesskit", BIND, HOST_MAP)], 0),  # of two users: which one is unknown
        (ROOTLESS, [("rootlesskit", ALL, CHILD_MAP)], 0),  # the parent cannot be read
        (ROOTLESS, [("dockerd", NONE, HOST_MAP)], 0),
        (DELEGATED, [("rootlesskit", NONE, HOST_MAP)], 1024),
        ({}, [("rootlesskit", NONE, HOST_MAP)], 0),
    ],
)
def test_the_lowest_port_is_that_of_the_process_in_the_network_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, info: dict[str, Any], processes: list[tuple[str, str, str]], lowest: int
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no rootlesskit on it
    setting, proc = tmp_path / "start", tmp_path / "proc"
    setting.write_text("1024\n")
    proc.mkdir()
    (proc / "self").mkdir()
    monkeypatch.setattr(rootless_engine, "UNPRIVILEGED", str(setting))
    for number, process in enumerate(processes):
        add_process(proc, 100 + number, *process)
    (proc / "999").mkdir()  # it ended meanwhile
    assert find_lowest_port(info, str(proc)) == lowest


@pytest.mark.parametrize(
    ("info", "lowest", "told"),
    [
        (ROOTLESS, 1024, ["keeps no limit of memory and processes", "cannot publish ports below 1024", "at their own addresses"]),
        (DELEGATED, 0, ["at their own addresses"]),
        ({**DELEGATED, "PidsLimit": None}, 0, ["at their own addresses"]),
        ({"MemoryLimit": False, "PidsLimit": True, "CgroupDriver": "cgroupfs"}, 0, ["keeps no limit of memory: it accepts"]),
        ({"OperatingSystem": "Docker Desktop", "MemoryLimit": True}, 0, ["at their own addresses"]),
        ({"MemoryLimit": True, "PidsLimit": True}, 0, []),
        ({}, 0, []),  # it does not answer
        ({"MemoryLimit": "true", "PidsLimit": 1, "SecurityOptions": None}, 0, []),
    ],
)
def test_the_check_says_what_the_engine_does_not_do(info: dict[str, Any], lowest: int, told: list[str]) -> None:
    found = judge_engine(info, lowest)
    assert [word in problem.what for word, problem in zip(told, found, strict=True)] == [True] * len(told)
    assert all(problem.why and problem.hint for problem in found)


def test_who_may_not_read_a_process_knows_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    assert find_lowest_port(ROOTLESS, str(tmp_path)) == 0
