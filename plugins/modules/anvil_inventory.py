#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_inventory
short_description: Write the first inventory of a host, or show how the host differs from it
version_added: 1.1.0
description:
  - Makes an inventory folder from what M(anvil.serving.anvil_host_info) reads on a host - C(hosts.yml) and the files C(main.yml),
    C(gpus.yml), C(serves.yml), C(router.yml) and C(secrets.yml) in C(host_vars/NAME) - and a token for the router outside of it.
  - No file that exists is ever written. If the host has variables there already, their cards and the versions that were read are
    compared with the host, and what differs is shown as a diff.
  - It runs on the controller and contacts no host.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Writes nothing, and tells what it would write.
    support: full
  diff_mode:
    description: The differences of a host that has variables already are always shown.
    support: none
  idempotent:
    description: A second run writes nothing.
    support: full
options:
  name:
    description: The name of the host in the inventory.
    type: str
    required: true
  folder:
    description: The folder of the inventory. A relative path is relative to where ansible-playbook was started.
    type: path
    required: true
  facts:
    description: The result of M(anvil.serving.anvil_host_info) with its option O(anvil.serving.anvil_host_info#module:ports).
    type: dict
    required: true
  requirements:
    description: The result of M(anvil.serving.anvil_host_check) with every requirement tolerated.
    type: dict
    default: {}
notes:
  - An action plugin of the same name does the work. The module contains the documentation only.
"""

EXAMPLES = r"""
- name: Read the host
  anvil.serving.anvil_host_info:
    ports: [8000, 30001]
    partial: true
  register: host

- name: Write its inventory
  anvil.serving.anvil_inventory:
    name: my-host
    folder: inventory/my-host
    facts: "{{ host }}"
"""

RETURN = r"""
files:
  description: The files that were written.
  returned: success
  type: list
  elements: str
token:
  description: The file with the token of the router. Its content is never returned.
  returned: success
  type: str
differences:
  description: What differs between the host and its variables, if it had variables before.
  returned: success
  type: list
  elements: str
  sample: ["new card: NVIDIA H100, GPU-d0f446cf-1771-414c-e116-a39138798a8c, 81559 MiB"]
next:
  description: The commands that come next.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

# The action plugin of the same name imports them.
OPTIONS = {
    "name": {"type": "str", "required": True},
    "folder": {"type": "path", "required": True},
    "facts": {"type": "dict", "required": True},
    "requirements": {"type": "dict", "default": {}},
}


def main():
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    module.fail_json(msg="anvil_inventory is an action plugin and runs on the controller only: use it in a playbook")


if __name__ == "__main__":
    main()
