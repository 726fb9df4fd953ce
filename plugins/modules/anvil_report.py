#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_report
short_description: Print what hosts told - a status table, JSON, an HTML page, or logs
version_added: 1.0.0
description:
  - Lays out the results of M(anvil.serving.anvil_serve_info) of all hosts of a play, on the controller. It contacts nothing.
  - Fails after printing if a host could not be looked at, so that the playbook's exit code tells.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Works in check mode as it does otherwise, for it changes no host.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: Changes no host.
    support: full
options:
  show:
    description: What to print.
    type: str
    choices: [status, logs]
    default: status
  hosts:
    description: Names of the hosts.
    type: list
    elements: str
    required: true
  looks:
    description:
      - For each host the result of M(anvil.serving.anvil_serve_info), with C(overview) or C(logs), and C(tolerant), so that a
        host that cannot be looked at is shown as such beside the others.
    type: list
    elements: dict
    required: true
  plans:
    description: For each host its plan, RV(anvil.serving.anvil_plan#module:plan); it brings the aliases of the cards.
    type: list
    elements: dict
    default: []
  routers:
    description: For each host the result of M(anvil.serving.anvil_serve_info) for the project of its router.
    type: list
    elements: dict
    default: []
  retired:
    description: For each host the result of M(anvil.serving.anvil_experiment).
    type: list
    elements: dict
    default: []
  format:
    description: How the status is printed.
    type: str
    choices: [table, json]
    default: table
  html:
    description: A file of the controller for the status as one self-contained HTML page.
    type: path
  json:
    description: A file of the controller for the status as JSON.
    type: path
notes:
  - The module only holds the documentation; the action plugin of the same name does the work.
"""

EXAMPLES = r"""
- name: Print the status of every host of the play
  anvil.serving.anvil_report:
    hosts: "{{ ansible_play_hosts }}"
    looks: "{{ ansible_play_hosts | map('extract', hostvars, 'look') }}"
    html: status.html
  run_once: true
"""

RETURN = r"""
hosts:
  description: The report, host by host - C(cards), C(rows), C(notes), C(retired), and C(trouble) where there is any.
  returned: with O(show=status)
  type: list
  elements: dict
files:
  description: The files that were written.
  returned: with O(show=status)
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

# The action plugin of this name reads them from here.
OPTIONS = {
    "show": {"type": "str", "choices": ["status", "logs"], "default": "status"},
    "hosts": {"type": "list", "elements": "str", "required": True},
    "looks": {"type": "list", "elements": "dict", "required": True},
    "plans": {"type": "list", "elements": "dict", "default": []},
    "routers": {"type": "list", "elements": "dict", "default": []},
    "retired": {"type": "list", "elements": "dict", "default": []},
    "format": {"type": "str", "choices": ["table", "json"], "default": "table"},
    "html": {"type": "path"},
    "json": {"type": "path"},
}


def main():
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    module.fail_json(msg="anvil_report is an action: it runs on the controller, through ansible-playbook")


if __name__ == "__main__":
    main()
