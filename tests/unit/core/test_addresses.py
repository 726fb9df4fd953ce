"""Which addresses share a port, and how an address stands in a URL."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.addresses import addresses_overlap, format_url, split_protocol


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("0.0.0.0", "127.0.0.1", True),
        ("0.0.0.0", "192.0.2.7", True),
        ("0.0.0.0", "::1", False),
        ("0.0.0.0", "::", False),
        ("::", "::1", True),
        ("[::]", "fd00::1", True),
        ("::", "127.0.0.1", False),
        ("::1", "0:0:0:0:0:0:0:1", True),
        ("[::1]", "::1", True),
        ("fe80::1%eth0", "fe80::1", True),
        ("fe80::1%eth0", "fe80::1%eth1", False),
        ("[fe80::1%eth0]", "fe80::1%eth0", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("", "127.0.0.1", True),
        ("", "::1", True),
        ("localhost", "localhost", True),
        ("localhost", "127.0.0.1", False),
    ],
)
def test_which_addresses_share_a_port(one: str, other: str, overlap: bool) -> None:
    assert addresses_overlap(one, other) is overlap and addresses_overlap(other, one) is overlap


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
        ("[fd00::1]", "http://[fd00::1]:8000"),
        ("gpu-box", "http://gpu-box:8000"),
    ],
)
def test_an_ipv6_address_has_brackets_in_a_url(host: str, url: str) -> None:
    assert format_url("http", host, 8000) == url


@pytest.mark.parametrize(
    ("target", "parts"),
    [("8000/tcp", ("8000", "tcp")), ("8000/UDP", ("8000", "udp")), ("8000", ("8000", "tcp"))],
)
def test_the_protocol_of_a_port(target: str, parts: tuple[str, str]) -> None:
    assert split_protocol(target) == parts
