#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_workflow_plan
short_description: Check a workflow and render its files, on the controller
version_added: 1.0.0
description:
  - The program that will run the workflow also checks its file, so the controller needs pydantic and PyYAML. All mistakes in
    the file (with their lines), in the options and in the env file are reported at once.
  - Decides every default, tags the images with the hash of their content, and renders the compose project.
  - Runs on the controller and contacts no host. No returned value contains a value of the env file.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Reports whether files would change, and writes none.
    support: full
  diff_mode:
    description: There is no diff.
    support: none
  idempotent:
    description: The same file and options give the same project.
    support: full
options:
  workflow:
    description: The workflow file, on the controller.
    type: path
    default: ""
  name:
    description: Name of the project, its containers and its image. If empty, it is derived from the name in the workflow file.
    type: str
    default: ""
  port:
    description: Port of the host on which the workflow is published.
    type: int
    default: 8100
  bind:
    description: Address of the host on which O(port) is published. Any other than loopback needs O(has_api_key).
    type: str
    default: 127.0.0.1
  has_api_key:
    description: Whether clients must present an API key, which is an option of M(anvil.serving.anvil_workflow).
    type: bool
    default: false
  hosts:
    description:
      - Host names under which clients call the workflow, without scheme and port, such as V(flow.example.org).
        V(*.example.org) stands for all names below it. IP addresses, V(localhost) and the names of its containers need not be
        listed. V(*) allows every name.
    type: list
    elements: str
    default: []
  tls:
    description: Whether the published port has TLS, with a certificate that is an option of M(anvil.serving.anvil_workflow).
    type: bool
    default: false
  insecure:
    description: Whether an address beyond loopback may be published without TLS.
    type: bool
    default: false
  prices:
    description:
      - Model to price, C(prompt) and C(completion), and C(cached_prompt) for the cached part of a prompt, each for 1,000,000
        tokens in any currency. They override C(config.prices) of the workflow file.
    type: dict
    default: {}
  log_prompts:
    description: Whether traces have prompts, answers and the texts of errors.
    type: bool
    default: true
  mlflow_port:
    description: Port of the host on which MLflow is published. With V(0) there is no MLflow.
    type: int
    default: 5000
  mlflow_bind:
    description: Address of the host on which MLflow is published. On any other than loopback, MLflow requires a password.
    type: str
    default: 127.0.0.1
  no_mlflow:
    description: The same as O(mlflow_port=0).
    type: bool
    default: false
  timeout:
    description: Seconds after which a caller gets a 202 instead of the result.
    type: int
    default: 30
  concurrency:
    description: Number of runs at the same time in one server. V(0) uses the value of the workflow file.
    type: int
    default: 0
  job_ttl:
    description: Seconds for which an ended job is kept.
    type: int
    default: 86400
  ready_timeout:
    description: Seconds within which the workflow must get ready.
    type: int
    default: 120
  mem_limit:
    description: Memory of each container of the workflow, such as V(2g). If empty, there is no limit.
    type: str
    default: ""
    version_added: 1.1.0
  pids_limit:
    description: Processes and threads of each container of the workflow.
    type: int
    default: 4096
    version_added: 1.1.0
  replicas:
    description: Number of servers. Several servers are behind an edge and keep their jobs in PostgreSQL.
    type: int
    default: 1
  subnet:
    description: Subnet of the network of edge and replicas. If empty, it is chosen in 10.88.0.0/16 by the name.
    type: str
    default: ""
  base:
    description: The base image. If empty, C(anvil.local/base:1), or C(python:3.13-slim) with O(generate_only).
    type: str
    default: ""
  edge_image:
    description: The image of the edge, with HAProxy.
    type: str
    default: ""
  postgres_image:
    description: The image of PostgreSQL.
    type: str
    default: ""
  size_limit:
    description: The largest size of the image, in units of 10**6 bytes.
    type: int
    default: 200
  env_file:
    description: The env file, on the controller. If empty, C(.env) beside the workflow or in the current folder.
    type: path
    default: ""
  no_env_file:
    description: Read no env file.
    type: bool
    default: false
  model_url:
    description: The OpenAI-compatible endpoint. If empty, C(OPENAI_BASE_URL) of the env file, else the router of the host.
    type: str
    default: ""
  networks:
    description: Docker networks of the host to join. If empty, the network of the router, if the models are called through it.
    type: list
    elements: str
    default: []
  root:
    description: The folder of the host that holds the projects.
    type: str
    default: /opt/anvil
  generate_only:
    description: Write files that build and run the workflow without Ansible.
    type: bool
    default: false
  output:
    description: Folder on the controller for these files. If empty, C(deploy) with O(generate_only), else none are written.
    type: path
    default: ""
seealso:
  - module: anvil.serving.anvil_workflow
"""

EXAMPLES = r"""
- name: Check a workflow and render its files
  anvil.serving.anvil_workflow_plan:
    workflow: article.yaml
    replicas: 2
  register: planned

- name: Only write the files that run without Ansible
  anvil.serving.anvil_workflow_plan:
    workflow: article.yaml
    generate_only: true
    output: deploy
"""

RETURN = r"""
plan:
  description: The plan - names, ports, networks, replicas, variables, inputs and outputs.
  returned: success
  type: dict
project:
  description: The compose project, for M(anvil.serving.anvil_workflow).
  returned: success
  type: dict
images:
  description: The build context of each image, C(server) and C(mlflow), for M(anvil.serving.anvil_image).
  returned: success
  type: dict
private:
  description: For each service, the names of the private files that it reads.
  returned: success
  type: dict
  sample: {server: [api_key, model_key]}
request:
  description: A minimal request body, for one real request.
  returned: success
  type: dict
  sample: {topic: hello}
commands:
  description: The commands that show the logs of the deployed workflow, stop it and remove it, with the inventory as typed.
  returned: success
  type: list
  elements: str
  sample: ["ansible-playbook playbooks/workflow_logs.yml -i inventory/local -l local -e name=linear"]
files:
  description: The paths of the files.
  returned: when files are written
  type: list
  elements: str
problems:
  description: Every mistake, with C(what), C(where), C(why) and C(hint).
  returned: failure
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule

# The action plugin of the same name imports them.
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
    "mem_limit": {"type": "str", "default": ""},
    "pids_limit": {"type": "int", "default": 4096},
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
    "hosts": {"type": "list", "elements": "str", "default": []},
    "log_prompts": {"type": "bool", "default": True},
    "prices": {"type": "dict", "default": {}},
    "tls": {"type": "bool", "default": False},
    "insecure": {"type": "bool", "default": False},
    "root": {"type": "str", "default": "/opt/anvil"},
    "generate_only": {"type": "bool", "default": False},
    "output": {"type": "path", "default": ""},
}


def main():
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    module.fail_json(msg="anvil_workflow_plan is an action plugin and runs on the controller only: use it in a playbook")


if __name__ == "__main__":
    main()
