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
  - Finds the GGUF models below a folder or in a volume of the host by their headers, and says how each would be served by
    C(llama_cpp) - a name, a port that nobody else has, a tier, and its projector where one lies beside it.
  - What an earlier scan decided stays - a model that is still there keeps its name, port and tier.
  - Changes nothing. C(playbooks/discover.yml) writes the answer into the inventory, as C(anvil_discovered).
author:
  - the anvil.serving authors (@fakoli)
options:
  path:
    description: The folder on the host. Not with O(volume).
    type: path
  volume:
    description: The Docker volume that holds the models; its folder must be readable on this machine.
    type: str
  target:
    description: Where containers find the folder.
    type: str
    default: /models
  kept:
    description: What the last scan found, as C(anvil_discovered) has it.
    type: dict
    default: {}
  taken:
    description:
      - Ports that belong to others. Those that a container publishes or a process of the host listens on are found out.
    type: list
    elements: int
    default: []
  names:
    description: Names of serves that belong to others.
    type: list
    elements: str
    default: []
  defaults:
    description: Keys that every serve gets, such as C(image), C(gpus) and C(launch). With C(gpus), C(vram_mib) is estimated.
    type: dict
    default: {}
  first_port:
    description: The first port to give away.
    type: int
    default: 8080
  last_port:
    description: The last one; it is given away too.
    type: int
    default: 8099
  fast_gib:
    description: Weights of at most so many GiB are C(fast).
    type: float
    default: 4.0
  balanced_gib:
    description: Weights of at most so many GiB are C(balanced), larger ones C(powerful).
    type: float
    default: 16.0
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
  - anvil.serving.anvil.reads
seealso:
  - module: anvil.serving.anvil_model_info
"""

EXAMPLES = r"""
- name: What could be served?
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
  description: The models as C(anvil_discovered) wants them, by name.
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
  description: Names that the last scan did not have.
  returned: always
  type: list
  elements: str
gone:
  description: Names of the last scan whose model is there no more.
  returned: always
  type: list
  elements: str
notes:
  description: What is no serve, and why.
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
from ansible_collections.anvil.serving.plugins.module_utils.core import importing  # pylint: disable=unused-import
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.weights.discovery import Scan
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
    asked = module.params
    scan = Scan(
        folder="",
        source="",
        target=asked["target"],
        kept=asked["kept"],
        taken=asked["taken"],
        names=asked["names"],
        defaults=asked["defaults"],
        first_port=asked["first_port"],
        last_port=asked["last_port"],
        limits=(asked["fast_gib"], asked["balanced_gib"]),
    )
    return scan_models(DockerEngine(asked["docker_host"]), asked["volume"], asked["path"] or "", scan)


def main() -> None:
    run_module(OPTIONS, work, required_one_of=[["path", "volume"]], mutually_exclusive=[["path", "volume"]])


if __name__ == "__main__":
    main()
