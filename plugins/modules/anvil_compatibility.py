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
  - Judges every serve of a plan before anything is downloaded or started. It compares the format of the weights with the
    engine, their quantisation with every card of the serve, the memory they need with the share they may use, and their origin
    with the list of allowed models. All findings are reported at once.
  - Each finding has a verdict. V(impossible) is certain; the finding holds its proof, such as weights that are larger than the
    memory of the cards. V(doubtful) is very likely wrong; the finding holds the arithmetic, such as an estimate of the KV cache.
    What could not be judged is a note.
  - The quantisation is read from the headers of the weights, not from a name or a flag.
author:
  - the anvil.serving authors (@fakoli)
options:
  plan:
    description: The plan of the host, as M(anvil.serving.anvil_plan) returns it.
    type: dict
    required: true
  paths:
    description:
      - Path of the weights on the host, by the name of the serve.
      - If not given, the weights are searched in the volumes of the serve, Hugging Face caches included.
    type: dict
    default: {}
  models_allowed:
    description:
      - The models that may run, each at an exact revision or checksum. If not given, those of the plan
        (C(anvil_models_allowed)); if the plan has none, every model may run.
      - A serve of a repository must name the commit with C(--revision). Weights at a path are judged by the manifest that
        M(anvil.serving.anvil_model) wrote beside them.
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
        description: Checksum of the file or archive that the weights came from.
        type: str
      code:
        description: Whether the Python code that comes with the model may run (C(--trust-remote-code)).
        type: bool
        default: false
  gpus:
    description:
      - Cards to compare with, in the form of RV(anvil.serving.anvil_host_info#module:gpus).
      - If not given, the cards of the host.
    type: list
    elements: dict
  cuda:
    description: >-
      Highest CUDA that the driver of the host runs, such as V(13.0). If neither this nor O(gpus) is given, it is read from the
      driver.
    type: str
  inspect:
    description:
      - Read the headers of weights that are not on the host yet from the Hugging Face hub. A hub that cannot be reached is a
        note, not a finding.
    type: bool
    default: true
  models:
    description:
      - The C(models_list) of the host, so that a serve whose model is a path can be judged by the repository that will be at
        this path.
    type: list
    elements: dict
    default: []
  models_folder:
    description: Folder that will hold them, as in P(anvil.serving.models#role).
    type: str
    default: ""
  models_volume:
    description: Volume that will hold them, where O(models_folder) is empty.
    type: str
    default: anvil-models
  enforce:
    description: Fail if a finding is V(impossible).
    type: bool
    default: true
  strict:
    description: Fail also if a finding is V(doubtful).
    type: bool
    default: false
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

- name: Check that the models run on this host
  anvil.serving.anvil_compatibility:
    plan: "{{ anvil.plan }}"
    models_allowed:
      - repo: openai/gpt-oss-120b
        revision: b5c939de8f754692c1647ca79fbf85e8c1e70f8a
"""

RETURN = r"""
fits:
  description: Whether there is no finding. Notes are not findings.
  returned: always
  type: bool
findings:
  description: Every reason why a serve may not start, with verdict, what, where, why and hint.
  returned: always
  type: list
  elements: dict
  sample:
    - verdict: impossible
      what: the parallel sizes do not make the number of cards
      where: serve heavy
      why: tensor 4 = 4; the serve is pinned to 2 cards
      hint: set --tensor-parallel-size 2, or pin the serve to 4 cards
      log: []
notes:
  description: What could not be judged, and why.
  returned: always
  type: list
  elements: str
serves:
  description: >-
    Verdict, engine, model, cards, format, quantisation, memory estimate and bytes still to be fetched of each serve. The verdict
    is V(fits), or the worst one of its findings. C(reported) is what the engine of a serve that was started reported of its KV
    cache.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import ALLOWED_OPTION, read_allowed
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves import engine_report
from ansible_collections.anvil.serving.plugins.module_utils.weights.plan_compatibility import (
    JudgementInput,
    judge_plan,
    read_expected_models,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.source import HUB_OPTIONS, read_hub_options

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
    "strict": {"type": "bool", "default": False},
    **HUB_OPTIONS,
}


def work(module: AnsibleModule) -> dict:
    params = module.params
    docker = DockerEngine(params["docker_host"])
    expected = read_expected_models(docker, params["models"], params["models_folder"], params["models_volume"])
    given = JudgementInput(
        paths=params["paths"],
        allowed=read_allowed(params["models_allowed"]),
        gpus=params["gpus"],
        cuda=params["cuda"],
        hub=read_hub_options(params) if params["inspect"] else None,
        expected=tuple(expected),
    )
    mode = "strict" if params["strict"] else "enforce" if params["enforce"] else "warn"
    result = judge_plan(docker, params["plan"], given, mode)
    engine_report.add_reports(docker, params["plan"].get("root") or "", result["serves"])
    return result


def main() -> None:
    run_module(OPTIONS, work, mutually_exclusive=[("token", "token_file")])


if __name__ == "__main__":
    main()
