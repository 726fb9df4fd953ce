#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_experiment
short_description: Retire expired experiments, or one experiment by name
version_added: 1.0.0
description:
  - Removes the containers of experiments and their files on the host, among them env files with secrets. The network that
    experiments share is removed with the last one. Volumes stay, because they hold downloaded weights.
  - Only projects that C(playbooks/experiment.yml) created are changed, never a serve of the inventory or another container.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Reports which experiments would be retired.
    support: full
  diff_mode:
    description: There are no changes to show.
    support: none
  idempotent:
    description: An experiment that does not exist is not changed.
    support: full
options:
  state:
    description:
      - V(expired) retires every experiment whose time to live is over.
      - V(absent) retires the experiment O(name), regardless of its time to live.
    type: str
    choices: [expired, absent]
    default: expired
  name:
    description: Name of the experiment; required with O(state=absent).
    type: str
  root:
    description: The folder of the host that holds the projects, C(anvil_root) of the inventory.
    type: path
    default: /opt/anvil
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
  - anvil.serving.anvil.tolerant
seealso:
  - module: anvil.serving.anvil_experiment_plan
"""

EXAMPLES = r"""
- name: Retire the expired experiments
  anvil.serving.anvil_experiment:
    root: "{{ anvil.plan.root }}"

- name: Retire one experiment
  anvil.serving.anvil_experiment:
    root: "{{ anvil.plan.root }}"
    name: gpt-oss-20b
    state: absent
"""

RETURN = r"""
trouble:
  description: Why the host could not be read. Nothing else is returned then.
  returned: with O(tolerant), if the host could not be read
  type: str
retired:
  description: The experiments that were removed, or in check mode would be.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the experiment.
      type: str
    containers:
      description: Names of its containers.
      type: list
      elements: str
    state:
      description: The container states that the Docker Engine reports.
      type: str
    created:
      description: Time of creation, in seconds since 1970.
      type: int
    expires:
      description: Time of expiry, in seconds since 1970; null if the experiment has no time to live.
      type: int
experiments:
  description: The experiments that remain, in the same form.
  returned: success
  type: list
  elements: dict
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.core.module import TOLERANT_OPTION, run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves.experiments import retire_experiments

OPTIONS = {
    **TOLERANT_OPTION,
    "state": {"type": "str", "choices": ["expired", "absent"], "default": "expired"},
    "name": {"type": "str"},
    "root": {"type": "path", "default": "/opt/anvil"},
}


def work(module: AnsibleModule) -> dict:
    params = module.params
    name = (params["name"] or "?") if params["state"] == "absent" else ""
    return retire_experiments(DockerEngine(params["docker_host"]), params["root"], name, time.time(), module.check_mode)


def main() -> None:
    run_module(OPTIONS, work, required_if=[("state", "absent", ["name"])])


if __name__ == "__main__":
    main()
