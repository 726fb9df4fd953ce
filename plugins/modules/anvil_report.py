#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_report
short_description: Print the status of hosts as a table or as JSON, write it as an HTML page, or print logs
version_added: 1.0.0
description:
  - Prints the results of M(anvil.serving.anvil_serve_info) of all hosts of a play, on the controller. It contacts no host.
  - Fails after printing if the status of a host could not be read, so that the exit code of the playbook is not 0.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Works the same in check mode, because it changes no host.
    support: full
  diff_mode:
    description: There is no diff.
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
    description: The names of the hosts.
    type: list
    elements: str
    required: true
  looks:
    description:
      - For each host, the result of M(anvil.serving.anvil_serve_info) with C(overview) or C(logs). With C(tolerant) a host whose
        status cannot be read is shown with the reason, beside the other hosts.
    type: list
    elements: dict
    required: true
  plans:
    description: For each host, its plan RV(anvil.serving.anvil_plan#module:plan), which contains the aliases of the GPUs.
    type: list
    elements: dict
    default: []
  routers:
    description: For each host, the result of M(anvil.serving.anvil_serve_info) for the project of its router.
    type: list
    elements: dict
    default: []
  tiers:
    description: For each host, the result of M(anvil.serving.anvil_router_info).
    type: list
    elements: dict
    default: []
  retired:
    description: For each host, the result of M(anvil.serving.anvil_experiment).
    type: list
    elements: dict
    default: []
  format:
    description: The format in which the status is printed.
    type: str
    choices: [table, json]
    default: table
  html:
    description: File on the controller for the status as one self-contained HTML page.
    type: path
  json:
    description: File on the controller for the status as JSON.
    type: path
notes:
  - An action plugin of the same name does the work. The module contains the documentation only.
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
  description: The report of each host - C(cards), C(rows), C(notes), C(retired), and C(trouble) if its status could not be read.
  returned: with O(show=status)
  type: list
  elements: dict
files:
  description: The paths of the files that were written.
  returned: with O(show=status)
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

# The action plugin of the same name imports them.
OPTIONS = {
    "show": {"type": "str", "choices": ["status", "logs"], "default": "status"},
    "hosts": {"type": "list", "elements": "str", "required": True},
    "looks": {"type": "list", "elements": "dict", "required": True},
    "plans": {"type": "list", "elements": "dict", "default": []},
    "routers": {"type": "list", "elements": "dict", "default": []},
    "tiers": {"type": "list", "elements": "dict", "default": []},
    "retired": {"type": "list", "elements": "dict", "default": []},
    "format": {"type": "str", "choices": ["table", "json"], "default": "table"},
    "html": {"type": "path"},
    "json": {"type": "path"},
}


def main():
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    module.fail_json(msg="anvil_report is an action plugin and runs on the controller only: use it in a playbook")


if __name__ == "__main__":
    main()
