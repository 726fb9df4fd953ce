#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_experiment_plan
short_description: Plan and render an experiment, on the controller
version_added: 1.0.0
description:
  - An experiment is a model server that is in no inventory. It has a compose project of its own
    (C(anvil-experiment-NAME)), is on a network for experiments, and never restarts by itself.
  - It is planned like a serve of the host's inventory, with the engine defaults of the host (image, volumes, secrets, the
    variables for WSL2). Or it is read from a compose file, in which every key must be comparable with a container.
  - Runs on the controller. The host is asked only for a GPU that the inventory does not have, and where the controller has no
    Docker Compose for a compose file. A container name or port that the inventory uses is refused.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Changes nothing in check mode or without it.
    support: full
  diff_mode:
    description: There is no diff.
    support: none
  idempotent:
    description: The same parameters give the same project.
    support: full
options:
  name:
    description: Name of the experiment. If not given, it is derived from the last part of O(model) or O(compose).
    type: str
    default: ""
  model:
    description: The Hugging Face repository, or the path of the weights in the container. Give either this or O(compose).
    type: str
    default: ""
  compose:
    description:
      - A compose file on the controller to run as an experiment. C(docker compose config) interprets it, with C(.env),
        C(env_file), C(extends), C(include) and anchors - on the controller, or on the host if the controller has no Docker
        Compose.
      - A port without an address is published on 127.0.0.1. A GPU without a UUID is the one of O(gpu). C(restart), C(networks)
        and C(depends_on) are left out, with a note.
      - What an experiment may not have is refused by name - the engine's socket, folders of the system, C(privileged),
        capabilities, namespaces of the host, devices other than GPUs, files outside of the folder of the compose file.
      - A volume that is neither external nor named gets the name C(anvil-experiment-NAME_VOLUME).
      - Secrets come from C(x-anvil.secrets) of a service, a mapping of an environment variable to a name in C(anvil_secrets).
    type: path
  profiles:
    description: Profiles of O(compose) whose services run too; V(*) for all.
    type: list
    elements: str
    default: []
  engine:
    description: The engine as in C(anvil_serves), such as V(vllm), V(sglang) or V(llama_cpp).
    type: str
    default: vllm
  image:
    description: The image. If not given, the one in C(anvil_engines).
    type: str
    default: ""
  served_name:
    description: The model name that clients send. If not given, the name of the experiment.
    type: str
    default: ""
  port:
    description: A free port of the host. It is published on 127.0.0.1.
    type: str
    default: ""
  gpu:
    description:
      - An alias of C(anvil_gpus), the UUID of any GPU that the driver of the host knows, or the name of a serve for its GPUs.
        Several are separated by commas. A UUID that the inventory does not have is looked up on the host.
      - If not given, the experiment has no GPU.
    type: str
    default: ""
  extra_args:
    description: Arguments for the server in one line, split as a shell would split them. No shell runs.
    type: str
    default: ""
  environment:
    description: Environment variables. They override those of C(anvil_engines).
    type: dict
    default: {}
  volumes:
    description: Volumes as in C(anvil_serves). They override those of C(anvil_engines) with the same path in the container.
    type: list
    elements: str
    default: []
  vram_mib:
    description: VRAM claimed on each GPU, in MiB. If not given, the whole budget of the smallest of them.
    type: str
    default: ""
  ready_timeout:
    description: Seconds within which the experiment must get ready.
    type: str
    default: ""
  mem_limit:
    description:
      - Memory of each container, such as V(96g). If not given, that of C(anvil_engines), else there is no limit.
      - What a service of O(compose) says itself stays.
    type: str
    default: ""
    version_added: 1.1.0
  pids_limit:
    description: Processes and threads of each container, with the same rules as O(mem_limit). V(32768) by default.
    type: str
    default: ""
    version_added: 1.1.0
  ttl:
    description:
      - Time to live from the creation of the container, such as V(90), V(30m), V(2h) or V(1d). After it, the next
        M(anvil.serving.anvil_experiment) retires the experiment.
      - If not given, or V(never), the experiment has no time limit.
    type: str
    default: ""
notes:
  - An action plugin of the same name does the work. The module contains the documentation only.
seealso:
  - module: anvil.serving.anvil_experiment
  - module: anvil.serving.anvil_serve
"""

EXAMPLES = r"""
- name: Plan an experiment on the GPU of the serve fast
  anvil.serving.anvil_experiment_plan:
    model: openai/gpt-oss-20b
    gpu: fast
    port: "30010"
    extra_args: --max-model-len 32768 --kv-cache-dtype fp8
    ttl: 2h
  register: planned

- name: Run the experiment
  anvil.serving.anvil_serve:
    project: "{{ planned.project }}"
    secrets: "{{ anvil_secrets | default({}) }}"
    gpus: "{{ planned.gpus }}"
"""

RETURN = r"""
name:
  description: Name of the experiment.
  returned: success
  type: str
project:
  description: The compose project, for M(anvil.serving.anvil_serve).
  returned: success
  type: dict
gpus:
  description: The GPUs of the inventory with their budgets, for O(anvil.serving.anvil_serve#module:gpus).
  returned: success
  type: list
  elements: dict
endpoints:
  description: The base URLs of its API, as seen from the host.
  returned: success
  type: list
  elements: str
notes:
  description: Facts that are not mistakes but good to know.
  returned: success
  type: list
  elements: str
root:
  description: The folder of the host that holds the projects.
  returned: success
  type: str
ttl:
  description: Time to live in seconds. 0 is no limit.
  returned: success
  type: int
problems:
  description: Every mistake, as M(anvil.serving.anvil_plan) returns them. C(where) is an option of this module.
  returned: failure
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule

# The action plugin of the same name imports them.
OPTIONS = {
    "name": {"type": "str", "default": ""},
    "model": {"type": "str", "default": ""},
    "compose": {"type": "path"},
    "profiles": {"type": "list", "elements": "str", "default": []},
    "engine": {"type": "str", "default": "vllm"},
    "image": {"type": "str", "default": ""},
    "served_name": {"type": "str", "default": ""},
    "port": {"type": "str", "default": ""},
    "gpu": {"type": "str", "default": ""},
    "extra_args": {"type": "str", "default": ""},
    "environment": {"type": "dict", "default": {}},
    "volumes": {"type": "list", "elements": "str", "default": []},
    "vram_mib": {"type": "str", "default": ""},
    "ready_timeout": {"type": "str", "default": ""},
    "mem_limit": {"type": "str", "default": ""},
    "pids_limit": {"type": "str", "default": ""},
    "ttl": {"type": "str", "default": ""},
}


def main():
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    module.fail_json(msg="anvil_experiment_plan is an action plugin and runs on the controller only: use it in a playbook")


if __name__ == "__main__":
    main()
