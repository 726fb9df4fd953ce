#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_measure_report
short_description: Print what tiers did under load, write it as an HTML page with plots, and check limits
version_added: 1.1.0
description:
  - Prints the results of M(anvil.serving.anvil_measure) of all hosts of a play, on the controller. It contacts no host.
  - Fails after printing if an evaluation failed, so that no profile is promoted then.
  - With O(gate) it fails after printing if a limit does not hold, or if a tier that the gate names was not measured.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Reads the gate and reports its mistakes. There are no results to report.
    support: full
  diff_mode:
    description: There is no diff.
    support: none
  idempotent:
    description: Changes no host.
    support: full
options:
  hosts:
    description: The names of the hosts.
    type: list
    elements: str
    required: true
  results:
    description: For each host, the result of M(anvil.serving.anvil_measure).
    type: list
    elements: dict
    required: true
  evaluated:
    description: For each host, the result of M(anvil.serving.anvil_evaluate).
    type: list
    elements: dict
    default: []
  gate:
    description:
      - A YAML file on the controller with limits. C(tiers) has the limits of each tier, C(default) those of all other tiers.
      - C(ttft_p50_s), C(ttft_p95_s), C(latency_p50_s), C(latency_p95_s) and C(error_rate_max) (0 to 1) are the greatest allowed
        values; C(tokens_per_second_min), C(tokens_per_second_per_request_min) and C(requests_per_second_min) the smallest.
      - Of the evaluations, C(preflight_min) is the smallest part of the checks that pass (0 to 1); C(benchmark_ttft_p50_s),
        C(benchmark_ttft_p95_s), C(benchmark_latency_p95_s) and C(benchmark_tokens_per_second_min) bound its benchmark;
        C(quality_min) is the smallest quality in the measured profile (0 to 1), one for every work class or a mapping of them.
      - C(concurrency) beside the limits names the loads that they apply to. Without it they apply to every load.
    type: path
  folder:
    description: Folder on the controller for C(report.html), C(report.json) and the measured profiles, C(HOST/measured.json).
      With several hosts each also gets a report of its own, C(HOST/report.html) and C(HOST/report.json).
    type: path
notes:
  - An action plugin of the same name does the work. The module contains the documentation only.
"""

EXAMPLES = r"""
- name: Report the measurements of every host of the play
  anvil.serving.anvil_measure_report:
    hosts: "{{ ansible_play_hosts }}"
    results: "{{ ansible_play_hosts | map('extract', hostvars, 'measured') }}"
    gate: slo.yaml
    folder: measured
  run_once: true
"""

RETURN = r"""
hosts:
  description: The report of each host - its C(loads), C(serves) and C(checks).
  returned: success
  type: list
  elements: dict
files:
  description: The paths of the files that were written.
  returned: with O(folder)
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

# The action plugin of the same name imports them.
OPTIONS = {
    "hosts": {"type": "list", "elements": "str", "required": True},
    "results": {"type": "list", "elements": "dict", "required": True},
    "evaluated": {"type": "list", "elements": "dict", "default": []},
    "gate": {"type": "path"},
    "folder": {"type": "path"},
}


def main():
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    module.fail_json(msg="anvil_measure_report is an action plugin and runs on the controller only: use it in a playbook")


if __name__ == "__main__":
    main()
