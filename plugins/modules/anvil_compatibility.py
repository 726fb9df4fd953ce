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
    description:
      - The policy - what may run, exactly. If not given, that of the plan (C(anvil_models_allowed)); if that has none, every
        model may.
      - A serve of a repository must name the commit with C(--revision). Weights at a path are judged by the manifest that
        M(anvil.serving.anvil_model) left with them.
    type: list
    elements: dict
    suboptions:
      repo:
        description: Repository of the hub.
        type: str
      revision:
        description: Its commit.
        type: str
      sha256:
        description: Checksum of the file or archive that the weights came as.
        type: str
  gpus:
    description:
      - Cards to judge against, as RV(anvil.serving.anvil_host_info#module:gpus) tells them.
      - If not given, those of the host.
    type: list
    elements: dict
  cuda:
    description: The CUDA that the host's driver can run, such as V(13.0); if not given, the driver is asked, unless O(gpus) is.
    type: str
  inspect:
    description:
      - Look at weights that are not on the host yet, by their headers on the Hugging Face hub. A hub that cannot be asked is a
        note, not a finding.
    type: bool
    default: true
  models:
    description:
      - The host's C(models_list), so that a serve whose model is a path can be judged by the repository that will be there.
    type: list
    elements: dict
    default: []
  models_folder:
    description: Where they will lie, as P(anvil.serving.models#role) has it.
    type: str
    default: ""
  models_volume:
    description: The volume they will lie in, where O(models_folder) is empty.
    type: str
    default: anvil-models
  enforce:
    description: Fail when something does not fit.
    type: bool
    default: true
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
  - anvil.serving.anvil.hub
  - anvil.serving.anvil.reads
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
  description: Engine, model, cards, format, quantisation, memory estimate and bytes still to be fetched of each serve.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import ALLOWED_OPTION, read_allowed
from ansible_collections.anvil.serving.plugins.module_utils.core import importing  # pylint: disable=unused-import
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.weights.compatibility_before_download import (
    Asked,
    judge_plan,
    read_entries,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_store import HUB_OPTIONS, read_hub

OPTIONS = {
    "plan": {"type": "dict", "required": True},
    "paths": {"type": "dict", "default": {}},
    "models_allowed": ALLOWED_OPTION,
    "gpus": {"type": "list", "elements": "dict"},
    "cuda": {"type": "str"},
    "inspect": {"type": "bool", "default": True},
    "models": {"type": "list", "elements": "dict", "default": []},
    "models_folder": {"type": "str", "default": ""},
    "models_volume": {"type": "str", "default": "anvil-models"},
    "enforce": {"type": "bool", "default": True},
    **HUB_OPTIONS,
}


def work(module: AnsibleModule) -> dict:
    params = module.params
    engine = DockerEngine(params["docker_host"])
    entries = read_entries(engine, params["models"], params["models_folder"], params["models_volume"])
    asked = Asked(
        paths=params["paths"],
        allowed=read_allowed(params["models_allowed"]),
        gpus=params["gpus"],
        cuda=params["cuda"],
        hub=read_hub(params) if params["inspect"] else None,
        entries=tuple(entries),
    )
    return judge_plan(engine, params["plan"], asked, params["enforce"])


def main() -> None:
    run_module(OPTIONS, work, mutually_exclusive=[("token", "token_file")])


if __name__ == "__main__":
    main()
