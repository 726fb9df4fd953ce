#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_router_edge
short_description: Promote the edge's configuration, clients and certificates without dropping a connection
version_added: 1.0.0
author:
  - The anvil.serving authors (@fakoli)
description:
  - The edge is the HAProxy at the boundary of a host, in front of its router and of the serves that are published. With
    O(config), its configuration is promoted as M(anvil.serving.anvil_router_promote) promotes a router's. HAProxy checks it
    in a side container, it becomes an immutable revision in the edge's volume, one rename makes it live, and HAProxy is
    reloaded. If anything fails, the old configuration is made live again, and that is verified.
  - A revision also holds O(maps), O(certificates) with their keys, the digests of the keys of O(clients), and the keys of
    O(servers). So a changed certificate or key is a new revision. Files with secrets belong to the user of the edge, with
    mode 0600, and no diff shows them.
  - HAProxy reloads itself. A new process takes over the listening sockets while the old one ends its requests. The new
    process must report the hash of this configuration, and stay up.
  - Without O(config) the module compares the configuration in memory with the written file, and reloads HAProxy if they
    differ.
  - The module holds the lock of the replicas' config volume during the reload, so that no replica is promoted or
    restarted. It refuses to reload while a replica is drained, because the new process would send it requests.
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
      - The edge's container. If it does not exist or is stopped, the configuration becomes live at its next start.
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
      - The edge's image. It validates the configuration if no container exists, or if O(reload=false) says that the
        container is about to be replaced. The module never pulls it.
    type: str
    default: ''
  writer_image:
    description:
      - An image with C(python3) that writes into the volume, such as the router's. The module never pulls it.
    type: str
    default: ''
  maps:
    description:
      - Files that O(config) reads, without secrets. A mapping of the name of a file to its text.
    type: dict
    default: {}
  certificates:
    description:
      - Certificates of the edge, as PEM files on the host. The module reads them at every run.
    type: list
    elements: dict
    default: []
    suboptions:
      certificate:
        description: The certificate with its chain.
        type: path
        required: true
      key:
        description: Its private key. Without it, the file of the certificate holds the key too.
        type: path
  ca:
    description:
      - A PEM file on the host with the certificates that the edges of other hosts must be signed by, for tiers over hosts.
    type: path
    default: ''
  clients:
    description:
      - Who may use the edge. A mapping of the name of a client to the names of its keys in O(secrets).
    type: dict
    default: {}
  servers:
    description:
      - The keys that the edge presents to the servers behind it. A mapping of a backend of O(config) to a name in O(secrets).
    type: dict
    default: {}
  secrets:
    description: Values of the secrets that O(clients) and O(servers) name.
    type: dict
    default: {}
  dry_boot:
    description:
      - Whether a throwaway HAProxy must first come up on the configuration. HAProxy's own check opens no sockets.
    type: bool
    default: true
  revision:
    description:
      - The revision for O(state=rolled_back), V(previous) or the beginning of a revision's sha256.
    type: str
    default: previous
  keep:
    description:
      - The number of revisions that the volume keeps. The live one and the one before it are never removed.
    type: int
    default: 10
  reload:
    description:
      - Whether to reload a running edge. With V(false) it reads the configuration at its next start.
    type: bool
    default: true
  force:
    description:
      - Whether to reload although the configuration is the same, to read a renewed certificate.
    type: bool
    default: false
  timeout:
    description:
      - Seconds within which the new process must take over.
    type: float
    default: 15
  settle:
    description:
      - Seconds for which the new process must then stay up. Without it, a configuration that has run for 8 s before is
        observed for 2 s, and any other for 8 s.
    type: float
  lock_timeout:
    description:
      - Seconds to wait for a running promotion or restart of the replicas to end.
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
    description: HAProxy checks the configuration, and nothing is changed.
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
- name: Promote the configuration that the inventory renders
  anvil.serving.anvil_router_edge:
    config: "{{ anvil.edge.config }}"
    maps: "{{ anvil.edge.maps }}"
    certificates: [{certificate: /etc/anvil-tls/host.pem, key: /etc/anvil-tls/host.key}]
    clients: {alice: [alice_key]}
    servers: {routers: router_token}
    secrets: "{{ anvil_secrets }}"
    image: anvil.local/edge:1
    writer_image: anvil.local/router:0.13.2

- name: Roll back to the previous configuration
  anvil.serving.anvil_router_edge:
    state: rolled_back
    writer_image: anvil.local/router:0.13.2

- name: Promote what the inventory renders, with its clients and certificates
  anvil.serving.anvil_router_edge: "{{ anvil.edge | combine({'secrets': anvil_secrets}) }}"
"""

RETURN = r"""
revision:
  description:
    - With O(config) or O(state=rolled_back), the live revision before and after. Otherwise the hash of the
      configuration in memory, and of the written one.
  returned: success
  type: dict
  sample: {"old": "1f0c3e8f6a0c1c9d", "new": "9c0e3f0d7bb0c5e2"}
actions:
  description: The actions taken, or in check mode the actions that would be taken, in order.
  returned: success, with O(config) or O(state=rolled_back)
  type: list
  elements: str
  sample: ["validated", "switched from 1f0c3e8f6a0c to 9c0e3f0d7bb0", "reloaded", "verified"]
reloaded:
  description: Whether the running edge was reloaded; false if it does not run.
  returned: success, with O(config) or O(state=rolled_back)
  type: bool
verified:
  description: The proof that it read the configuration and stayed up; null if nothing was reloaded.
  returned: success, with O(config) or O(state=rolled_back)
  type: dict
history:
  description: Every revision in the volume, the live one first.
  returned: success, with O(config) or O(state=rolled_back)
  type: list
  elements: dict
certificates:
  description: The last day of each certificate, by the path of its file; empty where it could not be read.
  returned: success, with O(config)
  type: dict
  sample: {"/etc/anvil-tls/host.pem": "2027-02-28"}
warnings:
  description: Facts that an operator should know although nothing failed, such as a certificate that expires within 30 days.
  returned: success
  type: list
  elements: str
seconds:
  description: How long a reload without a promotion took, in seconds.
  returned: success, if nothing was promoted
  type: float
  sample: 0.31
problems:
  description: All problems, each with C(what), C(where), C(why), C(hint) and C(log).
  returned: failure
  type: list
  elements: dict
"""

from ansible_collections.anvil.serving.plugins.module_utils.core.module import PROJECT_OPTIONS, run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_promotion import run_edge_module

CERTIFICATE_OPTIONS = {
    "certificate": {"type": "path", "required": True},
    "key": {"type": "path", "no_log": False},
}
OPTIONS = {
    "state": {"type": "str", "choices": ["present", "rolled_back"], "default": "present"},
    "container": {"type": "str", "default": "anvil-router-edge"},
    "config": {"type": "str"},
    "volume": {"type": "str", "default": "anvil-router-edge-cfg"},
    "image": {"type": "str", "default": ""},
    "writer_image": {"type": "str", "default": ""},
    "maps": {"type": "dict", "default": {}},
    "certificates": {"type": "list", "elements": "dict", "default": [], "options": CERTIFICATE_OPTIONS},
    "ca": {"type": "path", "default": ""},
    "clients": {"type": "dict", "default": {}},
    "servers": {"type": "dict", "default": {}},
    "secrets": PROJECT_OPTIONS["secrets"],
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
