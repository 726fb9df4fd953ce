#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_router_edge
short_description: Promote the edge's configuration, with no connection dropped
version_added: 1.0.0
author:
  - The anvil.serving authors (@fakoli)
description:
  - The edge is the HAProxy before a router's replicas. With O(config), its configuration is promoted as
    M(anvil.serving.anvil_router_promote) promotes a router's - HAProxy's own check in a side container, an immutable
    revision in the edge's volume, one rename, a reload, and the way back, verified, if anything fails.
  - A reload is HAProxy's own. A new process takes over the listening sockets while the old one ends its requests. The
    new one must tell that it has read this very configuration, and stay.
  - Without O(config) it only looks whether the process has read the file that is written, and reloads it if not.
  - While the edge is reloaded it holds the lock of the replicas' config volume, so that nobody promotes or restarts one;
    it is refused while a replica is drained, because the new process would lead clients to it.
options:
  state:
    description:
      - V(present) makes O(config) live.
      - V(rolled_back) makes the revision named by O(revision) live again.
    type: str
    choices: [present, rolled_back]
    default: present
  container:
    description:
      - The edge's container. If it does not exist or is stopped, the configuration is made live for its next start.
    type: str
    default: anvil-router-edge
  config:
    description:
      - The text of C(haproxy.cfg).
    type: str
  volume:
    description:
      - The volume with the edge's configuration; created if it is missing.
    type: str
    default: anvil-router-edge-cfg
  image:
    description:
      - The edge's image, used to validate where no container exists, or where O(reload=false) says that the container
        is about to be replaced. Never pulled.
    type: str
    default: ''
  writer_image:
    description:
      - An image with C(python3) that writes into the volume; the router's will do. Never pulled.
    type: str
    default: ''
  folders:
    description:
      - What a container that is not there yet will mount read-only, path inside to folder of the host, such as the
        folder of the certificates; HAProxy's check needs to see it.
    type: dict
    default: {}
  dry_boot:
    description:
      - Whether a throwaway HAProxy must first come up on the configuration. Its check opens no sockets.
    type: bool
    default: true
  revision:
    description:
      - What O(state=rolled_back) goes back to, V(previous) or the beginning of a revision's sha256.
    type: str
    default: previous
  keep:
    description:
      - How many revisions the volume holds; the live one and the one before it are never removed.
    type: int
    default: 10
  reload:
    description:
      - Whether to reload a running edge. With V(false) the configuration is live for its next start.
    type: bool
    default: true
  force:
    description:
      - Reload although the configuration is the same, to read a renewed certificate.
    type: bool
    default: false
  timeout:
    description:
      - Seconds within which the new process must have taken over.
    type: float
    default: 15
  settle:
    description:
      - Seconds for which it must then stay. Left out, it is 2 s for a configuration that has lived, and 8 s for another.
    type: float
  lock_timeout:
    description:
      - Seconds to wait for a promotion or a restart of the replicas to end.
    type: float
    default: 60
  docker_host:
    description:
      - The Docker Engine.
    type: str
    default: unix:///var/run/docker.sock
attributes:
  check_mode:
    support: full
    description: Lets HAProxy check the configuration, and changes nothing.
  diff_mode:
    support: full
    description: Shows the configuration before and after.
requirements:
  - Docker Engine 24 or newer
  - Docker SDK for Python
seealso:
  - module: anvil.serving.anvil_router_promote
  - module: anvil.serving.anvil_router_info
"""

EXAMPLES = r"""
- name: The edge runs on the configuration that the inventory renders
  anvil.serving.anvil_router_edge:
    config: "{{ anvil.router_files.edge }}"
    image: anvil.local/edge:1
    writer_image: anvil.local/router:0.13.2

- name: Back to the configuration before
  anvil.serving.anvil_router_edge:
    state: rolled_back
    writer_image: anvil.local/router:0.13.2

- name: The edge presents the renewed certificate
  anvil.serving.anvil_router_edge:
    force: true
"""

RETURN = r"""
revision:
  description:
    - With O(config) or O(state=rolled_back) the live revision before and after. Otherwise the hash of the configuration
      in memory, and of the one that is written.
  returned: success
  type: dict
  sample: {"old": "1f0c3e8f6a0c1c9d", "new": "9c0e3f0d7bb0c5e2"}
actions:
  description: What was done, or in check mode what would be, in order.
  returned: success, with O(config) or O(state=rolled_back)
  type: list
  elements: str
  sample: ["validated", "switched from 1f0c3e8f6a0c to 9c0e3f0d7bb0", "reloaded", "verified"]
reloaded:
  description: Whether the running edge was reloaded. False where it does not run.
  returned: success, with O(config) or O(state=rolled_back)
  type: bool
verified:
  description: The proof that it took the configuration and stayed up; null where nothing was reloaded.
  returned: success, with O(config) or O(state=rolled_back)
  type: dict
history:
  description: Every revision held, the live one first.
  returned: success, with O(config) or O(state=rolled_back)
  type: list
  elements: dict
warnings:
  description: What an operator should know although nothing failed.
  returned: success
  type: list
  elements: str
seconds:
  description: How long the reload of O(force), or of a file that was not read yet, took.
  returned: success, where nothing was promoted
  type: float
  sample: 0.31
problems:
  description: Everything that is wrong, each with C(what), C(where), C(why), C(hint) and C(log).
  returned: failure
  type: list
  elements: dict
"""

from ansible_collections.anvil.serving.plugins.module_utils.core import importing  # pylint: disable=unused-import
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_promotion import run_edge_module

OPTIONS = {
    "state": {"type": "str", "choices": ["present", "rolled_back"], "default": "present"},
    "container": {"type": "str", "default": "anvil-router-edge"},
    "config": {"type": "str"},
    "volume": {"type": "str", "default": "anvil-router-edge-cfg"},
    "image": {"type": "str", "default": ""},
    "writer_image": {"type": "str", "default": ""},
    "folders": {"type": "dict", "default": {}},
    "dry_boot": {"type": "bool", "default": True},
    "revision": {"type": "str", "default": "previous"},
    "keep": {"type": "int", "default": 10},
    "reload": {"type": "bool", "default": True},
    "force": {"type": "bool", "default": False},
    "timeout": {"type": "float", "default": 15.0},
    "settle": {"type": "float"},
    "lock_timeout": {"type": "float", "default": 60.0},
}


def work(module):
    return run_edge_module(DockerEngine(module.params["docker_host"]), module.params, module.check_mode, module._diff)


def main():
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
