#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_evaluate
short_description: Run the evaluation commands of a router's image against its tiers
version_added: 1.1.0
author:
  - The anvil.serving authors (@fakoli)
description:
  - Runs C(anvil-serving eval) of the image that the router runs, against each tier, and returns what it found.
  - With V(bootstrap) or V(calibrate) in O(evaluate) it also returns a profile, which remembers what was measured, and its
    difference to the live profile.
  - The commands run in a side container, unprivileged and read-only, attached only to O(networks). Keys reach it through its
    standard input. It ends with the run that started it, even if that is killed.
  - Nothing is changed. M(anvil.serving.anvil_router_promote) makes a profile live.
options:
  evaluate:
    description:
      - What to run, in this order. V(preflight) checks that a tier answers correctly, V(benchmark) is the image's own benchmark.
      - V(bootstrap) and V(calibrate) make a profile from O(eval_data), with the image of a profile router only. V(bootstrap)
        reads grades that are there. V(calibrate) asks the serves, and lets the program C(claude) grade; the image must have it.
    type: list
    elements: str
    choices: [preflight, benchmark, bootstrap, calibrate]
    default: [preflight]
  checks:
    description: The checks of V(preflight), separated by commas, such as C(smoke,json,needle,tools).
    type: str
    default: smoke,json
  eval_data:
    description: Evaluation data as path to text, such as C(2026-07-04-planning/prompts/1.txt).
    type: dict
    default: {}
  eval_data_from:
    description: A folder on the controller with evaluation data, instead of O(eval_data). The action plugin reads it.
    type: path
  judge_environment:
    description: Environment variables for V(calibrate), such as the token of C(claude).
    type: dict
    default: {}
  requests:
    description: Requests of V(benchmark), one after the other.
    type: int
    default: 8
  input_tokens:
    description:
      - Tokens of each prompt of V(benchmark), about. With V(0) the image chooses lengths as its author measured them,
        up to the context of the tier.
    type: int
    default: 0
  output_tokens:
    description: The longest answer of V(benchmark), in tokens. With V(0) the image chooses.
    type: int
    default: 0
  timeout:
    description: Seconds for each command.
    type: int
    default: 600
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
  - anvil.serving.anvil.measured
attributes:
  check_mode:
    support: full
    description: Sends no request, and returns what it would run and how long that may take.
  diff_mode:
    support: none
    description: Changes nothing.
  idempotent:
    support: full
    description: Changes nothing.
seealso:
  - module: anvil.serving.anvil_measure
  - module: anvil.serving.anvil_router_promote
"""

EXAMPLES = r"""
- name: Check that every tier answers correctly
  anvil.serving.anvil_evaluate:
    router: "{{ anvil.plan.router }}"
    serves: "{{ anvil.plan.serves }}"
    networks: ["{{ anvil.plan.network }}"]
    secrets: "{{ anvil_secrets }}"
"""

RETURN = r"""
plan:
  description: What is run, and how long it may take.
  returned: success
  type: str
  sample: eval preflight of fast, eval preflight of heavy; at most 1200 s
evaluations:
  description: For each command, C(kind), C(tier), C(passed), C(checks), C(metrics), the C(evidence) that it wrote, and
    C(log) if it failed. V(benchmark) passes if every request was answered.
  returned: success, empty in check mode
  type: list
  elements: dict
profile:
  description: The text of the profile that was made; null without one.
  returned: success
  type: str
difference:
  description: For each tier and work class, C(change) (V(added), V(removed), V(changed), V(none)), and C(live) and C(measured).
  returned: success
  type: list
  elements: dict
serves:
  description: For each tier, what was measured - the digest of its image, its arguments, its cards and their driver.
  returned: success, empty in check mode
  type: dict
"""

from ansible_collections.anvil.serving.plugins.module_utils.core.live_output import open_live_output
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.measure.evaluation_run import evaluate_tiers
from ansible_collections.anvil.serving.plugins.module_utils.measure.load_targets import TARGET_OPTIONS

OPTIONS = {
    **TARGET_OPTIONS,
    "evaluate": {
        "type": "list",
        "elements": "str",
        "choices": ["preflight", "benchmark", "bootstrap", "calibrate"],
        "default": ["preflight"],
    },
    "checks": {"type": "str", "default": "smoke,json"},
    "eval_data": {"type": "dict", "default": {}},
    "eval_data_from": {"type": "path"},
    "judge_environment": {"type": "dict", "default": {}, "no_log": True},
    "requests": {"type": "int", "default": 8},
    "input_tokens": {"type": "int", "default": 0, "no_log": False},
    "output_tokens": {"type": "int", "default": 0, "no_log": False},
    "timeout": {"type": "int", "default": 600},
}


def work(module):
    with open_live_output(module.params["progress"]) as output:
        docker = DockerEngine(module.params["docker_host"])
        return evaluate_tiers(docker, module.params, module.check_mode, output.write_line)


def main():
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
