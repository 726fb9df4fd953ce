#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_workflow
short_description: Run a workflow as a service, or take it away
version_added: 1.0.0
description:
  - Brings the compose project of a workflow to what M(anvil.serving.anvil_workflow_plan) rendered, touches only what differs, and
    waits until it is ready.
  - Replicas behind an edge are replaced one after the other, each drained before and ready before the next, and no request fails.
    A new replica that does not get ready ends the task; the others go on answering.
  - Passwords of the database and of MLflow are made on the host, at random, once, and never leave it.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Predicts every action and reason, and touches nothing.
    support: full
  diff_mode:
    description: As M(anvil.serving.anvil_serve); environment variables by name only.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
options:
  state:
    description:
      - V(present) brings it up. V(absent) removes containers, network and files; volumes only with O(purge).
    type: str
    choices: [present, absent]
    default: present
  purge:
    description: With O(state=absent), also remove the jobs and traces.
    type: bool
    default: false
  env_file:
    description:
      - The env file on the controller. It is read when its values are handed over, and only the O(variables) among them are.
    type: path
    default: ""
  variables:
    description: The variables that the workflow uses.
    type: list
    elements: str
    default: []
  api_key:
    description: The key that clients must present.
    type: str
    default: ""
  model_key:
    description: The key of the model endpoint, unless the env file has C(OPENAI_API_KEY).
    type: str
    default: ""
  secrets:
    description: Values of the variables; the action plugin reads them from O(env_file).
    type: dict
    default: {}
  private:
    description: Service to the private files that it reads, as RV(anvil.serving.anvil_workflow_plan#module:private) has it.
    type: dict
    default: {}
  replicas:
    description: The services behind the edge; empty without one.
    type: list
    elements: str
    default: []
  edge:
    description: The edge's container; empty without one.
    type: str
    default: ""
  drain_timeout:
    description: Seconds that a replica's requests may take to end before it is replaced.
    type: float
    default: 60
  ready_timeout:
    description: Seconds until a replica that was replaced must be ready.
    type: float
    default: 120
  request:
    description: Inputs for one real run at the end. Without it none is made.
    type: dict
  request_timeout:
    description: Seconds for that run.
    type: float
    default: 300
extends_documentation_fragment:
  - anvil.serving.anvil.engine
  - anvil.serving.anvil.project
seealso:
  - module: anvil.serving.anvil_workflow_plan
  - module: anvil.serving.anvil_image
"""

EXAMPLES = r"""
- name: Check the workflow and render what is made of it
  anvil.serving.anvil_workflow_plan:
    workflow: article.yaml
  register: planned

- name: Run it
  anvil.serving.anvil_workflow:
    project: "{{ planned.project }}"
    env_file: "{{ planned.plan.env_file }}"
    variables: "{{ planned.plan.variables }}"
    private: "{{ planned.private }}"
    request: "{{ planned.request }}"

- name: Take it away, and all its jobs
  anvil.serving.anvil_workflow:
    project: "{{ planned.project }}"
    state: absent
    purge: true
"""

RETURN = r"""
serves:
  description: What was done with each service, as RV(anvil.serving.anvil_serve#module:serves).
  returned: always
  type: dict
rolled:
  description: Replicas that were replaced, in that order.
  returned: when O(state=present)
  type: list
answer:
  description: Outputs of the one real run, and the seconds it took.
  returned: when O(request) is given
  type: dict
  sample: {outputs: {article: "…"}, seconds: 1.2}
moved:
  description: Jobs that went from the file of one server to the database of several, or back.
  returned: when O(state=present)
  type: int
created:
  description: Networks and volumes that were created.
  returned: when O(state=present)
  type: list
files:
  description: Files on the host that were written or removed.
  returned: always
  type: list
removed:
  description: Containers of an earlier deployment that this one has not; with O(state=absent), containers, network and volumes.
  returned: always
  type: list
kept:
  description: Volumes that stay.
  returned: when O(state=absent)
  type: list
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.core import importing  # pylint: disable=unused-import
from ansible_collections.anvil.serving.plugins.module_utils.core.module import PROJECT_OPTIONS, run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.workflow import verbs

OPTIONS = {
    "project": PROJECT_OPTIONS["project"],
    "secrets": PROJECT_OPTIONS["secrets"],
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "purge": {"type": "bool", "default": False},
    "env_file": {"type": "path", "default": ""},
    "variables": {"type": "list", "elements": "str", "default": []},
    "api_key": {"type": "str", "default": "", "no_log": True},
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
