#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_serve_info
short_description: Tell what the serves of a project are and how they differ from the inventory
version_added: 1.0.0
description:
  - For each serve of a compose project - does it run, does it answer, and in which fields does its container differ from
    the inventory. Also who sits on a serve's name or port, and which containers of the project are in no inventory.
  - Absence is no failure.
author:
  - the anvil.serving authors (@fakoli)
options:
  overview:
    description:
      - Also tell what only people look at - the cards and who holds them, the experiments, and of each serve since when it
        runs, how often it restarted, its port and model.
    type: bool
    default: false
  externals:
    description:
      - The servers of C(anvil_external), as RV(anvil.serving.anvil_plan#module:plan) has them. Each is asked once for its models,
        and told in RV(externals).
    type: list
    elements: dict
    default: []
  logs:
    description: Also read the end of each serve's log, both streams. Values of O(secrets) in it are blotted out.
    type: dict
    suboptions:
      tail:
        description: How many lines of each serve.
        type: int
        default: 50
      since:
        description: Only what is younger than this - V(90s), V(10m), V(2h), V(1d); empty is from the beginning.
        type: str
        default: ""
      experiments:
        description: Names of experiments whose logs to read too.
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
- name: Look at the model tiers
  anvil.serving.anvil_serve_info:
    project: "{{ anvil.serves }}"
    secrets: "{{ anvil_secrets | default({}) }}"
  register: look

- name: Look at the model tiers, the cards and the experiments
  anvil.serving.anvil_serve_info:
    project: "{{ anvil.serves }}"
    secrets: "{{ anvil_secrets | default({}) }}"
    externals: "{{ anvil.plan.externals }}"
    overview: true
  register: look

- name: The last ten minutes of one serve
  anvil.serving.anvil_serve_info:
    project: "{{ anvil.serves }}"
    secrets: "{{ anvil_secrets | default({}) }}"
    serves: [heavy]
    logs: {tail: 50, since: 10m}
  register: look
"""

RETURN = r"""
trouble:
  description: Why the host could not be looked at; then nothing else is returned.
  returned: with O(tolerant), where there is trouble
  type: str
serves:
  description:
    - As RV(anvil.serving.anvil_serve#module:serves); C(action) and C(reasons) are what
      O(anvil.serving.anvil_serve#module:state=up) would do and why.
  returned: always
  type: dict
squatters:
  description: For each serve, who else holds its container name or port.
  returned: always
  type: dict
orphans:
  description: Containers of the project that are no serve of the inventory any more.
  returned: always
  type: list
externals:
  description:
    - Of each server that somebody else runs its C(state) - V(answers), V(silent), V(loading), V(refused), V(wrong_model), or
      V(unknown) where only its own host could ask it.
    - Also C(ready), C(why), C(endpoint), C(port), C(served_name), and C(managed), which is false.
  returned: with O(externals)
  type: dict
details:
  description: Of each serve C(since) (seconds since 1970), C(restarts), C(ports), C(model), C(served_name), C(vram_mib).
  returned: with O(overview)
  type: dict
gpus:
  description:
    - The cards as M(anvil.serving.anvil_host_info) tells them, each with its C(holders) - C(name), C(kind) (V(serve),
      V(experiment) or V(squatter)), C(container), C(project), C(state) and the VRAM it claims.
    - Null where the host has no NVIDIA driver.
  returned: with O(overview)
  type: list
  elements: dict
experiments:
  description: The experiments on the host, with C(expires) in seconds since 1970.
  returned: with O(overview)
  type: list
  elements: dict
now:
  description: The host's clock, in seconds since 1970.
  returned: with O(overview)
  type: int
logs:
  description: For each serve, and for each container of an experiment, its last lines, each with its C(stream) and the C(line).
  returned: with O(logs)
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.core import importing  # pylint: disable=unused-import
from ansible_collections.anvil.serving.plugins.module_utils.core.module import PROJECT_OPTIONS, TOLERANT_OPTION, run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves import host_status, serve_logs, verbs
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import read_project


def work(module: AnsibleModule) -> dict:
    params = module.params
    project = read_project(params["project"], params["secrets"], params["serves"])
    docker = DockerEngine(params["docker_host"])
    result = verbs.describe_serves(docker, project)
    if params["overview"]:
        result.update(host_status.read_overview(docker, project.name, result["serves"], project.services))
    if params["externals"]:
        result["externals"] = host_status.check_externals(docker, params["externals"], project.secrets)
    if params["logs"]:
        tail, since, names = (params["logs"][key] for key in ("tail", "since", "experiments"))
        result["logs"] = serve_logs.read_logs(docker, result["serves"], tail, since, project.secrets)
        result["logs"].update(serve_logs.read_experiment_logs(docker, names, tail, since, project.secrets))
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
        },
    },
}


def main() -> None:
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
