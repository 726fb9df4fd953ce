#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_workflow
short_description: Deploy a workflow as a service, stop it, start it, or remove it
version_added: 1.0.0
description:
  - Converges the compose project that M(anvil.serving.anvil_workflow_plan) rendered. Only services that differ are changed, and
    the module waits until they are ready.
  - Replicas behind an edge are replaced one by one. Each is drained before it is replaced, and ready before the next one is
    drained, so no request fails. If a new replica does not get ready, the task fails; the other replicas keep answering.
  - The passwords of the database and of MLflow are generated on the host, at random, once. They never leave the host.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Predicts every action with its reason, and changes nothing.
    support: full
  diff_mode:
    description: As M(anvil.serving.anvil_serve). Environment variables are shown by name only.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
options:
  state:
    description:
      - V(present) deploys the workflow. V(absent) removes its containers, network and files; volumes only with O(purge).
      - V(stopped) stops its containers, also past a boot of the host. V(started) starts what is stopped or missing from the files
        that the deployment left on the host, recreates nothing, and waits until the workflow is ready.
      - All but V(present) need of O(project) only C(name), which is C(anvil-workflow-NAME), and C(directory).
    type: str
    choices: [present, absent, stopped, started]
    default: present
  purge:
    description: With O(state=absent), remove the jobs and traces too.
    type: bool
    default: false
  env_file:
    description:
      - The env file on the controller. Only C(OPENAI_API_KEY) and the values named in O(variables) are sent to the host.
    type: path
    default: ""
  variables:
    description: The environment variables that the workflow uses.
    type: list
    elements: str
    default: []
  api_key:
    description: The key that clients must present.
    type: str
    default: ""
  model_url:
    description: The URL of the model endpoint, if it has credentials. C(OPENAI_BASE_URL) is then one of O(variables).
    type: str
    default: ""
  env_key:
    description: Whether C(OPENAI_API_KEY) of the env file is for the model endpoint.
    type: bool
    default: true
  tls:
    description: The certificate of the published port. Without it the port has no TLS.
    type: dict
    suboptions:
      certificate:
        description: A PEM file on the host with the certificate and those of its issuers. It may hold the key too.
        type: path
      key:
        description: A PEM file on the host with the key.
        type: path
  model_key:
    description: The key of the model endpoint. C(OPENAI_API_KEY) of the env file overrides it.
    type: str
    default: ""
  secrets:
    description: Values of the O(variables). The action plugin reads them from O(env_file).
    type: dict
    default: {}
  private:
    description: The private files of each service, as in RV(anvil.serving.anvil_workflow_plan#module:private).
    type: dict
    default: {}
  replicas:
    description: The services behind the edge; empty without an edge.
    type: list
    elements: str
    default: []
  edge:
    description: The edge's container; empty without an edge.
    type: str
    default: ""
  drain_timeout:
    description: Seconds to wait for the requests of a replica to end before it is replaced.
    type: float
    default: 60
  ready_timeout:
    description: Seconds within which a replaced replica must get ready, and the workflow with O(state=started).
    type: float
    default: 120
  request:
    description: Inputs of one real run at the end. If it is not set, no run is made.
    type: dict
  request_timeout:
    description: Seconds for that run.
    type: float
    default: 300
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
  - anvil.serving.anvil.project
seealso:
  - module: anvil.serving.anvil_workflow_plan
  - module: anvil.serving.anvil_image
"""

EXAMPLES = r"""
- name: Check the workflow and render its project
  anvil.serving.anvil_workflow_plan:
    workflow: article.yaml
  register: planned

- name: Deploy it
  anvil.serving.anvil_workflow:
    project: "{{ planned.project }}"
    env_file: "{{ planned.plan.env_file }}"
    variables: "{{ planned.plan.variables }}"
    private: "{{ planned.private }}"
    request: "{{ planned.request }}"

- name: Remove it with all its jobs
  anvil.serving.anvil_workflow:
    project: "{{ planned.project }}"
    state: absent
    purge: true

- name: Stop the workflow linear, whose file is not here
  anvil.serving.anvil_workflow:
    project: {name: anvil-workflow-linear, directory: /opt/anvil/anvil-workflow-linear, compose: "", services: {}}
    state: stopped
"""

RETURN = r"""
serves:
  description: What was done with each service, as in RV(anvil.serving.anvil_serve#module:serves). With O(state=stopped) and
    O(state=started), C(action) and C(reasons) of each container that changes.
  returned: always
  type: dict
rolled:
  description: The replicas that were replaced, in order.
  returned: when O(state=present)
  type: list
answer:
  description: The outputs of the real run, and its duration in seconds.
  returned: when O(request) is given
  type: dict
  sample: {outputs: {article: "…"}, seconds: 1.2}
moved:
  description: The number of jobs that were moved from the file of one server to the database of several, or back.
  returned: when O(state=present)
  type: int
created:
  description: The networks and volumes that were created.
  returned: when O(state=present)
  type: list
files:
  description: The files on the host that were written or removed.
  returned: always
  type: list
removed:
  description: Containers that only an earlier deployment had. With O(state=absent), containers, network and volumes.
  returned: always
  type: list
kept:
  description: The volumes that were kept.
  returned: when O(state=absent)
  type: list
found:
  description: Whether anything of the workflow is on the host.
  returned: when O(state) is not V(present)
  type: bool
known:
  description: The names of the workflows of the host, if this one is not there.
  returned: when O(state) is not V(present)
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.core.module import PROJECT_OPTIONS, run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.workflow import verbs

OPTIONS = {
    "project": PROJECT_OPTIONS["project"],
    "secrets": PROJECT_OPTIONS["secrets"],
    "state": {"type": "str", "choices": ["present", "absent", "stopped", "started"], "default": "present"},
    "purge": {"type": "bool", "default": False},
    "env_file": {"type": "path", "default": ""},
    "variables": {"type": "list", "elements": "str", "default": []},
    "api_key": {"type": "str", "default": "", "no_log": True},
    "model_url": {"type": "str", "default": "", "no_log": True},
    "env_key": {"type": "bool", "default": True, "no_log": False},
    "tls": {"type": "dict", "options": {"certificate": {"type": "path"}, "key": {"type": "path", "no_log": False}}},
    "model_key": {"type": "str", "default": "", "no_log": True},
    "private": {"type": "dict", "default": {}, "no_log": False},
    "replicas": {"type": "list", "elements": "str", "default": []},
    "edge": {"type": "str", "default": ""},
    "drain_timeout": {"type": "float", "default": 60},
    "ready_timeout": {"type": "float", "default": 120},
    "request": {"type": "dict"},
    "request_timeout": {"type": "float", "default": 300},
}


def work(module: AnsibleModule) -> dict:
    return verbs.carry_out(DockerEngine(module.params["docker_host"]), module.params, module.check_mode)


def main() -> None:
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
