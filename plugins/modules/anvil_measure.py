#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_measure
short_description: Put load on the tiers of a router and measure them
version_added: 1.1.0
author:
  - The anvil.serving authors (@fakoli)
description:
  - Sends chat completions to each tier with aiperf, one load after the other, and returns the time to the first token, the
    latency, the tokens per second and the rate of errors for each tier and each number of requests in flight.
  - aiperf runs in a side container of O(image), unprivileged and read-only, attached only to O(networks). Keys reach it through
    its standard input. It ends with the run that started it, even if that is killed.
  - Nothing is changed. The tiers serve other requests meanwhile, which changes what is measured.
options:
  image:
    description: An image with aiperf, as C(playbooks/measure.yml) builds it. It is not pulled.
    type: str
    required: true
  concurrency:
    description: Requests in flight; one load for each number.
    type: list
    elements: int
    default: [1, 4]
  requests:
    description: Requests of each load, at least as many as are in flight.
    type: int
    default: 32
  input_tokens:
    description: Tokens of each prompt, about; the tokenizer of the model counts them in its own way.
    type: int
    default: 256
  output_tokens:
    description: The longest answer, in tokens.
    type: int
    default: 128
  timeout:
    description: Seconds for each load, and for each of its requests.
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
  - module: anvil.serving.anvil_measure_report
"""

EXAMPLES = r"""
- name: Measure every tier through the router
  anvil.serving.anvil_measure:
    router: "{{ anvil.plan.router }}"
    serves: "{{ anvil.plan.serves }}"
    networks: ["{{ anvil.plan.network }}"]
    image: anvil.local/aiperf:1
    secrets: "{{ anvil_secrets }}"
    concurrency: [1, 8]
"""

RETURN = r"""
plan:
  description: What is run, and how long it may take.
  returned: success
  type: str
  sample: >-
    4 loads on fast, heavy: concurrency 1, 4, 32 requests each of about 256 tokens in and at most 128 out; about 32 s plus the
    time of the answers, at most 2400 s
loads:
  description:
    - The result of each load. Times are in seconds; a value is null if no request was answered.
    - C(problem) says why requests failed.
  returned: success, empty in check mode
  type: list
  elements: dict
  sample:
    - {"tier": "heavy", "concurrency": 4, "requests": 32, "errors": 0, "error_rate": 0.0, "seconds": 3.1, "ttft_p50_s": 0.12,
      "ttft_p95_s": 0.2, "latency_p50_s": 0.4, "latency_p95_s": 0.6, "tokens_per_second": 310.2,
      "tokens_per_second_per_request": 88.1, "requests_per_second": 10.3, "problem": ""}
serves:
  description: For each tier, what was measured - the digest of its image, its arguments, its cards and their driver.
  returned: success, empty in check mode
  type: dict
  sample: {"heavy": {"image": "sha256:9f…", "arguments": ["--port", "30002"], "cards": ["NVIDIA RTX PRO 6000 GPU-d0f4…"],
    "driver": "580.95.05"}}
"""

from ansible_collections.anvil.serving.plugins.module_utils.core.live_output import open_live_output
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.measure.load_run import measure_tiers
from ansible_collections.anvil.serving.plugins.module_utils.measure.load_targets import TARGET_OPTIONS

OPTIONS = {
    **TARGET_OPTIONS,
    "image": {"type": "str", "required": True},
    "concurrency": {"type": "list", "elements": "int", "default": [1, 4]},
    "requests": {"type": "int", "default": 32},
    "input_tokens": {"type": "int", "default": 256, "no_log": False},
    "output_tokens": {"type": "int", "default": 128, "no_log": False},
    "timeout": {"type": "int", "default": 600},
}


def work(module):
    with open_live_output(module.params["progress"]) as output:
        docker = DockerEngine(module.params["docker_host"])
        return measure_tiers(docker, module.params, module.check_mode, output.write_line)


def main():
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
