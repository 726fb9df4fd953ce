#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_container_info
short_description: Describe containers that were started by hand as serves of an inventory
version_added: 1.1.0
description:
  - Reads the command line, environment, ports, volumes and GPUs of a container, and returns the entry of C(anvil_serves) that
    would replace it, as data and as YAML to paste.
  - A secret in the command line or the environment becomes the name of an entry of C(anvil_secrets). Its value is never returned.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Predicts whether the files in O(output) would change, and writes none.
    support: full
  diff_mode:
    description: There is no diff.
    support: none
  idempotent:
    description: A second run writes nothing.
    support: full
options:
  containers:
    description:
      - Names of containers on the host, or C(SERVE=CONTAINER) to name the serve too. Otherwise it has the container's name.
      - A container that does not exist is not described.
    type: list
    elements: str
    required: true
  serves:
    description: The name of the serve, if there is one container and its name is not given as C(SERVE=CONTAINER).
    type: list
    elements: str
    default: []
  gpus:
    description: The GPUs of the inventory, as in RV(anvil.serving.anvil_plan#module:gpus). Another GPU gets an entry of its own.
    type: list
    elements: dict
    default: []
  output:
    description:
      - Folder on the controller for one file for each serve, C(HOST/SERVE.yml). If not given, no file is written.
      - A file that exists with another content is never replaced; the task fails.
    type: path
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
notes:
  - An action plugin of the same name makes the YAML on the controller.
seealso:
  - module: anvil.serving.anvil_serve
"""

EXAMPLES = r"""
- name: Write the inventory entry of a container that was started by hand
  anvil.serving.anvil_container_info:
    containers: ["heavy=vllm-old"]
    output: adopted
  register: offered
"""

RETURN = r"""
offers:
  description:
    - For each serve its C(serve) (an entry of C(anvil_serves)), C(gpus) (entries of C(anvil_gpus) that the inventory lacks),
      C(secrets) (the names to add to C(anvil_secrets), each with the place where the value stands now) and C(notes).
  returned: always
  type: dict
  sample:
    heavy:
      serve: {engine: vllm, image: "vllm/vllm-openai:v0.19.1", model: org/model, port: 30002, api_key: heavy_api_key}
      gpus: {}
      secrets: {heavy_api_key: the value of --api-key of container vllm-old}
      notes: []
texts:
  description: For each serve the same as YAML, with the notes as comments.
  returned: always
  type: dict
files:
  description: The files in O(output).
  returned: with O(output)
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves.offered_serves import offer_serves

OPTIONS = {
    "containers": {"type": "list", "elements": "str", "required": True},
    "serves": {"type": "list", "elements": "str", "default": []},
    "gpus": {"type": "list", "elements": "dict", "default": []},
    "output": {"type": "path"},
}


def work(module: AnsibleModule) -> dict:
    params = module.params
    docker = DockerEngine(params["docker_host"])
    return {"changed": False, "offers": offer_serves(docker, params["containers"], params["serves"], params["gpus"])}


def main() -> None:
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
