"""Who holds a port: real sockets of this process, and what is said of each kind of holder."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.docker.documents import read_info
from ansible_collections.anvil.serving.plugins.module_utils.host import listening_ports, rootless_engine
from ansible_collections.anvil.serving.plugins.module_utils.host.listening_ports import (
    Listener,
    describe_holder,
    find_barred_ports,
    find_busy_ports,
    find_listener,
    find_missing_addresses,
    list_published,
)

ME = Path("/proc/self/comm").read_text().strip()
ID = "c" * 64


def service(bind: str, port: int, protocol: str = "tcp") -> Service:
    return Service(name="s", container="c", image="i", ports=((bind, port, f"{port}/{protocol}"),))


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_process_that_listens_is_found(family: socket.AddressFamily, address: str) -> None:
    with socket.socket(family) as server:
        server.bind((address, 0))
        port = (address, server.getsockname()[1], "tcp")
        assert find_listener(port) is None  # bound, and not yet listening
        server.listen()
        found = find_listener(port)
        assert found is not None and (found.name, found.pid) == (ME, os.getpid())
        assert find_listener(("192.0.2.1", port[1], "tcp")) is None
        assert find_busy_ports([service(address, port[1])], [])
    assert find_listener(port) is None and find_busy_ports([service(address, port[1])], []) == {}


def test_udp_and_tcp_are_apart() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        assert find_busy_ports([service("127.0.0.1", port)], []) == {}
        busy = find_busy_ports([service("0.0.0.0", port, "udp")], [])
        assert busy == {("0.0.0.0", port, "udp"): f"a process outside Docker ({ME}, pid {os.getpid()})"}
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        neighbour = [{"Ports": [{"IP": "0.0.0.0", "PublicPort": port, "Type": "udp"}]}]
        assert list(find_busy_ports([service("127.0.0.1", port)], neighbour)) == [("127.0.0.1", port, "tcp")]
        published = [{"Ports": [{"IP": "0.0.0.0", "PublicPort": port, "Type": "tcp"}]}]
        assert find_busy_ports([service("127.0.0.1", port)], published) == {}  # a container: it is named elsewhere


def test_a_dual_stack_socket_holds_the_port_of_both_families() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        port = server.getsockname()[1]
        for bind in ("127.0.0.1", "::1", "0.0.0.0", "::"):
            assert ME in find_busy_ports([service(bind, port)], [])[(bind, port, "tcp")]
    with socket.create_server(("::", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        assert find_busy_ports([service("127.0.0.1", port)], []) == {}
        assert find_busy_ports([service("::1", port)], [])


def test_a_port_that_this_user_may_not_bind_is_not_called_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_words: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    assert find_busy_ports([service("127.0.0.1", 80)], []) == {}


def test_addresses_that_the_host_does_not_have() -> None:
    wanted = [service(bind, 8000) for bind in ("127.0.0.1", "0.0.0.0", "::", "192.0.2.77", "2001:db8::77", "127.0.0.9")]
    assert sorted(find_missing_addresses(wanted)) == ["192.0.2.77", "2001:db8::77"]


@pytest.mark.parametrize(
    ("entry", "ports"),
    [
        ({}, []),
        ({"Ports": None}, []),
        ({"Ports": [{"PrivatePort": 80, "Type": "tcp"}]}, []),
        ({"Ports": [{"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}]}, [("::", 8080, "tcp")]),
        ({"Ports": [{"PrivatePort": 80, "PublicPort": 8080}]}, [("", 8080, "tcp")]),
        ({"Ports": [{"IP": "0.0.0.0", "PublicPort": 1935, "Type": "udp"}]}, [("0.0.0.0", 1935, "udp")]),
    ],
)
def test_the_ports_of_a_listed_container(entry: dict[str, object], ports: list[tuple[str, int, str]]) -> None:
    assert list_published(entry) == ports


def _proc(folder: Path, cgroup: str) -> str:
    """A stand-in for /proc with one process that listens on 127.0.0.1:8000."""
    (folder / "net").mkdir()
    row = "   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0000 100 0 0 10 0"
    (folder / "net/tcp").write_text(f"  sl  local_address\n{row}\n")
    (folder / "77/fd").mkdir(parents=True)
    (folder / "77/fd/3").symlink_to("socket:[4242]")
    (folder / "77/comm").write_text("vllm\n")
    (folder / "77/cgroup").write_text(cgroup)
    return str(folder)


@pytest.mark.parametrize(
    ("cgroup", "container"),
    [
        (f"0::/system.slice/docker-{ID}.scope\n", ID),
        (f"12:devices:/docker/{ID}\n0::/\n", ID),
        (f"0::/../../docker-{ID}.scope\n", ID),
        ("0::/user.slice/user-1000.slice\n", ""),
    ],
)
def test_the_container_of_a_process_with_the_host_s_network(tmp_path: Path, cgroup: str, container: str) -> None:
    found = find_listener(("127.0.0.1", 8000, "tcp"), _proc(tmp_path, cgroup))
    assert found == Listener("vllm", 77, container)


@pytest.mark.parametrize(
    ("found", "container", "words"),
    [
        (None, "", "a process outside Docker (Address already in use)"),
        (Listener("nginx", 7), "", "a process outside Docker (nginx, pid 7)"),
        (Listener("docker-proxy", 7), "", "to free the port: systemctl restart docker"),
        (Listener("vllm", 7, ID), "llm", "container llm with the host's network (vllm, pid 7)"),
        (Listener("vllm", 7, ID), "", f"container {ID[:12]} of another engine, such as Podman or containerd (vllm, pid 7)"),
    ],
)
def test_what_is_said_of_the_holder(found: Listener | None, container: str, words: str) -> None:
    assert words in describe_holder(found, "Address already in use", container)


def test_a_process_that_cannot_be_read_may_be_one_of_a_container_with_the_host_s_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening_ports, "find_listener", lambda _port: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        listed = [
            {"Id": ID, "Names": ["/llm"], "State": "running", "HostConfig": {"NetworkMode": "host"}},
            {"Id": "b" * 64, "Names": ["/other"], "State": "running", "HostConfig": {"NetworkMode": "bridge"}},
            {"Id": "c" * 64, "Names": ["/gone"], "State": "exited", "HostConfig": {"NetworkMode": "host"}},
        ]
        service = Service(name="s", container="s", image="i", ports=(("127.0.0.1", port, "1/tcp"),))
        busy = listening_ports.find_busy_ports([service], listed)
        assert list(busy.values()) == [
            "a process that this user may not read (Address already in use), perhaps of a container with the host's network: llm"
        ]
        assert listening_ports.find_busy_ports([service], listed, [ID]) == {}  # it leaves


ROOTLESS = {"SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"]}


@pytest.mark.parametrize(
    ("info", "first", "program", "port", "barred"),
    [
        (ROOTLESS, "1024\n", "plain", 443, True),
        (ROOTLESS, "444\n", "plain", 443, True),
        (ROOTLESS, "443\n", "plain", 443, False),
        (ROOTLESS, "0\n", "plain", 443, False),
        (ROOTLESS, None, "plain", 443, True),  # a kernel before 4.11 has no such setting
        (ROOTLESS, "1024\n", "setcap", 443, False),
        (ROOTLESS, "1024\n", "", 443, False),  # what publishes the ports is not known
        (ROOTLESS, "1024\n", "plain", 1024, False),
        (ROOTLESS, "1024\n", "plain", 0, False),  # any free port
        ({}, "1024\n", "plain", 443, False),
        ({"SecurityOptions": None}, "1024\n", "plain", 443, False),
    ],
)
def test_a_rootless_engine_publishes_no_privileged_port_without_permission(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    info: dict[str, Any],
    first: str | None,
    program: str,
    port: int,
    barred: bool,
) -> None:
    setting, kit = tmp_path / "start", tmp_path / "rootlesskit"
    if first is not None:
        setting.write_text(first)
    if program:
        kit.write_text("#!/bin/sh\n")
        kit.chmod(0o755)
    monkeypatch.setattr(rootless_engine, "UNPRIVILEGED", str(setting))
    monkeypatch.setattr(rootless_engine.glob, "iglob", lambda _pattern: [])
    monkeypatch.setenv("PATH", str(tmp_path))
    if program == "setcap":
        monkeypatch.setattr(os, "getxattr", lambda path, _name: b"caps" if path == str(kit.resolve()) else b"")
    found = find_barred_ports([service("0.0.0.0", port), service("0.0.0.0", 8080)], lambda: read_info(info))
    assert bool(found) is barred
    if barred:
        ((key, why),) = found.items()
        assert key == ("0.0.0.0", 443, "tcp") and "runs without root" in why


def test_an_engine_is_asked_only_for_privileged_ports() -> None:
    def ask() -> dict[str, Any]:
        raise AssertionError

    assert find_barred_ports([service("0.0.0.0", 8080)], ask) == {}
