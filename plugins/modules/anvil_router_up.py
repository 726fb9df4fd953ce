#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_router_up
short_description: Bring the containers of a router up, its replicas one by one
version_added: 1.1.0
author:
  - The anvil.serving authors (@fakoli)
description:
  - Does for the compose project of a router what M(anvil.serving.anvil_serve) does with
    O(anvil.serving.anvil_serve#module:state=up).
  - Replicas behind an edge that have to be recreated, because of a new image for example, are replaced one by one. Each is
    drained first, and the edge must see it up before the next one. If one does not come up, the others stay as they are.
  - Containers of the project that the inventory no longer has are removed when they have no request in flight, with their
    pointers in the config volume.
  - Changes no file of the router. Use M(anvil.serving.anvil_router_promote) for that.
options:
  secrets:
    description: Values of the secrets that the router names.
    type: dict
    default: {}
  edge:
    description: The container of the HAProxy in front of the replicas; empty for a router without replicas.
    type: str
    default: ''
  volume:
    description: The router's config volume.
    type: str
    default: anvil-router-cfg
  drain_timeout:
    description: Seconds within which the requests in flight of a replica must end.
    type: float
    default: 330
  start_timeout:
    description: Seconds within which the edge must see a replaced replica up.
    type: float
    default: 60
  lock_timeout:
    description: Seconds to wait for a running promotion of the router's files to end.
    type: float
    default: 60
attributes:
  check_mode:
    support: full
    description: Predicts every action, and changes nothing.
  diff_mode:
    support: full
    description: As M(anvil.serving.anvil_serve).
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
  - anvil.serving.anvil.project
seealso:
  - module: anvil.serving.anvil_router_promote
  - module: anvil.serving.anvil_router_restart
"""

EXAMPLES = r"""
- name: Bring the router up
  anvil.serving.anvil_router_up:
    project: "{{ anvil.router }}"
    edge: "{{ anvil.router_names.edge }}"
    volume: "{{ anvil.plan.router.volume }}"
    secrets: "{{ anvil_secrets }}"
"""

RETURN = r"""
serves:
  description: As RV(anvil.serving.anvil_serve#module:serves), for each container of the router.
  returned: always
  type: dict
rolled:
  description: The replicas that were replaced one by one.
  returned: success
  type: list
  elements: str
  sample: [router-1, router-2]
removed:
  description: The containers that were removed because the inventory no longer has them.
  returned: success
  type: list
  elements: str
  sample: [anvil-router-2, anvil-router-edge]
problems:
  description: All problems, each with C(what), C(where), C(why), C(hint) and C(log).
  returned: failure
  type: list
  elements: dict
"""

from ansible_collections.anvil.serving.plugins.module_utils.core.module import PROJECT_OPTIONS, run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.router.deployment import Deployment, bring_up
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import read_project

OPTIONS = {
    "project": PROJECT_OPTIONS["project"],
    "secrets": PROJECT_OPTIONS["secrets"],
    "edge": {"type": "str", "default": ""},
    "volume": {"type": "str", "default": "anvil-router-cfg"},
    "drain_timeout": {"type": "float", "default": 330.0},
    "start_timeout": {"type": "float", "default": 60.0},
    "lock_timeout": {"type": "float", "default": 60.0},
}


def work(module):
    given = module.params
    project = read_project(given["project"], given["secrets"], ())
    request = Deployment(
        project, given["edge"], given["volume"], given["drain_timeout"], given["start_timeout"], given["lock_timeout"]
    )
    return bring_up(DockerEngine(given["docker_host"]), request, module.check_mode)


def main():
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
