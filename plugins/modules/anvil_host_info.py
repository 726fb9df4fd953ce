#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_host_info
short_description: Tell what a Docker host can run
version_added: 1.0.0
description:
  - Docker Engine, Compose, the NVIDIA driver as far as the host has them, and every GPU with its UUID.
  - What is unknown is null, never guessed. A host without GPUs is no failure; a driver that does not answer is.
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
extends_documentation_fragment:
  - anvil.serving.anvil.engine
"""

EXAMPLES = r"""
- name: Look at the host
  anvil.serving.anvil_host_info:
  register: host

- name: Show its cards
  ansible.builtin.debug:
    var: host.gpus
"""

RETURN = r"""
engine:
  description: Version and API version of the Docker Engine, its storage driver, data folder and runtimes.
  returned: always
  type: dict
  sample: {version: 26.1.5, api_version: "1.45", data_root: /var/lib/docker, storage_driver: overlay2, runtimes: [runc]}
compose:
  description: Version of the Compose plugin; empty where there is none.
  returned: always
  type: str
platform:
  description: V(wsl2) or V(linux).
  returned: always
  type: str
nvidia:
  description: Whether the host has an NVIDIA driver, and its version.
  returned: always
  type: dict
  sample: {present: true, driver: 580.95.05}
gpus:
  description: Every card; memory in MiB, null where the driver does not tell.
  returned: always
  type: list
  sample:
    - index: 0
      uuid: GPU-d0f446cf-1771-414c-e116-a39138798a8c
      name: NVIDIA RTX PRO 6000 Blackwell
      compute_capability: "12.0"
      vram_total_mib: 97887
      vram_used_mib: 4
      vram_free_mib: 97883
      driver: 580.95.05
      pci_bus_id: "00000000:01:00.0"
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.engine import Engine
from ansible_collections.anvil.serving.plugins.module_utils.host import describe_host
from ansible_collections.anvil.serving.plugins.module_utils.runner import run_module


def work(module: AnsibleModule) -> dict:
    return describe_host(Engine(module.params["docker_host"]))


def main() -> None:
    run_module({}, work)


if __name__ == "__main__":
    main()
