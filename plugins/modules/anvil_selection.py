#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_selection
short_description: Find the hosts of a run that have the serves an operator names, on the controller
version_added: 1.1.0
description:
  - Serves are named for a whole run, and each host has only some of them. This action finds, for each host, which of the words
    select a serve of it.
  - Fails for a word that no host of the run has, with the nearest word that one has.
  - Runs on the controller, and contacts no host.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Works the same in check mode, because it changes nothing.
    support: full
  diff_mode:
    description: There is no diff.
    support: none
  idempotent:
    description: Changes nothing.
    support: full
options:
  serves:
    description: The words of the operator - names of serves, tags or tiers.
    type: list
    elements: str
    required: true
  hosts:
    description: The hosts of the run.
    type: list
    elements: str
    required: true
  selectors:
    description:
      - For each host, its words RV(anvil.serving.anvil_plan#module:selectors). An empty text stands for a host whose inventory
        has mistakes, so that its serves are unknown.
    type: list
    elements: raw
    required: true
notes:
  - An action plugin of the same name does the work. The module contains the documentation only.
"""

EXAMPLES = r"""
- name: Find the hosts that have these serves
  anvil.serving.anvil_selection:
    serves: [fast]
    hosts: "{{ ansible_play_hosts_all }}"
    selectors: "{{ ansible_play_hosts_all | map('extract', hostvars) | map(attribute='anvil.selectors', default='') }}"
  register: selection
  run_once: true
"""

RETURN = r"""
chosen:
  description: For each host, the words that select a serve of it. Empty for a host that has none of them.
  returned: success
  type: dict
  sample: {"gpu-1": ["fast"], "gpu-2": []}
problems:
  description: Every word that no host has.
  returned: failure
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule

# The action plugin of the same name imports them.
OPTIONS = {
    "serves": {"type": "list", "elements": "str", "required": True},
    "hosts": {"type": "list", "elements": "str", "required": True},
    "selectors": {"type": "list", "elements": "raw", "required": True},
}


def main():
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    module.fail_json(msg="anvil_selection is an action plugin and runs on the controller only: use it in a playbook")


if __name__ == "__main__":
    main()
