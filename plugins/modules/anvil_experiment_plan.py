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
  - An experiment is a model server that is in no inventory - a one-off in a compose project of its own
    (C(anvil-experiment-NAME)), on a network of its own, which never restarts by itself.
  - Planned as a serve of the host's inventory would be, with the host's engine defaults - image, volumes, secrets, the
    variables of WSL2. Or read from a compose file, whose every key must be one that can be compared with a container.
  - Runs on the controller and contacts nothing. A name or port that the inventory claims is refused here.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: The same parameters give the same project.
    support: full
options:
  name:
    description: Name of the experiment. If not given, it is made from the last word of O(model) or O(compose).
    type: str
    default: ""
  model:
    description: The Hugging Face repository, or the path of the weights in the container. Either this or O(compose).
    type: str
    default: ""
  compose:
    description:
      - A compose file on the controller, to be run as an experiment. Ports must be published on loopback, GPUs pinned by UUID.
      - Its C(restart) and container names are replaced; volumes that it does not call external are named
        C(anvil-experiment-NAME_VOLUME).
      - Variables of secrets come from C(x-anvil.secrets) of a service, a mapping of a variable to a name in C(anvil_secrets).
    type: path
  engine:
    description: The engine, as C(anvil_serves) has it - V(vllm), V(sglang) or V(llama_cpp).
    type: str
    default: vllm
  image:
    description: The image; if not given, the one of C(anvil_engines).
    type: str
    default: ""
  served_name:
    description: The model name clients ask for; if not given, the name of the experiment.
    type: str
    default: ""
  port:
    description: A free port of the host, published on 127.0.0.1.
    type: str
    default: ""
  gpu:
    description:
      - An alias or a UUID of C(anvil_gpus), or the name of a serve, whose cards are meant; several with commas.
      - If not given, the experiment has no GPU.
    type: str
    default: ""
  extra_args:
    description: Arguments for the server in one line, split as a shell would split them; no shell runs.
    type: str
    default: ""
  environment:
    description: Environment variables, over those of C(anvil_engines).
    type: dict
    default: {}
  volumes:
    description: Volumes as C(anvil_serves) has them, over those of C(anvil_engines).
    type: list
    elements: str
    default: []
  vram_mib:
    description: MiB of VRAM claimed on each card; if not given, all that the smallest of them has to give.
    type: str
    default: ""
  ready_timeout:
    description: Seconds until the experiment must answer.
    type: str
    default: ""
  ttl:
    description:
      - Time to live since the creation of the container - V(90), V(30m), V(2h), V(1d). When it is over, the next
        M(anvil.serving.anvil_experiment) retires the experiment.
      - If not given, or V(never), it stays until it is taken down.
    type: str
    default: ""
notes:
  - The module only holds the documentation; the action plugin of the same name does the work.
seealso:
  - module: anvil.serving.anvil_experiment
  - module: anvil.serving.anvil_serve
"""

EXAMPLES = r"""
- name: Plan an experiment on the card of the fast tier
  anvil.serving.anvil_experiment_plan:
    model: openai/gpt-oss-20b
    gpu: fast
    port: "30010"
    extra_args: --max-model-len 32768 --kv-cache-dtype fp8
    ttl: 2h
  register: planned

- name: Run it
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
  description: The cards of the inventory with their budgets, for O(anvil.serving.anvil_serve#module:gpus).
  returned: success
  type: list
  elements: dict
endpoints:
  description: Base URLs of its API, as reached from the host.
  returned: success
  type: list
  elements: str
notes:
  description: What is not wrong but good to know.
  returned: success
  type: list
  elements: str
root:
  description: The folder of the host that holds the projects.
  returned: success
  type: str
ttl:
  description: Time to live in seconds; 0 is without end.
  returned: success
  type: int
problems:
  description: Every mistake, as M(anvil.serving.anvil_plan) returns them, under the names of the options above.
  returned: failure
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule

# The action plugin of this name reads them from here.
OPTIONS = {
    "name": {"type": "str", "default": ""},
    "model": {"type": "str", "default": ""},
    "compose": {"type": "path"},
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
    "ttl": {"type": "str", "default": ""},
}


def main():
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    module.fail_json(msg="anvil_experiment_plan is an action: it runs on the controller, through ansible-playbook")


if __name__ == "__main__":
    main()
