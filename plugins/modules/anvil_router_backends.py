#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_router_backends
short_description: Drain and readmit the backends of a host at a gateway
version_added: 1.0.0
author:
  - The anvil.serving authors (@fakoli)
description:
  - A tier over hosts has its backends at the edge of a gateway. The module takes those of O(hosts) out of service, waits until
    their requests have ended, or puts them back into service. It runs on the gateway and contacts no other host.
  - The live configuration of the edge says which backends are drained. So they stay drained when the edge is reloaded or
    restarted, and when M(anvil.serving.anvil_router_edge) promotes another configuration.
  - The running process is told through its runtime API. Nothing is reloaded, and no request fails.
options:
  state:
    description:
      - V(drained) sends the backends no new requests, and waits until those in flight have ended.
      - V(admitted) sends them requests again as soon as their health check passes, and waits for that.
    type: str
    choices: [drained, admitted]
    required: true
  hosts:
    description:
      - The hosts, by their names in the inventory. A host without a backend at this edge is not an error, and
        neither is an edge that does not exist.
    type: list
    elements: str
    required: true
  container:
    description:
      - The edge's container.
    type: str
    default: anvil-router-edge
  volume:
    description:
      - The volume with the edge's configuration.
    type: str
    default: anvil-router-edge-cfg
  image:
    description:
      - The edge's image, used if the container does not run. The module never pulls it.
    type: str
    default: ''
  writer_image:
    description:
      - An image with C(python3) that writes into the volume. The module never pulls it.
    type: str
    default: ''
  drain_timeout:
    description:
      - Seconds within which the requests in flight must end. Otherwise the module fails, and the backends stay drained.
    type: float
    default: 330
  up_timeout:
    description:
      - Seconds within which a readmitted backend must pass its health check. Otherwise the module fails; the backend gets
        requests as soon as it passes.
    type: float
    default: 60
  last:
    description:
      - Whether the last backend of a tier that is up may be drained too.
    type: bool
    default: false
  temporary:
    description:
      - Whether the backends are drained only until the next promotion of the edge's configuration, as C(site.yml) does while it
        changes a host. What an operator drained is then neither changed nor readmitted.
    type: bool
    default: false
  lock_timeout:
    description:
      - Seconds to wait for a promotion of the edge's configuration to end.
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
    description: Says whether a backend would be drained or readmitted, and changes nothing.
  diff_mode:
    support: none
    description: Nothing to compare.
requirements:
  - Docker Engine 24 or newer
  - Docker SDK for Python
seealso:
  - module: anvil.serving.anvil_router_edge
"""

EXAMPLES = r"""
- name: Send no more requests to the serves of gpu1
  anvil.serving.anvil_router_backends:
    state: drained
    hosts: [gpu1]
    writer_image: anvil.local/router:0.13.2
"""

RETURN = r"""
backends:
  description: The backends of O(hosts) at this edge.
  returned: success
  type: list
  elements: str
  sample: ["gpu1:fast"]
seconds:
  description: Seconds that the drain took, or the wait until the backends were up.
  returned: success
  type: float
  sample: 2.4
problems:
  description: All problems, each with C(what), C(where), C(why), C(hint) and C(log).
  returned: failure
  type: list
  elements: dict
"""

from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.router.backend_drain import DrainRequest, change_backends

OPTIONS = {
    "state": {"type": "str", "choices": ["drained", "admitted"], "required": True},
    "hosts": {"type": "list", "elements": "str", "required": True},
    "container": {"type": "str", "default": "anvil-router-edge"},
    "volume": {"type": "str", "default": "anvil-router-edge-cfg"},
    "image": {"type": "str", "default": ""},
    "writer_image": {"type": "str", "default": ""},
    "drain_timeout": {"type": "float", "default": 330.0},
    "up_timeout": {"type": "float", "default": 60.0},
    "last": {"type": "bool", "default": False},
    "temporary": {"type": "bool", "default": False},
    "lock_timeout": {"type": "float", "default": 60.0},
}


def work(module):
    given = {name: module.params[name] for name in OPTIONS if name != "state"}
    request = DrainRequest(drained=module.params["state"] == "drained", **given)
    return change_backends(DockerEngine(module.params["docker_host"]), request, module.check_mode)


def main():
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
