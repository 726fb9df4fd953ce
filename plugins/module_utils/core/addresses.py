# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses and ports: which exclude each other, how they are written, in a URL too, and whether this host is on their network"""

from __future__ import annotations

import errno
import socket
from typing import List, Optional, Sequence, Tuple

# (address, port, protocol)
Port = Tuple[str, int, str]

# The first 12 bytes of an IPv4 address that is written as an IPv6 one (::ffff:127.0.0.1).
_MAPPED = b"\0" * 10 + b"\xff\xff"


def bracket(host: str) -> str:
    """A host as it stands in a URL: an IPv6 address in brackets, everything else as it is."""
    return "[{0}]".format(host) if ":" in host and not host.startswith("[") else host


def format_url(scheme: str, host: str, port: int) -> str:
    return "{0}://{1}:{2}".format(scheme, bracket(host), port)


def split_protocol(target: str) -> Tuple[str, str]:
    """``8000/udp`` -> (``8000``, ``udp``). Without a protocol it is tcp."""
    port, _slash, protocol = target.partition("/")
    return port, protocol.lower() or "tcp"


def pack_address(text: str) -> Optional[bytes]:
    """An IP address as 4 or 16 bytes; None for a name. Brackets and a zone (``%eth0``) do not count."""
    word = text.strip("[]").partition("%")[0]
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            packed = socket.inet_pton(family, word)
        except (OSError, ValueError):
            continue
        return packed[12:] if packed.startswith(_MAPPED) else packed
    return None


def is_on_network(address: str, prefix: int) -> Optional[bool]:
    """Whether this host has an address in the network of another one, so that its packets reach it without a router.

    prefix: bits of the network; 0: unknown. None: unknown. Nothing is sent.
    """
    packed = pack_address(address)
    if packed is None or not 0 < prefix <= 8 * len(packed):
        return None
    try:
        with socket.socket(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect((address.strip("[]"), 9))
            mine = pack_address(str(probe.getsockname()[0])) or b""
    except OSError as exc:
        return False if exc.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EAFNOSUPPORT) else None
    rest = 8 * len(packed) - prefix
    return len(mine) == len(packed) and int.from_bytes(mine, "big") >> rest == int.from_bytes(packed, "big") >> rest


def addresses_overlap(one: str, other: str) -> bool:
    """Whether two bind addresses cannot have the same port. A link-local address is another one in each zone (``%eth0``).

    A wildcard holds every address of its family; IPv4 and IPv6 are apart, as the Docker Engine publishes them. An empty address
    is the wildcard of both families.
    """
    if not one or not other:
        return True
    zone, other_zone = (address.strip("[]").partition("%")[2] for address in (one, other))
    if zone and other_zone and zone != other_zone:
        return False
    packed, other_packed = pack_address(one), pack_address(other)
    if packed is None or other_packed is None:
        return one == other
    return len(packed) == len(other_packed) and (packed == other_packed or not any(packed) or not any(other_packed))


def ports_overlap(one: Port, other: Port) -> bool:
    """Whether two sockets cannot exist side by side. UDP and TCP are apart."""
    return one[1:] == other[1:] and addresses_overlap(one[0], other[0])


def list_ports(published: Sequence[Tuple[str, int, str]]) -> List[Port]:
    """The ports of a service or container (``host address, host port, container port/protocol``) on the host.

    A port that the Docker Engine chooses at the start (0) is not among them.
    """
    return [(bind, port, split_protocol(target)[1]) for bind, port, target in published if port]


def name_port(port: Port) -> str:
    """As an operator writes it: ``127.0.0.1:8000``, ``[::1]:8000``, ``127.0.0.1:8000/udp``."""
    return "{0}:{1}{2}".format(bracket(port[0]), port[1], "" if port[2] == "tcp" else "/" + port[2])
