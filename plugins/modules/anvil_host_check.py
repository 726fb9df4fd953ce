#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_host_check
short_description: Tell everything a Docker host lacks
version_added: 1.0.0
description:
  - Docker Engine 24 or newer, Compose 2.20 or newer, and as asked for the NVIDIA driver, its container toolkit or CDI, the GPUs
    of the inventory, and room for weights. Everything that is missing is told at once.
  - A host that has an NVIDIA driver must have the toolkit too, whether or not O(needs_gpu) is set.
author:
  - the anvil.serving authors (@fakoli)
options:
  gpus:
    description: UUIDs of the GPUs and MIG devices that the host must have.
    type: list
    elements: str
    default: []
  needs_gpu:
    description: Whether a host without an NVIDIA driver will not do. Implied by O(gpus).
    type: bool
    default: false
  folder:
    description: Where weights are kept. By default the engine's data folder, which holds the volumes.
    type: path
  free_mib:
    description: MiB that must be free in O(folder).
    type: int
    default: 0
  builds_images:
    description: Whether images will be built on the host, which takes the buildx plugin.
    type: bool
    default: false
  tolerate:
    description: What may be missing without a failure; it is told in RV(missing) and RV(tolerated) all the same.
    type: list
    elements: str
    choices: [engine, compose, buildx, driver, toolkit, gpu, disk]
    default: []
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
  - anvil.serving.anvil.reads
"""

EXAMPLES = r"""
- name: The host has what the inventory needs
  anvil.serving.anvil_host_check:
    gpus: "{{ anvil_gpus.values() | map(attribute='uuid') }}"
    folder: /srv/models
    free_mib: 200000

- name: Look only
  anvil.serving.anvil_host_check:
    tolerate: [engine, compose, driver, toolkit, gpu, disk]
  register: look
"""

RETURN = r"""
missing:
  description: What is missing, as words of O(tolerate).
  returned: always
  type: list
  sample: [compose, toolkit]
problems:
  description: Every problem with its place, its cause and what to do.
  returned: on failure
  type: list
  elements: dict
tolerated:
  description: As RV(problems), where all of them are tolerated.
  returned: on success
  type: list
  elements: dict
platform:
  description: V(wsl2) or V(linux).
  returned: always
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.core import importing  # pylint: disable=unused-import
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.host.host_requirements import Requirements, check_host

OPTIONS = {
    "gpus": {"type": "list", "elements": "str", "default": []},
    "needs_gpu": {"type": "bool", "default": False},
    "folder": {"type": "path"},
    "free_mib": {"type": "int", "default": 0},
    "builds_images": {"type": "bool", "default": False},
    "tolerate": {
        "type": "list",
        "elements": "str",
        "choices": ["engine", "compose", "buildx", "driver", "toolkit", "gpu", "disk"],
        "default": [],
    },
}


def work(module: AnsibleModule) -> dict:
    params = module.params
    requirements = Requirements(
        gpus=tuple(params["gpus"]),
        needs_gpu=params["needs_gpu"] or bool(params["gpus"]),
        folder=params["folder"] or "",
        free_mib=params["free_mib"],
        builds=params["builds_images"],
    )
    return check_host(DockerEngine(params["docker_host"]), requirements, params["tolerate"])


def main() -> None:
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
