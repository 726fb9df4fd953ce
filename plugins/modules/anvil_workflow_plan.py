#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_workflow_plan
short_description: Check a workflow and render all that is made of it, on the controller
version_added: 1.0.0
description:
  - The workflow file is judged by the very program that will run it, so the controller needs that program's pydantic and PyYAML.
    Every mistake is reported at once, with its line, together with those in the options and in the env file.
  - Decides every default, names the images by their content, and renders the compose project.
  - Runs on the controller and contacts nothing. No value of the env file is in what it returns.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Tells whether artifacts would change, and writes none.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: The same file and options give the same project.
    support: full
options:
  workflow:
    description: The workflow file on the controller.
    type: path
    default: ""
  name:
    description: Name of project, containers and image; made from the workflow's own name where it is empty.
    type: str
    default: ""
  port:
    description: Port of the host.
    type: int
    default: 8100
  bind:
    description: Address of the host that O(port) is published on. Wider than loopback needs O(has_api_key).
    type: str
    default: 127.0.0.1
  has_api_key:
    description: Whether clients must present a key, which M(anvil.serving.anvil_workflow) is given.
    type: bool
    default: false
  mlflow_port:
    description: Port of MLflow; V(0) leaves it out of everything.
    type: int
    default: 5000
  mlflow_bind:
    description: Address that MLflow is published on. Wider than loopback, it wants a password.
    type: str
    default: 127.0.0.1
  no_mlflow:
    description: As V(0) for O(mlflow_port).
    type: bool
    default: false
  timeout:
    description: Seconds after which a caller gets a 202.
    type: int
    default: 30
  concurrency:
    description: Runs at a time in one server; V(0) is what the workflow file says.
    type: int
    default: 0
  job_ttl:
    description: Seconds that a finished job is kept.
    type: int
    default: 86400
  ready_timeout:
    description: Seconds until it must be ready.
    type: int
    default: 120
  replicas:
    description: Servers. More than one stand behind an edge and keep their jobs in PostgreSQL.
    type: int
    default: 1
  subnet:
    description: Network of edge and replicas; chosen by the name in 10.88.0.0/16 where it is empty.
    type: str
    default: ""
  base:
    description: The image to build on; C(anvil.local/base:1), or C(python:3.13-slim) with O(generate_only), where it is empty.
    type: str
    default: ""
  edge_image:
    description: The image of HAProxy.
    type: str
    default: ""
  postgres_image:
    description: The image of PostgreSQL.
    type: str
    default: ""
  size_limit:
    description: Units of 10**6 bytes that the image may hold.
    type: int
    default: 200
  env_file:
    description: The env file on the controller; C(.env) beside the workflow or in the current folder where it is empty.
    type: path
    default: ""
  no_env_file:
    description: Read no env file.
    type: bool
    default: false
  model_url:
    description: The OpenAI-compatible endpoint; C(OPENAI_BASE_URL) of the env file, or the router of the host, where it is empty.
    type: str
    default: ""
  networks:
    description: Networks of the host's engine to join; the router's where it is empty and the router is asked.
    type: list
    elements: str
    default: []
  root:
    description: The folder of the host that holds the projects.
    type: str
    default: /opt/anvil
  generate_only:
    description: Render what runs without Ansible, and write it.
    type: bool
    default: false
  output:
    description: Folder on the controller for the artifacts; C(deploy) with O(generate_only), and none without, where it is empty.
    type: path
    default: ""
seealso:
  - module: anvil.serving.anvil_workflow
"""

EXAMPLES = r"""
- name: Check a workflow and render what is made of it
  anvil.serving.anvil_workflow_plan:
    workflow: article.yaml
    replicas: 2
  register: planned

- name: Only write the artifacts
  anvil.serving.anvil_workflow_plan:
    workflow: article.yaml
    generate_only: true
    output: deploy
"""

RETURN = r"""
plan:
  description: Everything decided - names, ports, networks, replicas, variables, inputs and outputs.
  returned: success
  type: dict
project:
  description: The compose project, for M(anvil.serving.anvil_workflow).
  returned: success
  type: dict
images:
  description: What each image is built from, by C(server) and C(mlflow); for M(anvil.serving.anvil_image).
  returned: success
  type: dict
private:
  description: Service to the private files that it reads, by name.
  returned: success
  type: dict
  sample: {server: [api_key, model_key]}
request:
  description: The least that the workflow's inputs allow, for one real request.
  returned: success
  type: dict
  sample: {topic: hello}
files:
  description: The artifacts.
  returned: when artifacts are written
  type: list
  elements: str
problems:
  description: Every mistake - what, where, why, hint.
  returned: failure
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule

# The action plugin of this name reads them from here.
OPTIONS = {
    "workflow": {"type": "path", "default": ""},
    "name": {"type": "str", "default": ""},
    "port": {"type": "int", "default": 8100},
    "bind": {"type": "str", "default": "127.0.0.1"},
    "mlflow_port": {"type": "int", "default": 5000},
    "mlflow_bind": {"type": "str", "default": "127.0.0.1"},
    "no_mlflow": {"type": "bool", "default": False},
    "timeout": {"type": "int", "default": 30},
    "concurrency": {"type": "int", "default": 0},
    "job_ttl": {"type": "int", "default": 86400},
    "ready_timeout": {"type": "int", "default": 120},
    "replicas": {"type": "int", "default": 1},
    "subnet": {"type": "str", "default": ""},
    "base": {"type": "str", "default": ""},
    "edge_image": {"type": "str", "default": ""},
    "postgres_image": {"type": "str", "default": ""},
    "size_limit": {"type": "int", "default": 200},
    "env_file": {"type": "path", "default": ""},
    "no_env_file": {"type": "bool", "default": False},
    "model_url": {"type": "str", "default": ""},
    "networks": {"type": "list", "elements": "str", "default": []},
    "has_api_key": {"type": "bool", "default": False, "no_log": False},
    "root": {"type": "str", "default": "/opt/anvil"},
    "generate_only": {"type": "bool", "default": False},
    "output": {"type": "path", "default": ""},
}


def main():
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    module.fail_json(msg="anvil_workflow_plan is an action: it runs on the controller, through ansible-playbook")


if __name__ == "__main__":
    main()
