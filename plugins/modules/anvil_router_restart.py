#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_router_restart
short_description: Restart a router, replica by replica
version_added: 1.0.0
author:
  - The anvil.serving authors (@fakoli)
description:
  - With an edge, each replica is drained, restarted, and readmitted when its health check passes, before the next one is
    touched. No client notices. The first replica that fails ends the restart; those after it are not touched.
  - Without an edge the one container is restarted, and C(/healthz) must answer on its published port.
  - Each must then stay up for O(settle) before the next one is touched. A restart loop fails the module.
  - Changes no file. Use M(anvil.serving.anvil_router_promote) for that.
options:
  replicas:
    description:
      - The router's containers, in the order of the restart.
    type: list
    elements: str
    default: [anvil-router]
  edge:
    description:
      - The edge's container; empty if there is none.
    type: str
    default: ''
  drain_timeout:
    description:
      - Seconds within which the requests in flight of a replica must end. Otherwise the replica gets requests again, is
        not restarted, and the module fails.
    type: float
    default: 330
  grace:
    description:
      - Seconds that the process gets to end by itself before it is killed.
    type: int
    default: 10
  start_timeout:
    description:
      - Seconds within which the restarted container must answer.
    type: float
    default: 60
  settle:
    description:
      - Seconds for which the restarted process must then stay up, with the health check of its image not failing. A replica
        that its restart policy had started before is observed for at least 10 s, except with V(0).
    type: float
    default: 2
  lock_timeout:
    description:
      - Seconds to wait for a running promotion of the router's files to end. None can begin during the restart.
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
    description: Checks that the replicas exist and reports a change; restarts nothing.
  diff_mode:
    support: none
    description: Nothing to compare.
requirements:
  - Docker Engine 24 or newer
  - Docker SDK for Python
seealso:
  - module: anvil.serving.anvil_router_info
"""

EXAMPLES = r"""
- name: Restart the replicas one by one
  anvil.serving.anvil_router_restart:
    replicas: [anvil-router-1, anvil-router-2]
    edge: anvil-router-edge
"""

RETURN = r"""
seconds:
  description: Seconds that each replica took, including the drain.
  returned: success
  type: dict
  sample: {"anvil-router-1": 2.91, "anvil-router-2": 2.68}
problems:
  description: All problems, each with C(what), C(where), C(why), C(hint) and C(log).
  returned: failure
  type: list
  elements: dict
"""

from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.router.replica_restart import (
    RestartTimeouts,
    check_replicas,
    restart_replicas,
)

OPTIONS = {
    "replicas": {"type": "list", "elements": "str", "default": ["anvil-router"]},
    "edge": {"type": "str", "default": ""},
    "drain_timeout": {"type": "float", "default": 330.0},
    "grace": {"type": "int", "default": 10},
    "start_timeout": {"type": "float", "default": 60.0},
    "lock_timeout": {"type": "float", "default": 60.0},
    "settle": {"type": "float", "default": 2.0},
}


def work(module):
    given = module.params
    docker = DockerEngine(given["docker_host"])
    if module.check_mode:
        check_replicas(docker, given["edge"], given["replicas"])
        return {"changed": True, "seconds": {}}
    timeouts = RestartTimeouts(
        given["drain_timeout"], given["grace"], given["start_timeout"], given["lock_timeout"], given["settle"]
    )
    seconds = restart_replicas(docker, given["edge"], given["replicas"], timeouts)
    return {"changed": True, "seconds": seconds}


def main():
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
