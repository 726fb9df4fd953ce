#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_report
short_description: Print the status of hosts as a table, JSON or an HTML page, their logs, cards or workflows, or the end of waves
version_added: 1.0.0
description:
  - Prints the results of M(anvil.serving.anvil_serve_info) of all hosts of a play, on the controller. It contacts no host.
  - It does not fail for a host that could not be read, because its own failure would end the run for another host.
    RV(troubles) names each such host, and a task after it can fail on exactly those hosts.
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
    choices: [status, logs, revisions, cards, workflows]
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
      - With O(show=revisions), the result of M(anvil.serving.anvil_router_info).
      - With O(show=cards), the result of M(anvil.serving.anvil_host_info) with C(health).
      - With O(show=workflows), the result of M(anvil.serving.anvil_workflow_info), and with O(show=logs) that or the first one.
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
  verb:
    description: With O(show=revisions), the word for a host whose turn succeeded.
    type: str
    default: promoted
  turns:
    description: With O(show=revisions), for each host the result of the task that changed it; empty if it had no turn.
    type: list
    elements: dict
    default: []
  failures:
    description: For each host why its plan, its turn or its reading failed, or an empty text.
    type: list
    elements: str
    default: []
  undone:
    description: With O(show=revisions), for each host the result of its roll back, or an empty mapping.
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
troubles:
  description: Why a host counts as failed, by the name of the host - it could not be read, or its turn failed.
  returned: always
  type: dict
  sample: {"gpu-3": "Failed to connect to the host via ssh: connect to host gpu-3 port 22: No route to host"}
revisions:
  description:
    - For each host the revision before, C(old), the live one, C(live), and C(outcome) - O(verb), V(unchanged), V(rolled back),
      V(not rolled back), V(failed), V(did not answer in its turn), V(untouched) or V(no router).
  returned: with O(show=revisions)
  type: list
  elements: dict
  sample: [{"host": "gpu-1", "old": "4f0c3e8f6a0c", "live": "91d0a3b2c4e5", "outcome": "promoted", "trouble": ""}]
untouched:
  description: The hosts that had no turn, because an earlier wave failed.
  returned: with O(show=revisions)
  type: list
  elements: str
printed:
  description: Whether anything was printed.
  returned: always
  type: bool
hosts:
  description: The report of each host - C(cards), C(rows), C(workflows), C(notes), C(retired), and C(trouble) if its status could
    not be read. With O(show=workflows) it has C(workflows), C(notes) and C(trouble).
  returned: with O(show=status), O(show=cards) and O(show=workflows)
  type: list
  elements: dict
files:
  description: The paths of the files that were written.
  returned: with O(show=status) and O(show=workflows)
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

# The action plugin of the same name imports them.
OPTIONS = {
    "show": {"type": "str", "choices": ["status", "logs", "revisions", "cards", "workflows"], "default": "status"},
    "hosts": {"type": "list", "elements": "str", "required": True},
    "looks": {"type": "list", "elements": "dict", "required": True},
    "plans": {"type": "list", "elements": "dict", "default": []},
    "routers": {"type": "list", "elements": "dict", "default": []},
    "tiers": {"type": "list", "elements": "dict", "default": []},
    "retired": {"type": "list", "elements": "dict", "default": []},
    "verb": {"type": "str", "default": "promoted"},
    "turns": {"type": "list", "elements": "dict", "default": []},
    "failures": {"type": "list", "elements": "str", "default": []},
    "undone": {"type": "list", "elements": "dict", "default": []},
    "format": {"type": "str", "choices": ["table", "json"], "default": "table"},
    "html": {"type": "path"},
    "json": {"type": "path"},
}


def main():
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    module.fail_json(msg="anvil_report is an action plugin and runs on the controller only: use it in a playbook")


if __name__ == "__main__":
    main()
