#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_router_token
short_description: Give a router a new token without a failed request
version_added: 1.1.0
author:
  - The anvil.serving authors (@fakoli)
description:
  - A router accepts one token. The module drains one replica, takes it out of the edge's configuration, and recreates it with
    the new token. Then one reload of the edge turns to this replica and the new token. When the last request of the old process
    of the edge has ended, the other replicas are recreated, and one more reload sends them requests again.
  - Each step is read off what runs. A run that was killed is finished by the next one.
  - Requests fail if there is one replica, if no edge is in front of it, or if clients present the token themselves. The module
    refuses that without O(at_once). With it, the router is restarted, and the edge is reloaded right after.
options:
  secrets:
    description: Values of the secrets, the new one among them.
    type: dict
    default: {}
  token:
    description: The name of the router's token in O(secrets).
    type: str
    required: true
  edge:
    description:
      - The options of M(anvil.serving.anvil_router_edge), RV(anvil.serving.anvil_plan#module:edge); empty without an edge.
    type: dict
    default: {}
  at_once:
    description: Whether requests may fail, where that cannot be avoided.
    type: bool
    default: false
  drain_timeout:
    description: Seconds within which the requests in flight of a replica must end.
    type: float
    default: 330
  start_timeout:
    description: Seconds within which a recreated replica must answer with the new token.
    type: float
    default: 60
  settle:
    description: Seconds for which the edge must stay up after each reload.
    type: float
    default: 2
  lock_timeout:
    description: Seconds to wait for a running promotion of the router's files to end.
    type: float
    default: 60
attributes:
  check_mode:
    support: full
    description: Reports which replicas have another token, and changes nothing.
  diff_mode:
    support: none
    description: A token is never shown.
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
  - anvil.serving.anvil.project
seealso:
  - module: anvil.serving.anvil_router_up
  - module: anvil.serving.anvil_router_edge
"""

EXAMPLES = r"""
- name: Give the replicas the token that the inventory has now
  anvil.serving.anvil_router_token:
    project: "{{ anvil.router }}"
    edge: "{{ anvil.edge or {} }}"
    token: "{{ anvil.plan.router.token }}"
    secrets: "{{ anvil_secrets }}"
"""

RETURN = r"""
replaced:
  description: The replicas that had another token.
  returned: success
  type: list
  elements: str
  sample: [anvil-router-1, anvil-router-2]
problems:
  description: All problems, each with C(what), C(where), C(why), C(hint) and C(log).
  returned: failure
  type: list
  elements: dict
"""

from ansible_collections.anvil.serving.plugins.module_utils.core.module import PROJECT_OPTIONS, run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.router.deployment import Deployment
from ansible_collections.anvil.serving.plugins.module_utils.router.token_rotation import Rotation, rotate_token
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import read_project

OPTIONS = {
    "project": PROJECT_OPTIONS["project"],
    "secrets": PROJECT_OPTIONS["secrets"],
    "token": {"type": "str", "required": True, "no_log": False},
    "edge": {"type": "dict", "default": {}},
    "at_once": {"type": "bool", "default": False},
    "drain_timeout": {"type": "float", "default": 330.0},
    "start_timeout": {"type": "float", "default": 60.0},
    "settle": {"type": "float", "default": 2.0},
    "lock_timeout": {"type": "float", "default": 60.0},
}


def work(module):
    given = module.params
    edge = given["edge"]
    deployment = Deployment(
        read_project(given["project"], given["secrets"], ()),
        edge.get("container", ""),
        "",
        given["drain_timeout"],
        given["start_timeout"],
        given["lock_timeout"],
    )
    rotation = Rotation(deployment, edge, given["token"], given["secrets"], given["settle"], given["at_once"])
    return rotate_token(DockerEngine(given["docker_host"]), rotation, module.check_mode)


def main():
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
