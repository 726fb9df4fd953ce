#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_compatibility
short_description: Judge whether models fit their engines and cards
version_added: 1.0.0
description:
  - Judges every serve of a plan before anything is downloaded or started - the weights' format against the engine, their
    quantisation against every card of the serve, the memory they need against the share they may have, and a policy of
    which models are allowed. All findings are reported at once.
  - The quantisation that counts is the one in the weights' headers, not the one that a name or a flag claims.
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
    description: Changes nothing.
    support: full
options:
  plan:
    description: The plan of the host, as M(anvil.serving.anvil_plan) returns it.
    type: dict
    required: true
  paths:
    description:
      - Where the weights of a serve lie on the host, by the serve's name.
      - If not given, they are looked for through the serve's volumes, Hugging Face caches included.
    type: dict
    default: {}
  models_allowed:
    description: Exact repositories, and revisions where given, that may run. If not given, every model may.
    type: list
    elements: dict
    suboptions:
      repo:
        description: What the serve's C(model) must be.
        type: str
        required: true
      revision:
        description: What its C(--revision) must be.
        type: str
  gpus:
    description:
      - Cards to judge against, as RV(anvil.serving.anvil_host_info#module:gpus) tells them.
      - If not given, those of the host.
    type: list
    elements: dict
  enforce:
    description: Fail when something does not fit.
    type: bool
    default: true
extends_documentation_fragment:
  - anvil.serving.anvil.engine
seealso:
  - module: anvil.serving.anvil_model_info
"""

EXAMPLES = r"""
- name: Check the inventory and render it
  anvil.serving.anvil_plan:
  register: anvil

- name: Will it run here?
  anvil.serving.anvil_compatibility:
    plan: "{{ anvil.plan }}"
    models_allowed:
      - repo: openai/gpt-oss-120b
        revision: b5c939de8f754692c1647ca79fbf85e8c1e70f8a
"""

RETURN = r"""
fits:
  description: Whether nothing was found.
  returned: always
  type: bool
findings:
  description: Every reason why a serve may not start, with what, where, why and hint.
  returned: always
  type: list
  elements: dict
  sample:
    - what: nvfp4 weights do not run on this card
      where: serve fast
      why: GPU-1 (NVIDIA L40S, sm_89); nvfp4 needs Blackwell (sm_100 and later)
      hint: choose weights of another quantisation, or pin the serve to another card
      log: []
notes:
  description: What could not be judged, and why.
  returned: always
  type: list
  elements: str
serves:
  description: Engine, model, cards, format, quantisation and memory estimate of each serve.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.engine import Engine
from ansible_collections.anvil.serving.plugins.module_utils.gate import judge_plan
from ansible_collections.anvil.serving.plugins.module_utils.runner import run_module

OPTIONS = {
    "plan": {"type": "dict", "required": True},
    "paths": {"type": "dict", "default": {}},
    "models_allowed": {
        "type": "list",
        "elements": "dict",
        "options": {"repo": {"type": "str", "required": True}, "revision": {"type": "str"}},
    },
    "gpus": {"type": "list", "elements": "dict"},
    "enforce": {"type": "bool", "default": True},
}


def work(module: AnsibleModule) -> dict:
    params = module.params
    allowed = params["models_allowed"]
    if allowed is not None:
        allowed = [{key: value for key, value in entry.items() if value is not None} for entry in allowed]
    engine = Engine(params["docker_host"])
    return judge_plan(engine, params["plan"], params["paths"], allowed, params["gpus"], params["enforce"])


def main() -> None:
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
