#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_serve_info
short_description: Read the state of the serves of a project and how they differ from the inventory
version_added: 1.0.0
description:
  - Reports for each serve of a compose project whether it runs, whether it answers, and the fields in which its container
    differs from the inventory.
  - Also reports other containers that hold a name or port of a serve, and containers of the project that are not in the
    inventory.
  - A serve that does not exist is not a failure.
author:
  - the anvil.serving authors (@fakoli)
options:
  overview:
    description:
      - Also return what a status page shows - the GPUs and the containers that hold them, the experiments, and for each serve its
        start time, restarts, port and model.
    type: bool
    default: false
  externals:
    description:
      - The external servers of C(anvil_external), as in RV(anvil.serving.anvil_plan#module:plan). Each gets one request for its
        models; the results are in RV(externals).
    type: list
    elements: dict
    default: []
  logs:
    description: Also read the end of each serve's log, both streams. The values of O(secrets) are masked in it, and secrets
      in the environment of the container.
    type: dict
    suboptions:
      tail:
        description: Number of lines for each serve.
        type: int
        default: 50
      since:
        description: Only lines younger than this, such as V(90s), V(10m), V(2h) or V(1d). If empty, the whole log.
        type: str
        default: ""
      experiments:
        description: Names of experiments whose logs are read too.
        type: list
        elements: str
        default: []
      containers:
        description: Names of other containers whose logs are read too, such as those of a router.
        type: list
        elements: str
        default: []
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
  - anvil.serving.anvil.tolerant
  - anvil.serving.anvil.reads
  - anvil.serving.anvil.project
  - anvil.serving.anvil.serves
seealso:
  - module: anvil.serving.anvil_serve
"""

EXAMPLES = r"""
- name: Read the state of the model tiers
  anvil.serving.anvil_serve_info:
    project: "{{ anvil.serves }}"
    secrets: "{{ anvil_secrets | default({}) }}"
  register: status

- name: Read the state of the model tiers, the GPUs and the experiments
  anvil.serving.anvil_serve_info:
    project: "{{ anvil.serves }}"
    secrets: "{{ anvil_secrets | default({}) }}"
    externals: "{{ anvil.plan.externals }}"
    overview: true
  register: status

- name: Read the log of one serve for the last ten minutes
  anvil.serving.anvil_serve_info:
    project: "{{ anvil.serves }}"
    secrets: "{{ anvil_secrets | default({}) }}"
    serves: [heavy]
    logs: {tail: 50, since: 10m}
  register: status
"""

RETURN = r"""
trouble:
  description: Why the host could not be read. Nothing else is returned then.
  returned: with O(tolerant), if the host could not be read
  type: str
serves:
  description:
    - As RV(anvil.serving.anvil_serve#module:serves); C(action) and C(reasons) are what
      O(anvil.serving.anvil_serve#module:state=up) would do and why.
  returned: always
  type: dict
squatters:
  description: For each serve, the other containers that hold its container name or port.
  returned: always
  type: dict
orphans:
  description: Containers of the project that are not in the inventory any more.
  returned: always
  type: list
adoptions:
  description: A line for each adoption of this project that was interrupted, with the command that finishes it or puts the old
    container back.
  returned: always
  type: list
  elements: str
revisions:
  description:
    - For each serve, the definitions that were ready and are kept on the host, the last one first, at most 10. Each has its
      C(revision) (a sha256), C(image), C(image_id), C(at) (seconds since 1970, when it was ready for the first time) and C(live).
  returned: always
  type: dict
rolled_back:
  description: A line for each serve that runs a revision instead of the definition in the inventory, with the reason.
  returned: always
  type: list
  elements: str
externals:
  description:
    - The C(state) of each external server - V(answers), V(silent), V(loading), V(refused), V(wrong_model), or V(unknown) if the
      server can be reached only from its own host.
    - Also C(ready), C(why), C(endpoint), C(port), C(served_name), and C(managed), which is false.
  returned: with O(externals)
  type: dict
details:
  description: For each serve C(since) (seconds since 1970), C(restarts), C(ports), C(model), C(served_name), C(vram_mib),
    and C(kv_cache), what its engine reported of its KV cache when it became ready; empty if it reported nothing.
  returned: with O(overview)
  type: dict
gpu_trouble:
  description: What is wrong with the driver or with a GPU, in its own words and with the next step. A driver that fails hides no
    serve.
  returned: with O(overview)
  type: list
  elements: str
gpus:
  description:
    - The GPUs as in M(anvil.serving.anvil_host_info), each with its C(holders) - C(name), C(kind) (V(serve),
      V(experiment) or V(squatter)), C(container), C(project), C(state) and C(vram_mib), the memory it claims.
    - Null if the host has no NVIDIA driver.
  returned: with O(overview)
  type: list
  elements: dict
disk_trouble:
  description: The disks of images, weights and projects that are nearly full.
  returned: with O(overview)
  type: list
  elements: str
experiments:
  description: The experiments on the host, with C(expires) in seconds since 1970.
  returned: with O(overview)
  type: list
  elements: dict
workflows:
  description: The workflows of the host, as RV(anvil.serving.anvil_workflow_info#module:workflows).
  returned: with O(overview)
  type: list
  elements: dict
watch:
  description:
    - What C(anvil-watch) says of the serves, empty on a host without it - C(serves) with C(state), C(why), C(since) and
      C(restarts) of the last hour, and C(acts), what it did in the last day.
    - C(silent) is the number of seconds since it last wrote, where these are too many; C(trouble), why it cannot be read.
  returned: with O(overview)
  type: dict
now:
  description: The host's clock, in seconds since 1970.
  returned: with O(overview)
  type: int
logs:
  description: For each serve, and for each container that O(logs) names, its last lines, each with its C(stream) and the C(line).
  returned: with O(logs)
  type: dict
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.core.module import PROJECT_OPTIONS, TOLERANT_OPTION, run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves import host_status, serve_logs
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import read_project
from ansible_collections.anvil.serving.plugins.module_utils.serves.serves_report import describe_serves
from ansible_collections.anvil.serving.plugins.module_utils.watch.told_states import read_told_states
from ansible_collections.anvil.serving.plugins.module_utils.workflow.deployed_workflows import list_workflows


def work(module: AnsibleModule) -> dict:
    params = module.params
    project = read_project(params["project"], params["secrets"], params["serves"])
    docker = DockerEngine(params["docker_host"])
    result = describe_serves(docker, project)
    if params["overview"]:
        result.update(host_status.read_overview(docker, project.name, project.directory, result["serves"], project.services))
        result["workflows"] = [one.as_dict() for one in list_workflows(docker)]
        result["watch"] = read_told_states(os.path.dirname(project.directory), result["now"])
    if params["externals"]:
        result["externals"] = host_status.check_externals(docker, params["externals"], project.secrets)
    if params["logs"]:
        tail, since, names = (params["logs"][key] for key in ("tail", "since", "experiments"))
        result["logs"] = serve_logs.read_logs(docker, result["serves"], tail, since, project.secrets)
        result["logs"].update(serve_logs.read_experiment_logs(docker, names, tail, since, project.secrets))
        others = params["logs"]["containers"]
        result["logs"].update(serve_logs.read_container_logs(docker, others, tail, since, project.secrets))
    return result


OPTIONS = {
    **PROJECT_OPTIONS,
    **TOLERANT_OPTION,
    "overview": {"type": "bool", "default": False},
    "externals": {"type": "list", "elements": "dict", "default": []},
    "logs": {
        "type": "dict",
        "options": {
            "tail": {"type": "int", "default": 50},
            "since": {"type": "str", "default": ""},
            "experiments": {"type": "list", "elements": "str", "default": []},
            "containers": {"type": "list", "elements": "str", "default": []},
        },
    },
}


def main() -> None:
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
