#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_compose_config
short_description: Interpret a compose file with the Docker Compose of a host
version_added: 1.1.0
description:
  - Returns what C(docker compose config) makes of a compose file and of the files that it refers to.
  - M(anvil.serving.anvil_experiment_plan) uses it where the controller has no Docker Compose.
  - The files lie in a folder in memory while the command runs. Variables of the host are not used.
author:
  - the anvil.serving authors (@fakoli)
options:
  name:
    description: Path of the compose file among O(files).
    type: str
    required: true
  files:
    description: Path below one folder -> text.
    type: dict
    required: true
extends_documentation_fragment:
  - anvil.serving.anvil.reads
"""

EXAMPLES = r"""
- name: Interpret a compose file
  anvil.serving.anvil_compose_config:
    name: compose.yaml
    files:
      compose.yaml: "{{ lookup('ansible.builtin.file', 'compose.yaml') }}"
  register: interpreted
"""

RETURN = r"""
document:
  description: The project as Compose writes it in JSON. Each dollar sign is doubled.
  returned: success
  type: dict
text:
  description: The same as YAML, with the extensions of services.
  returned: success
  type: str
unset:
  description: Variables that the file refers to and nothing sets.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module_without_docker
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_config import find_compose, run_config_of_texts

OPTIONS = {
    "name": {"type": "str", "required": True},
    "files": {"type": "dict", "required": True},
}


def work(module: AnsibleModule) -> dict:
    compose = find_compose()
    if not compose:
        raise fail(
            "neither the controller nor this host has Docker Compose",
            where="compose",
            hint="install the Compose plugin on one of them (apt install docker-compose-plugin)",
        )
    return {"changed": False, **run_config_of_texts(compose, module.params["name"], module.params["files"])}


def main() -> None:
    run_module_without_docker(OPTIONS, work)


if __name__ == "__main__":
    main()
