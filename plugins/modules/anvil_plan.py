#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_plan
short_description: Check a host's inventory and render its files, on the controller
version_added: 1.0.0
description:
  - Reads the C(anvil_*) variables of the host, checks them, and decides every default. All mistakes are reported at
    once, each with the path of its key, where it was written, and what would be right.
  - Runs on the controller and contacts nothing. No value of a secret is in what it returns.
  - C(docs/inventory.md) describes the variables.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: With O(output), tells whether files would change; otherwise there is nothing to change.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: The same variables give the same plan and the same files.
    support: full
options:
  secrets:
    description:
      - What to do about a secret that is needed and has no value, because its file is not there yet.
      - V(required) makes it a mistake; V(optional) makes it a note, for a plan that is only rendered.
      - A secret written in clear is a mistake either way.
    type: str
    choices: [required, optional]
    default: required
  inventory:
    description: Variables that take the place of the host's variables of the same names.
    type: dict
    default: {}
  output:
    description: A folder of the controller to write the rendered files to, each host into a folder of its own.
    type: path
notes:
  - The module only holds the documentation; the action plugin of the same name does the work.
"""

EXAMPLES = r"""
- name: Plan and render, in a play of its own with any_errors_fatal, so that no host is contacted before all are checked
  anvil.serving.anvil_plan:
  register: anvil

- name: Plan without the secrets
  anvil.serving.anvil_plan:
    secrets: optional
  register: anvil
"""

RETURN = r"""
plan:
  description: The inventory of the host, checked and with every default decided. Secrets by name only.
  returned: success
  type: dict
  sample: {"host": "fakoli-dark", "root": "/opt/anvil", "serves": [{"name": "heavy", "port": 30002}]}
notes:
  description: What is not wrong but good to know, such as a serve that claims a whole GPU for want of C(vram_mib).
  returned: success
  type: list
  elements: str
serves:
  description: The compose project of the serves, for M(anvil.serving.anvil_serve); V(none) if the host has no serves.
  returned: success
  type: dict
router:
  description: The compose project of the router, for M(anvil.serving.anvil_serve); V(none) if the host has no router.
  returned: success
  type: dict
gpus:
  description: The cards of the inventory with their budgets, for O(anvil.serving.anvil_serve#module:gpus).
  returned: success
  type: list
  elements: dict
router_names:
  description:
    - The router's containers. C(containers) run it; C(replicas) are the same where there is more than one, else empty;
      C(edge) stands before them, or is empty; C(front) is the one that clients reach; C(edge_folders) is what the edge
      mounts of the host, path inside to folder. V(none) if the host has no router.
  returned: success
  type: dict
  sample: {"containers": ["anvil-router"], "replicas": [], "edge": "", "front": "anvil-router"}
router_files:
  description:
    - The text of the router's C(config) and C(profile), for M(anvil.serving.anvil_router_promote), and of its edge's
      configuration C(edge), for M(anvil.serving.anvil_router_edge). Empty where there is none.
  returned: success
  type: dict
files:
  description: The files that O(output) holds for this host.
  returned: when O(output) is given
  type: list
  elements: str
problems:
  description: Every mistake in the inventory.
  returned: failure
  type: list
  elements: dict
  contains:
    where:
      description: The path of the key.
      type: str
      sample: anvil_serves.heavy.gpus[0]
    what:
      description: What is wrong, with the value.
      type: str
    why:
      description: Where it was written, and the cause where there is more to say.
      type: str
    hint:
      description: What would be right.
      type: str
    log:
      description: Empty.
      type: list
      elements: str
"""

from ansible.module_utils.basic import AnsibleModule

# The action plugin of this name reads them from here.
OPTIONS = {
    "secrets": {"type": "str", "choices": ["required", "optional"], "default": "required", "no_log": False},
    "inventory": {"type": "dict", "default": {}},
    "output": {"type": "path"},
}


def main():
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    module.fail_json(msg="anvil_plan is an action: it runs on the controller, through ansible-playbook")


if __name__ == "__main__":
    main()
