#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_router_edge
short_description: Have the edge read its configuration anew, with no connection dropped
version_added: 1.0.0
author:
  - The anvil.serving authors (@fakoli)
description:
  - Compares the configuration that the edge (the HAProxy before a router's replicas) has in memory with the file that
    it mounts. Where they differ, HAProxy checks the file, and a new process takes over the listening sockets while the
    old one ends its requests.
  - Refused while a replica is drained, because a promotion or a restart is under way then.
options:
  container:
    description:
      - The edge's container.
    type: str
    default: anvil-router-edge
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
  docker_host:
    description:
      - The Docker Engine.
    type: str
    default: unix:///var/run/docker.sock
attributes:
  check_mode:
    support: full
    description: Lets HAProxy check the file, and reloads nothing.
  diff_mode:
    support: none
    description: The file's own diff is that of the task that wrote it.
requirements:
  - Docker Engine 24 or newer
  - Docker SDK for Python
seealso:
  - module: anvil.serving.anvil_serve
  - module: anvil.serving.anvil_router_info
"""

EXAMPLES = r"""
- name: The edge runs on the configuration that was written
  anvil.serving.anvil_router_edge:

- name: The edge presents the renewed certificate
  anvil.serving.anvil_router_edge:
    force: true
"""

RETURN = r"""
revision:
  description: The hash of the configuration in memory, before and after.
  returned: success
  type: dict
  sample: {"old": "1f0c3e8f6a0c1c9d", "new": "9c0e3f0d7bb0c5e2"}
seconds:
  description: How long the reload took.
  returned: success
  type: float
  sample: 0.31
problems:
  description: Everything that is wrong, each with C(what), C(where), C(why), C(hint) and C(log).
  returned: failure
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule, env_fallback
from ansible_collections.anvil.serving.plugins.module_utils.edge import reload_edge
from ansible_collections.anvil.serving.plugins.module_utils.engine import DEFAULT_SOCKET, Engine
from ansible_collections.anvil.serving.plugins.module_utils.errors import AnvilError, problems_as_dicts


def main():
    module = AnsibleModule(
        argument_spec={
            "container": {"type": "str", "default": "anvil-router-edge"},
            "force": {"type": "bool", "default": False},
            "timeout": {"type": "float", "default": 15.0},
            "docker_host": {"type": "str", "default": DEFAULT_SOCKET, "fallback": (env_fallback, ["DOCKER_HOST"])},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        told = reload_edge(Engine(given["docker_host"]), given["container"], given["force"], given["timeout"], module.check_mode)
    except AnvilError as exc:
        module.fail_json(msg=exc.as_text(), problems=problems_as_dicts(exc.problems))
    module.exit_json(**told)


if __name__ == "__main__":
    main()
