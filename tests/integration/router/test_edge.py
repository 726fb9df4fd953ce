"""The edge with the real HAProxy and the real routers: draining and readmitting a replica, and the effect on clients."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import docker
import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import Edge
from bed import Bed, wait_until
from load import Load
from replicas import TOKEN, Replicas, make_load


@pytest.fixture(scope="module")
def site(bed: Bed) -> Iterator[Replicas]:
    address = bed.environment["DOCKER_HOST"]
    made = Replicas(docker.APIClient(base_url=address, version="1.43"), DockerEngine(address))
    try:
        made.start()
        wait_up(made)
        yield made
    finally:
        made.clean()


def wait_up(site: Replicas, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if [server.status for server in site.edge.read_servers()] == ["UP", "UP"]:
                return
        except AnvilError as exc:
            if time.monotonic() > deadline:
                raise AssertionError(exc.as_text()) from exc
        assert time.monotonic() < deadline, site.edge.read_servers()
        time.sleep(0.1)


@pytest.fixture
def load(site: Replicas) -> Iterator[Load]:
    wait_up(site)
    made = make_load(site.url(), 32, stream_seconds=2)
    yield made
    made.stop()


def test_servers_are_named_like_the_containers_and_up(site: Replicas) -> None:
    assert [(server.name, server.status) for server in site.edge.read_servers()] == [(name, "UP") for name in site.routers]


def test_drain_waits_for_the_streams_and_readmit_waits_for_the_health_check(site: Replicas, load: Load) -> None:
    load.start()
    wait_until("requests at both", lambda: all(server.sessions > 0 for server in site.edge.read_servers()), 10)
    assert site.edge.drain(site.routers[0], timeout=30) > 0.2
    drained, other = site.edge.read_servers()
    assert (drained.status, drained.sessions, drained.queued) == ("MAINT", 0, 0) and other.sessions > 0
    site.engine.restart_container(site.routers[0], 5)
    time.sleep(0.5)
    assert site.edge.read_servers()[0].status == "MAINT"
    site.edge.readmit(site.routers[0], timeout=30)
    wait_until("requests at the readmitted replica", lambda: site.edge.read_servers()[0].sessions > 0, 10)
    report = load.stop()
    assert report.failed == 0, report
    assert report.short > 100 and report.streams >= 16


def test_a_drain_that_takes_too_long_is_undone(site: Replicas, load: Load) -> None:
    load.start()
    time.sleep(0.5)
    with pytest.raises(AnvilError, match=r"not drained within 0.3 s[\s\S]*in flight"):
        site.edge.drain(site.routers[0], timeout=0.3)
    assert site.edge.read_servers()[0].status == "UP"
    assert load.stop().failed == 0


class Mute(Edge):
    """The real edge, but its first answers about its servers are lost after one of them is set to maintenance."""

    mute, lost = 2, 0

    def send_command(self, command: str) -> str:
        said = super().send_command(command)
        if command.startswith("show stat") and self.lost:
            self.lost -= 1
            return ""
        if command.startswith("set server") and "maint" in command:
            self.lost = self.mute
        return said


def test_a_lost_answer_is_requested_again_and_a_failed_drain_readmits_its_replica(site: Replicas) -> None:
    wait_up(site)
    edge = Mute(site.engine, site.edge.container)
    edge.drain(site.routers[0], timeout=10)
    edge.readmit(site.routers[0], timeout=10)
    edge.mute = 1000
    with pytest.raises(AnvilError, match="did not list its servers"):
        edge.drain(site.routers[0], timeout=10)
    assert site.edge.read_servers()[0].status == "UP"


def test_the_last_replica_cannot_be_drained(site: Replicas) -> None:
    wait_up(site)
    site.edge.drain(site.routers[0], timeout=10)
    with pytest.raises(AnvilError, match="no other replica is up"):
        site.edge.drain(site.routers[1], timeout=10)
    assert site.edge.read_servers()[1].status == "UP"
    site.edge.readmit(site.routers[0], timeout=10)


def test_a_readmitted_server_that_does_not_answer_is_an_error(site: Replicas) -> None:
    wait_up(site)
    site.edge.drain(site.routers[0], timeout=10)
    site.engine.stop_container(site.routers[0], 5)
    with pytest.raises(AnvilError, match="did not come up"):
        site.edge.readmit(site.routers[0], timeout=3)
    site.engine.start_container(site.routers[0])
    wait_up(site)


def test_an_unknown_server_and_a_missing_edge_are_errors(site: Replicas) -> None:
    with pytest.raises(AnvilError, match=r"no server 'other; quit'[\s\S]*" + site.routers[0]):
        site.edge.drain("other; quit", timeout=1)
    with pytest.raises(AnvilError):
        Edge(site.engine, "no-such-edge").read_servers()
    with pytest.raises(AnvilError, match="runtime API does not answer"):
        Edge(site.engine, site.routers[0]).read_servers()


def test_a_killed_replica_costs_at_most_the_streams_it_carried(site: Replicas, load: Load) -> None:
    load.start()
    time.sleep(1.5)
    carried = site.edge.read_servers()[0].sessions
    os.kill(site.api.inspect_container(site.routers[0])["State"]["Pid"], signal.SIGKILL)
    time.sleep(3)
    report = load.stop()
    assert report.failed_short == 0, report
    assert report.failed_streams <= carried + 2, (carried, report)
    wait_up(site)


def test_a_request_whose_body_comes_after_its_headers_goes_to_the_other_replica_when_its_own_dies(site: Replicas) -> None:
    """Most clients send headers and body apart. The edge can repeat a request only if it has read the whole body."""
    wait_up(site)
    where = urlsplit(site.url())
    body = json.dumps({"model": "heavy", "messages": [{"role": "user", "content": "Hi"}]}).encode()
    words = ["POST /v1/chat/completions HTTP/1.1", "Host: edge", f"Authorization: Bearer {TOKEN}", "Connection: close"]
    head = "\r\n".join([*words, "Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]).encode()

    def ask(_number: int) -> bytes:
        with socket.create_connection((str(where.hostname), int(where.port or 0)), timeout=20) as client:
            client.sendall(head)
            time.sleep(0.1)
            client.sendall(body)
            return b"".join(iter(lambda: client.recv(65536), b""))

    pid = site.api.inspect_container(site.routers[0])["State"]["Pid"]
    os.kill(pid, signal.SIGSTOP)  # it accepts connections and does not answer
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, number) for number in range(8)]
        time.sleep(0.5)
        waiting = sum(not one.done() for one in asked)
        os.kill(pid, signal.SIGKILL)
        answers = [one.result() for one in asked]
    assert waiting and [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 8, (waiting, answers)
    wait_up(site)
