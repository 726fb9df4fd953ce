#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_serve_info
short_description: Tell what the serves of a project are and how they differ from the inventory
version_added: 1.0.0
description:
  - For each serve of a compose project - does it run, does it answer, and in which fields does its container differ from
    the inventory. Also who sits on a serve's name or port, and which containers of the project are in no inventory.
  - Absence is no failure.
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
  - anvil.serving.anvil.project
seealso:
  - module: anvil.serving.anvil_serve
"""

EXAMPLES = r"""
- name: Look at the model tiers
  anvil.serving.anvil_serve_info:
    project: "{{ anvil.serves }}"
    secrets: "{{ anvil_secrets | default({}) }}"
  register: look
"""

RETURN = r"""
serves:
  description:
    - As RV(anvil.serving.anvil_serve#module:serves); C(action) and C(reasons) are what
      O(anvil.serving.anvil_serve#module:state=up) would do and why.
  returned: always
  type: dict
squatters:
  description: For each serve, who else holds its container name or port.
  returned: always
  type: dict
orphans:
  description: Containers of the project that are no serve of the inventory any more.
  returned: always
  type: list
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils import serves
from ansible_collections.anvil.serving.plugins.module_utils.engine import Engine
from ansible_collections.anvil.serving.plugins.module_utils.runner import PROJECT_OPTIONS, run_module


def work(module: AnsibleModule) -> dict:
    params = module.params
    project = serves.read_project(params["project"], params["secrets"], params["serves"])
    return serves.describe(Engine(params["docker_host"]), project)


def main() -> None:
    run_module(PROJECT_OPTIONS, work)


if __name__ == "__main__":
    main()
