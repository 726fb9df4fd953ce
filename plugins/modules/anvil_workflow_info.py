#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_workflow_info
short_description: List the workflows of a host, or read the logs of one
version_added: 1.1.0
description:
  - Reads what is deployed from the containers and volumes of the host. It needs no workflow file.
  - With O(follow) an action plugin of the same name reads again and again, and prints new lines while the task runs.
author:
  - the anvil.serving authors (@fakoli)
options:
  name:
    description: The name of the workflow whose logs are read.
    type: str
    default: ""
  root:
    description: The folder on the host that contains the compose projects.
    type: path
    default: /opt/anvil
  logs:
    description: Read the logs of the containers of O(name). Secrets of the workflow are masked in them.
    type: bool
    default: false
  tail:
    description: Number of lines for each container.
    type: int
    default: 50
  since:
    description: Only lines younger than this, such as V(90s), V(10m), V(2h) or V(1d). If empty, the whole log.
    type: str
    default: ""
  after:
    description: For each container the moment after which its log is read, from RV(after) of an earlier call.
    type: dict
    default: {}
  follow:
    description:
      - Print new lines while the task runs, for as long as this says, such as V(90s) or V(10m). V(true) follows until the
        workflow stops or the run is interrupted.
      - If empty or V(false), the logs are read once.
    type: str
    default: ""
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
  - anvil.serving.anvil.tolerant
  - anvil.serving.anvil.reads
seealso:
  - module: anvil.serving.anvil_workflow
"""

EXAMPLES = r"""
- name: List the workflows of the host
  anvil.serving.anvil_workflow_info:
  register: deployed

- name: Read the last lines of each container of the workflow linear
  anvil.serving.anvil_workflow_info:
    name: linear
    logs: true
    tail: 20
"""

RETURN = r"""
trouble:
  description: Why the host could not be read. Nothing else is returned then.
  returned: with O(tolerant), if the host could not be read
  type: str
workflows:
  description:
    - The workflows of the host by name, each with its C(state) - V(running), V(starting), V(unhealthy), V(partly_stopped),
      V(stopped), or V(removed) if only its data is there - C(version), C(up) and C(replicas), C(since), C(address), C(traces),
      C(containers), C(trouble) and C(data), the volumes that no container has.
  returned: always
  type: list
  elements: dict
found:
  description: Whether O(name) has containers on the host.
  returned: with O(logs)
  type: bool
logs:
  description: For each container its lines, each with its C(stream) and the C(line). Empty with O(follow).
  returned: with O(logs)
  type: dict
followed:
  description: Whether the lines were printed while the task ran.
  returned: with O(follow)
  type: bool
after:
  description: For each container the moment after the last line that was read.
  returned: with O(logs)
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.core.module import TOLERANT_OPTION, run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.workflow.deployed_workflows import PROJECT, list_workflows
from ansible_collections.anvil.serving.plugins.module_utils.workflow.workflow_logs import read_workflow_logs

OPTIONS = {
    **TOLERANT_OPTION,
    "name": {"type": "str", "default": ""},
    "root": {"type": "path", "default": "/opt/anvil"},
    "logs": {"type": "bool", "default": False},
    "tail": {"type": "int", "default": 50},
    "since": {"type": "str", "default": ""},
    "after": {"type": "dict", "default": {}},
    "follow": {"type": "str", "default": ""},
}


def work(module: AnsibleModule) -> dict:
    params = module.params
    docker = DockerEngine(params["docker_host"])
    workflows = list_workflows(docker)
    result = {"changed": False, "workflows": [one.as_dict() for one in workflows]}
    if params["logs"]:
        names = [container for one in workflows if one.name == params["name"] for container in one.containers]
        folder = "{0}/{1}{2}".format(params["root"], PROJECT, params["name"])
        logs, after = read_workflow_logs(docker, names, folder, params["tail"], params["since"], params["after"])
        result.update(found=bool(names), logs=logs, after=after)
    return result


def main() -> None:
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
