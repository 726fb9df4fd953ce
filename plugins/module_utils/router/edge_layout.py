# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the edge's container has its configuration, certificates and runtime socket, and how a configuration carries its hash."""

from __future__ import annotations

import re

CONFIG_PATH = "/etc/anvil-edge/haproxy.cfg"
# The folder of certificates.
TLS_FOLDER = "/etc/anvil-tls"
# The socket of HAProxy's runtime API; templates/edge/haproxy.cfg.j2 opens it.
SOCKET_PATH = "/tmp/haproxy.sock"

CONFIG_HASH = re.compile(r"description anvil ([0-9a-f]{64})")


def parse_config_hash(text: str) -> str:
    """The hash in a configuration's ``description anvil HASH``; empty if there is none."""
    found = CONFIG_HASH.search(text)
    return found.group(1) if found else ""
