"""Backends of a tier are drained and readmitted at a real edge, which has two OpenAI servers behind it and clients in front."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import docker
import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.plan.edge_plan import BackendPlan, EdgeLimits, EdgePlan, TierFront
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import Edge
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render_edge import render_edge_config
from bed import Bed
from harness import run_module
from load import Load
from replicas import BACKEND, EDGE_IMAGE, ROUTER_IMAGE
from routersite import kill_before, spawn_module, wait_until

SUBNET = "10.213.78"
ONE, TWO = "one:fast", "two:fast"


@dataclass
class Gateway:
    """An edge with a tier over two backends, each a server of its own. Clients of the test connect where a router would."""

    api: docker.APIClient
    engine: DockerEngine
    name: str = field(default_factory=lambda: "drain-" + uuid.uuid4().hex[:8])
    made: list[str] = field(default_factory=list)

    @property
    def edge(self) -> Edge:
        return Edge(self.engine, self.name)

    def config(self, **changes: Any) -> str:
        backends = tuple(BackendPlan(host, "fast", f"{SUBNET}.{10 + number}", 9000) for number, host in enumerate(("one", "two")))
        tier = TierFront("chat", 8000, backends, slow_start=0)
        plan = EdgePlan("", self.name, "", "", "", f"{SUBNET}.2", False, "", tiers=(tier,))
        # A server of this collection answers /healthz at the edge of its host; these have no edge and answer every path.
        return render_edge_config(HostPlan("test", "/", "linux", "net", {}, ()), replace(plan, **changes))

    def promote(self, config: str, **more: Any) -> dict[str, Any]:
        given = {"container": self.name, "volume": self.name, "image": EDGE_IMAGE, "writer_image": ROUTER_IMAGE}
        return run_module("anvil_router_edge", config=config, settle=0.1, dry_boot=False, **given, **more)

    @property
    def parameters(self) -> dict[str, Any]:
        given = {"container": self.name, "volume": self.name, "writer_image": ROUTER_IMAGE, "hosts": ["one"]}
        return {"state": "drained", "drain_timeout": 10, "up_timeout": 10, **given}

    def change(self, state: str = "drained", check: bool = False, **more: Any) -> dict[str, Any]:
        return run_module("anvil_router_backends", check, **{**self.parameters, "state": state, **more})

    def spawn(self, before: str = "", **given: Any) -> Any:
        return spawn_module("anvil_router_backends", before, {**self.parameters, **given})

    def run(self, name: str, image: str, address: str, host: dict[str, Any], **options: Any) -> None:
        endpoint = self.api.create_endpoint_config(ipv4_address=address)
        networking = self.api.create_networking_config({self.name: endpoint})
        self.api.create_container(
            image, name=name, host_config=self.api.create_host_config(**host), networking_config=networking, **options
        )
        self.made.append(name)
        self.api.start(name)

    def start(self) -> None:
        pool = docker.types.IPAMPool(subnet=SUBNET + ".0/24")
        self.api.create_network(self.name, ipam=docker.types.IPAMConfig(pool_configs=[pool]))
        for number in range(2):
            name, address = f"{self.name}-{number}", f"{SUBNET}.{10 + number}"
            self.run(name, ROUTER_IMAGE, address, {}, entrypoint=["python3", "-c", BACKEND])
        done = self.promote(self.config())
        assert not done["failed"], done
        host = {"port_bindings": {8000: ("127.0.0.1",)}, "binds": [f"{self.name}:/etc/anvil-edge:ro"]}
        self.run(self.name, EDGE_IMAGE, f"{SUBNET}.2", host, ports=[8000],
                 command=["-W", "-db", "-f", "/etc/anvil-edge/haproxy.cfg"])  # fmt: skip
        wait_until(lambda: self.states() == {ONE: "UP", TWO: "UP"})

    def states(self) -> dict[str, str]:
        try:
            return {server.name: server.status for server in self.edge.read_backends()}
        except AnvilError:  # it starts again
            return {}

    def process(self) -> str:
        """Its process id; another one after a reload. On a busy machine the output of a command is sometimes lost."""
        found = (self.edge.read_info().get("Pid", "") for _attempt in range(20))
        return next(filter(None, found), "")

    def sessions(self) -> int:
        return sum(server.sessions for server in self.edge.read_backends() if server.name == ONE)

    def port(self) -> int:
        return int(self.api.inspect_container(self.name)["NetworkSettings"]["Ports"]["8000/tcp"][0]["HostPort"])

    def load(self, **options: Any) -> Load:
        return Load(f"http://127.0.0.1:{self.port()}", **{"clients": 8, "stream_seconds": 2.0, "pause": 0.02, **options}).start()

    def clean(self) -> None:
        for name in self.made:
            self.engine.remove_container(name)
        self.api.remove_network(self.name)
        self.api.remove_volume(self.name, force=True)


@pytest.fixture(scope="module")
def started(bed: Bed) -> Iterator[Gateway]:
    bed.start_engine()
    made = Gateway(
        docker.APIClient(base_url=bed.environment["DOCKER_HOST"], version="1.43"), DockerEngine(bed.environment["DOCKER_HOST"])
    )
    try:
        made.start()
        yield made
    finally:
        made.clean()


@pytest.fixture
def gateway(started: Gateway) -> Gateway:
    done = started.change("admitted")
    assert not done["failed"] and started.states() == {ONE: "UP", TWO: "UP"}, done
    return started


def test_a_drain_lets_streams_end_and_fails_no_request(gateway: Gateway) -> None:
    load = gateway.load()
    wait_until(lambda: gateway.sessions() > 0)
    assert gateway.change(check=True)["changed"] and gateway.states()[ONE] == "UP"
    done = gateway.change()
    assert not done["failed"] and done["changed"] and done["backends"] == [ONE], done
    assert gateway.states() == {ONE: "MAINT", TWO: "UP"} and gateway.sessions() == 0
    again = gateway.change(), gateway.change(check=True)
    assert [each["changed"] for each in again] == [False, False]
    back = gateway.change("admitted")
    assert not back["failed"] and back["changed"], back
    wait_until(lambda: gateway.sessions() > 0)
    report = load.stop()
    assert report.failed == 0 and report.streams > 4, report
    assert not gateway.change("admitted")["changed"]


def test_a_drained_backend_stays_drained_through_a_reload_a_promotion_and_a_restart(gateway: Gateway) -> None:
    assert not gateway.change()["failed"]
    process = gateway.process()
    unchanged = gateway.promote(gateway.config())
    assert not unchanged["failed"] and not unchanged["changed"], unchanged
    assert process and gateway.process() == process  # a drain reloads nothing, and neither does the run after it
    load = gateway.load(clients=4, streams=0.0)
    done = gateway.promote(gateway.config(limits=EdgeLimits(connections=900)))
    assert not done["failed"] and done["reloaded"], done
    assert gateway.states() == {ONE: "MAINT", TWO: "UP"}
    assert load.stop().failed == 0
    gateway.api.restart(gateway.name, timeout=1)
    wait_until(lambda: gateway.states() == {ONE: "MAINT", TWO: "UP"})
    assert not gateway.change("admitted")["failed"]
    assert gateway.states()[ONE] == "UP"
    gateway.promote(gateway.config())


def test_a_request_that_does_not_end_leaves_the_backend_drained_and_is_told(gateway: Gateway) -> None:
    load = gateway.load(clients=2, streams=1.0, stream_seconds=10.0)
    wait_until(lambda: gateway.sessions() > 0)
    done = gateway.change(drain_timeout=0.5)
    assert done["failed"] and "one:fast still has requests after 0.5 s" in done["msg"] and "readmit_host.yml" in done["msg"]
    assert gateway.states()[ONE] == "MAINT"
    waited = gateway.change()
    assert not waited["failed"] and not waited["changed"] and gateway.sessions() == 0, waited
    assert load.stop().failed == 0


def test_the_last_backend_of_a_tier_is_not_drained_unasked(gateway: Gateway) -> None:
    assert not gateway.change()["failed"]
    refused = gateway.change(hosts=["two"])
    assert refused["failed"] and "tier-chat would have no backend that is up" in refused["msg"] and "last=true" in refused["msg"]
    assert gateway.states()[TWO] == "UP"
    assert not gateway.change(hosts=["two"], last=True)["failed"]
    assert gateway.states() == {ONE: "MAINT", TWO: "MAINT"}
    assert not gateway.change("admitted", hosts=["one", "two"])["failed"]


def test_a_temporary_drain_ends_with_the_next_promotion_and_leaves_that_of_an_operator_alone(gateway: Gateway) -> None:
    assert gateway.change(temporary=True)["changed"] and gateway.states()[ONE] == "MAINT"
    done = gateway.promote(gateway.config())
    assert not done["failed"] and done["changed"], done
    wait_until(lambda: gateway.states() == {ONE: "UP", TWO: "UP"})
    assert gateway.change()["changed"]
    for state in ("drained", "admitted"):
        assert not gateway.change(state, temporary=True)["changed"] and gateway.states()[ONE] == "MAINT"


# Before the files are written; between the files and the process, which is where a promotion is in flight.
STEPS = [
    ("drained", ("router.backend_drain", "", "_promote_marks", 1)),
    ("drained", ("router.backend_drain", "MarkedEdge", "reload", 1)),
    ("admitted", ("router.backend_drain", "MarkedEdge", "reload", 1)),
]


@pytest.mark.parametrize(("state", "step"), STEPS)
def test_a_run_that_is_killed_is_finished_by_the_next_one(gateway: Gateway, state: str, step: tuple[str, str, str, int]) -> None:
    if state == "admitted":
        assert not gateway.change()["failed"]
    assert kill_before(gateway.spawn, step, state=state)
    done = gateway.change(state)
    assert not done["failed"] and gateway.states() == {ONE: "MAINT" if state == "drained" else "UP", TWO: "UP"}, done
    assert not gateway.change(state)["changed"]
