"""Admission: every reason why a serve may not start."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import MigDevice, parse_cards
from ansible_collections.anvil.serving.plugins.module_utils.serves.admission import OtherContainer, admit
from nvidia_outputs import FAKOLI_DARK as TWO

CARDS = parse_cards(TWO)
SERVE = Service(name="heavy", container="c", image="i", gpu_uuids=(CARDS[0].uuid,), ports=(("127.0.0.1", 30002, "30002/tcp"),))


def test_a_free_host_admits() -> None:
    assert admit([SERVE], [OtherContainer("other", "", "running", (("127.0.0.1", 1, "tcp"),))], CARDS, {}) == {}


def test_all_problems_are_reported_at_once() -> None:
    squatter = OtherContainer("c", "theirs", "running", (("0.0.0.0", 30002, "tcp"),))
    wrong = Service(name="heavy", container="c", image="i", gpu_uuids=("GPU-gone",), ports=SERVE.ports)
    problems = admit([wrong], [squatter], CARDS, {})["heavy"]
    assert [problem.what for problem in problems] == [
        "the container name c is taken",
        "port 127.0.0.1:30002 is taken",
        "GPU GPU-gone is not on this host",
    ]
    assert "container c (project theirs, running)" in problems[0].why
    assert CARDS[1].uuid in problems[2].why


def test_a_missing_driver_is_reported_only_for_serves_with_gpus() -> None:
    assert "no NVIDIA driver" in admit([SERVE], [], None, {})["heavy"][0].what
    assert admit([Service(name="cpu", container="d", image="i")], [], None, {}) == {}


def test_a_port_held_by_a_process_outside_docker_is_refused() -> None:
    problems = admit([SERVE], [], CARDS, {("127.0.0.1", 30002, "tcp"): "a process outside Docker"})["heavy"]
    assert problems[0].why == "by a process outside Docker"


@pytest.mark.parametrize(
    ("held", "wanted", "taken"),
    [
        (("127.0.0.1", 8000, "tcp"), ("127.0.0.1", 8000, "8000/tcp"), True),
        (("", 8000, "tcp"), ("127.0.0.1", 8000, "8000/tcp"), True),
        (("", 8000, "tcp"), ("::1", 8000, "8000/tcp"), True),
        (("0.0.0.0", 8000, "tcp"), ("::1", 8000, "8000/tcp"), False),
        (("0.0.0.0", 8000, "udp"), ("127.0.0.1", 8000, "8000/tcp"), False),
        (("0.0.0.0", 8000, "udp"), ("127.0.0.1", 8000, "8000/udp"), True),
        (("10.0.0.1", 8000, "tcp"), ("127.0.0.1", 8000, "8000/tcp"), False),
        (("0.0.0.0", 8000, "tcp"), ("127.0.0.1", 0, "8000/tcp"), False),
    ],
)
def test_a_port_is_taken_only_for_its_protocol_and_address_family(
    held: tuple[str, int, str], wanted: tuple[str, int, str], taken: bool
) -> None:
    serve = Service(name="s", container="c", image="i", ports=(wanted,))
    assert bool(admit([serve], [OtherContainer("other", "", "running", (held,))], None, {})) is taken


def test_an_address_that_the_host_does_not_have_is_refused_with_the_full_port() -> None:
    serve = Service(name="s", container="c", image="i", ports=(("fd00::7", 8000, "8000/tcp"),))
    (problem,) = admit([serve], [], None, {}, {"fd00::7": "Cannot assign requested address"})["s"]
    assert problem.what == "the host does not have the address fd00::7"
    assert problem.why == "port [fd00::7]:8000 cannot be published: Cannot assign requested address"


def test_a_gpu_in_mig_mode_cannot_be_used_whole_and_its_devices_count_as_gpus() -> None:
    card = replace(CARDS[0], mig=True, mig_devices=(MigDevice("MIG-1", "3g.20gb"),))
    (problem,) = admit([SERVE], [], [card], {})["heavy"]
    assert "is in MIG mode" in problem.what and "MIG-1" in problem.why
    assert admit([replace(SERVE, gpu_uuids=("MIG-1",))], [], [card], {}) == {}


def test_a_port_that_the_engine_may_not_publish_is_told_before_a_container_is_touched() -> None:
    port = ("0.0.0.0", 443, "tcp")
    service = Service(name="web", container="web", image="i", ports=((port[0], port[1], "8000/tcp"),))
    (problem,) = admit([service], [], None, {}, None, {port: "the Docker Engine runs without root"})["web"]
    assert problem.what == "port 0.0.0.0:443 cannot be published on this host"
    assert "sysctl -w net.ipv4.ip_unprivileged_port_start=443" in problem.hint
