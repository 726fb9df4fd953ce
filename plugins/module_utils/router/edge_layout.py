# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the edge's container has its configuration, private files and socket, and how a configuration carries its hash."""

from __future__ import annotations

import re

from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import PRIVATE

CONFIG_PATH = "/etc/anvil-edge/haproxy.cfg"
CONFIG_FOLDER, _SLASH, CONFIG_NAME = CONFIG_PATH.rpartition("/")
# The socket of HAProxy's runtime API; templates/edge/haproxy.cfg.j2 opens it.
SOCKET_PATH = "/tmp/haproxy.sock"

# The certificates that the edges of other hosts must be signed by.
CA_NAME = "ca.pem"
# The listener of watch for the edge: a socket in a folder of the collection, and where the edge mounts that folder.
WATCH_FOLDER, WATCH_SOCKET, WATCH_MOUNT = "watch-socket", "metrics.sock", "/run/anvil-watch"

CONFIG_HASH = re.compile(r"description anvil ([0-9a-f]{64})")


def parse_config_hash(text: str) -> str:
    """The hash in a configuration's ``description anvil HASH``; empty if there is none."""
    found = CONFIG_HASH.search(text)
    return found.group(1) if found else ""


def name_certificate(number: int) -> str:
    """The path of the edge's certificate of this number, with its chain and key."""
    return "{0}/{1}host-{2}.pem".format(CONFIG_FOLDER, PRIVATE, number)
