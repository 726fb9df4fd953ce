#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_host_check
short_description: Check the requirements of a Docker host
version_added: 1.0.0
description:
  - Checks for Docker Engine 24 or newer and Compose 2.20 or newer. Optionally also checks for the NVIDIA driver, its container
    toolkit or CDI, the GPUs of the inventory, and free space for weights. Everything that is missing is reported at once.
  - A host with an NVIDIA driver must have the toolkit too, whether or not O(needs_gpu) is set. A toolkit that cannot be used with
    the Docker Engine of the host counts as missing - CDI alone before Docker Engine 29, or CDI without the UUIDs of the GPUs.
  - Docker Desktop on WSL2 brings its own toolkit, and so does Docker's snap.
  - A processor other than x86_64 is told in RV(recommended), because the images of the host must be made for it.
  - Settings that avoid a later outage, and what may be wrong, are returned in RV(recommended), and never fail the task.
author:
  - the anvil.serving authors (@fakoli)
options:
  gpus:
    description: UUIDs of the GPUs and MIG devices that the host must have.
    type: list
    elements: str
    default: []
  indexes:
    description: The indexes of GPUs in the inventory, by UUID. One that is not the driver's is told in RV(recommended).
    type: dict
    default: {}
  gpu_driver:
    description: What serves ask the Docker Engine for their GPUs, as C(anvil_gpu_driver) of the inventory.
    type: str
    choices: [nvidia, cdi]
    default: nvidia
    version_added: 1.1.0
  needs_gpu:
    description: Whether the host must have an NVIDIA driver. Implied by O(gpus).
    type: bool
    default: false
  folder:
    description: Folder of the weights. The default is the data folder of the Docker Engine, which holds the volumes.
    type: path
  free_mib:
    description: MiB that must be free in O(folder).
    type: int
    default: 0
  builds_images:
    description: Whether images are built on the host, which requires the buildx plugin.
    type: bool
    default: false
  tolerate:
    description: Requirements that may be missing without a failure. They are still reported in RV(missing) and RV(tolerated).
    type: list
    elements: str
    choices: [engine, compose, buildx, driver, toolkit, gpu, disk]
    default: []
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
  - anvil.serving.anvil.reads
"""

EXAMPLES = r"""
- name: Check that the host has what the inventory needs
  anvil.serving.anvil_host_check:
    gpus: "{{ anvil_gpus.values() | map(attribute='uuid') }}"
    indexes: "{{ anvil_gpus.values() | selectattr('index', 'defined') | items2dict(key_name='uuid', value_name='index') }}"
    folder: /srv/models
    free_mib: 200000

- name: Read what is missing, without a failure
  anvil.serving.anvil_host_check:
    tolerate: [engine, compose, driver, toolkit, gpu, disk]
  register: requirements
"""

RETURN = r"""
missing:
  description: The requirements that are missing, with the names used in O(tolerate).
  returned: always
  type: list
  sample: [compose, toolkit]
problems:
  description: Every problem with its place, its cause and a hint.
  returned: on failure
  type: list
  elements: dict
tolerated:
  description: As RV(problems), if all of them are tolerated.
  returned: on success
  type: list
  elements: dict
recommended:
  description: What is recommended for this host, each with its place, its reason and a command. Nothing here is a failure.
  returned: always
  type: list
  elements: dict
  sample:
    - what: persistence mode is off
      where: nvidia-smi
      why: the driver initialises the GPUs for each question and each start, which takes up to 40 s with many GPUs
      hint: "turn persistence mode on, so that the driver does not initialise every GPU for each question: systemctl enable --now
        nvidia-persistenced (or nvidia-smi -pm 1)"
      log: []
gpu_driver:
  description: The value of C(anvil_gpu_driver) that works on this host - V(nvidia) where both do. Empty if neither is known to.
  returned: always
  type: str
  sample: cdi
architecture:
  description: Processor of the Docker Engine. Empty if it does not answer.
  returned: always
  type: str
  sample: x86_64
installation:
  description: How the Docker Engine is installed - V(package), V(snap), V(rootless) or V(docker_desktop). Empty if it does not
    answer, and neither Docker Desktop nor the snap is found.
  returned: always
  type: str
platform:
  description: V(wsl2) or V(linux).
  returned: always
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.host.host_requirements import Requirements, check_host

OPTIONS = {
    "gpus": {"type": "list", "elements": "str", "default": []},
    "indexes": {"type": "dict", "default": {}},
    "gpu_driver": {"type": "str", "choices": ["nvidia", "cdi"], "default": "nvidia"},
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
        gpu_driver=params["gpu_driver"],
        needs_gpu=params["needs_gpu"] or bool(params["gpus"]),
        folder=params["folder"] or "",
        free_mib=params["free_mib"],
        builds=params["builds_images"],
        # The plan judges what is no number.
        indexes={str(uuid): int(index) for uuid, index in params["indexes"].items() if str(index).isdecimal()},
    )
    return check_host(DockerEngine(params["docker_host"]), requirements, params["tolerate"])


def main() -> None:
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
