"""Services of compose files in canonical form."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_file import parse_bytes, parse_compose
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    Mount,
    Service,
    service_as_dict,
    service_from_dict,
)
from hypothesis import given
from hypothesis import strategies as st


def parse_one(**raw: Any) -> Service:
    return parse_compose({"services": {"s": raw}, "volumes": {"v": {"name": "real"}}, "networks": {"n": {"name": "net"}}})["s"]


@pytest.mark.parametrize(
    ("text", "size"), [("16g", 16 << 30), ("512mb", 512 << 20), ("1.5k", 1536), ("10b", 10), (7, 7), ("64m", 64 << 20)]
)
def test_sizes_are_read_as_bytes(text: Any, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "g", "lots", "1 parsec"])
def test_an_invalid_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"could not convert|invalid literal"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("port", "canonical"),
    [
        ("127.0.0.1:30002:30002", ("127.0.0.1", 30002, "30002/tcp")),
        ("30002:8000", ("0.0.0.0", 30002, "8000/tcp")),
        ("8000", ("0.0.0.0", 0, "8000/tcp")),
        ("[::1]:1:2/udp", ("::1", 1, "2/udp")),
        ({"target": 5, "published": "6", "host_ip": "127.0.0.1", "mode": "ingress"}, ("127.0.0.1", 6, "5/tcp")),
    ],
)
def test_every_spelling_of_a_port_has_one_form(port: Any, canonical: tuple[str, int, str]) -> None:
    assert parse_one(ports=[port]).ports == (canonical,)


def test_volumes_and_networks_have_their_real_names() -> None:
    service = parse_one(volumes=["v:/a", "/b:/b:ro"], networks=["n"])
    assert service.mounts == (Mount("volume", "real", "/a"), Mount("bind", "/b", "/b", True))
    assert service.networks == ("net",)


def test_a_doubled_dollar_is_read_as_one() -> None:
    assert parse_one(command=["$$HOME"], environment={"A": "$$x"}).command == ("$HOME",)


def test_a_command_as_one_string_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a list of strings, not the string"):
        parse_one(command="vllm serve x")


@pytest.mark.parametrize(
    ("check", "canonical"),
    [
        (None, None),
        ({"disable": True}, ("NONE",)),
        ({"test": ["NONE"]}, ("NONE",)),
        ({"test": "true"}, ("CMD-SHELL", "true")),
        ({"test": ["CMD", "true"], "disable": False}, ("CMD", "true")),
        ({"interval": "1s"}, None),
    ],
)
def test_every_spelling_of_a_health_check_has_one_form(check: Any, canonical: Any) -> None:
    assert parse_one(healthcheck=check).healthcheck == canonical


def test_limits_and_logging_are_read_and_silence_leaves_them_to_the_engine() -> None:
    logging = {"driver": "local", "options": {"max-file": 5}}
    service = parse_one(logging=logging, pids_limit=7, mem_limit="1g")
    assert (service.log_driver, service.log_options) == ("local", {"max-file": "5"})
    assert (service.pids_limit, service.memory_bytes) == (7, 1 << 30)
    silent = parse_one()
    assert (silent.shm_bytes, silent.log_driver, silent.pids_limit, silent.healthcheck) == (None, "", 0, None)


def test_gpus_are_read_from_the_reservation() -> None:
    devices = [{"driver": "nvidia", "device_ids": ["GPU-b", "GPU-a"], "capabilities": ["gpu"]}]
    service = parse_one(deploy={"resources": {"reservations": {"devices": devices}}})
    assert service.gpu_uuids == ("GPU-b", "GPU-a")


def test_names_of_cdi_are_read_as_uuids() -> None:
    device = {"driver": "cdi", "device_ids": ["nvidia.com/gpu=GPU-a"], "capabilities": ["gpu"]}
    service = parse_one(deploy={"resources": {"reservations": {"devices": [device]}}})
    assert (service.gpu_uuids, service.gpu_driver) == (("GPU-a",), "cdi")
    plain = parse_one(deploy={"resources": {"reservations": {"devices": [{**device, "driver": "nvidia"}]}}})
    assert (plain.gpu_uuids, plain.gpu_driver) == (("GPU-a",), "nvidia")


WORDS = st.lists(st.text(max_size=8), max_size=4)


@given(
    command=st.none() | WORDS,
    environment=st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5), max_size=3),
    shm=st.integers(1, 1 << 40),
    read_only=st.booleans(),
)
def test_a_service_survives_the_conversion_to_a_dict_and_back(
    command: list[str] | None, environment: dict[str, str], shm: int, read_only: bool
) -> None:
    service = Service(
        name="s",
        container="c",
        image="i",
        command=None if command is None else tuple(command),
        environment=environment,
        shm_bytes=shm,
        read_only=read_only,
        ports=(("127.0.0.1", 1, "1/tcp"),),
        mounts=(Mount("bind", "/a", "/b"),),
    )
    again = service_from_dict(service_as_dict(service))
    assert again == service and again.spec_hash() == service.spec_hash()


def test_the_hash_ignores_labels_and_x_anvil() -> None:
    one = parse_one(image="i", labels={"a": "1"}, **{"x-anvil": {"ready": {"timeout": 5}}})
    other = parse_one(image="i", labels={"a": "2"}, **{"x-anvil": {"ready": {"timeout": 9}}})
    assert one.spec_hash() == other.spec_hash() != parse_one(image="j").spec_hash()
