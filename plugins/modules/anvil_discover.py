#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_discover
short_description: Turn a folder of GGUF files into serves
version_added: 1.0.0
description:
  - Finds the GGUF models below a folder or in a volume of the host by their headers, and returns a serve of the engine
    C(llama_cpp) for each. A serve gets a name, a free port, a tag for the size of its model, the projector of its model, if
    the folder of the model has one that fits, and the flag that a model for embeddings or reranking needs.
  - Files that llama.cpp cannot serve are listed with the reason (projectors, adapters, vocabularies, importance matrices, control
    vectors, image and video models, incomplete models, tensors of types that only other servers know).
  - A model that an earlier scan found keeps its name, port and tag.
  - Changes nothing. C(playbooks/discover.yml) writes the result into the inventory, as C(anvil_discovered).
author:
  - the anvil.serving authors (@fakoli)
options:
  path:
    description: Folder on the host. Not with O(volume).
    type: path
  volume:
    description: Docker volume that holds the models. Its folder must be readable on this machine.
    type: str
  target:
    description: Path of the folder inside containers.
    type: str
    default: /models
  kept:
    description: Serves of the last scan, as C(anvil_discovered) has them.
    type: dict
    default: {}
  taken:
    description:
      - Ports that must not be used. Ports that a container publishes or a process of the host listens on need not be listed.
    type: list
    elements: int
    default: []
  names:
    description: Names of serves that do not come from a scan.
    type: list
    elements: str
    default: []
  defaults:
    description: Keys that every serve gets, such as C(image), C(gpus) and C(launch). With C(gpus), C(vram_mib) is estimated.
    type: dict
    default: {}
  first_port:
    description: First port to use.
    type: int
    default: 8080
  last_port:
    description: Last port to use.
    type: int
    default: 8099
  fast_gib:
    description: A model with weights of at most this many GiB gets the tag C(fast).
    type: float
    default: 4.0
  balanced_gib:
    description: A model with weights of at most this many GiB gets the tag C(balanced), a larger one C(powerful).
    type: float
    default: 16.0
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
  - anvil.serving.anvil.reads
seealso:
  - module: anvil.serving.anvil_model_info
"""

EXAMPLES = r"""
- name: List the models that can be served
  anvil.serving.anvil_discover:
    path: /srv/models
    kept: "{{ anvil_discovered | default({}) }}"
    defaults:
      gpus: [big]
      launch: {context: 32768, gpu_layers: 99}
  register: scan
"""

RETURN = r"""
serves:
  description: The serves, by name, as C(anvil_discovered) has them.
  returned: always
  type: dict
  sample:
    qwen3-8b-q4_k_m:
      engine: llama_cpp
      model: /models/qwen/Qwen3-8B-Q4_K_M.gguf
      port: 8080
      tags: [discovered, balanced]
      volumes: ["/srv/models:/models:ro"]
added:
  description: Names of serves that the last scan did not have.
  returned: always
  type: list
  elements: str
gone:
  description: Names of serves of the last scan whose model is no longer there.
  returned: always
  type: list
  elements: str
skipped:
  description: Files that are not served because they are no model that llama.cpp can serve, and why.
  returned: always
  type: list
  elements: dict
  sample: [{path: /srv/models/lora.gguf, why: it is an adapter (LoRA)}]
notes:
  description: Projectors that are not used, and why.
  returned: always
  type: list
  elements: str
unreadable:
  description: Files that could not be read, with what, where, why and hint.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.weights.discovered_serves import Scan
from ansible_collections.anvil.serving.plugins.module_utils.weights.folder_scan import scan_models

OPTIONS = {
    "path": {"type": "path"},
    "volume": {"type": "str"},
    "target": {"type": "str", "default": "/models"},
    "kept": {"type": "dict", "default": {}},
    "taken": {"type": "list", "elements": "int", "default": []},
    "names": {"type": "list", "elements": "str", "default": []},
    "defaults": {"type": "dict", "default": {}},
    "first_port": {"type": "int", "default": 8080},
    "last_port": {"type": "int", "default": 8099},
    "fast_gib": {"type": "float", "default": 4.0},
    "balanced_gib": {"type": "float", "default": 16.0},
}


def work(module: AnsibleModule) -> dict:
    params = module.params
    scan = Scan(
        folder="",
        source="",
        target=params["target"],
        kept=params["kept"],
        taken=params["taken"],
        names=params["names"],
        defaults=params["defaults"],
        first_port=params["first_port"],
        last_port=params["last_port"],
        limits=(params["fast_gib"], params["balanced_gib"]),
    )
    return scan_models(DockerEngine(params["docker_host"]), params["volume"], params["path"] or "", scan)


def main() -> None:
    run_module(OPTIONS, work, required_one_of=[["path", "volume"]], mutually_exclusive=[["path", "volume"]])


if __name__ == "__main__":
    main()
