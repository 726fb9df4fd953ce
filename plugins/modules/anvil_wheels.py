#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_wheels
short_description: Fetch the Python wheels of an image that is built without a network
version_added: 1.0.0
description:
  - Fetches the wheels of a pinned and complete requirements file for the interpreter and processor of an image, as one tar.
  - Runs where a package index is reachable, which is mostly the controller (C(delegate_to=localhost)); the index is the one
    that pip is configured with there.
  - A tar that is there is not fetched again.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Tells whether there is something to fetch, and fetches nothing.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: A second run changes nothing.
    support: full
options:
  name:
    description: What the wheels are for; the file's name begins with it.
    type: str
    required: true
  requirements:
    description: Text of the requirements file. Every line is pinned with C(==), and nothing that is needed is left out.
    type: str
    required: true
  python:
    description: Version of the interpreter in the image, such as V(3.11).
    type: str
    required: true
  machine:
    description: Processor of the image.
    type: str
    choices: [x86_64, aarch64]
    default: x86_64
  folder:
    description: Where the tars are kept.
    type: path
    default: ~/.cache/anvil/wheels
seealso:
  - module: anvil.serving.anvil_image
"""

EXAMPLES = r"""
- name: The wheels of the server
  anvil.serving.anvil_wheels:
    name: workflow
    requirements: "{{ lookup('ansible.builtin.file', 'requirements.txt') }}"
    python: "3.11"
  delegate_to: localhost
  register: wheels
"""

RETURN = r"""
path:
  description: The tar.
  returned: always
  type: str
  sample: /root/.cache/anvil/wheels/workflow-0d8f2c6a41b7e935.tar
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.core import importing  # pylint: disable=unused-import
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module_without_docker
from ansible_collections.anvil.serving.plugins.module_utils.images.wheels import Wanted, fetch_wheels

OPTIONS = {
    "name": {"type": "str", "required": True},
    "requirements": {"type": "str", "required": True},
    "python": {"type": "str", "required": True},
    "machine": {"type": "str", "choices": ["x86_64", "aarch64"], "default": "x86_64"},
    "folder": {"type": "path", "default": "~/.cache/anvil/wheels"},
}


def work(module: AnsibleModule) -> dict:
    asked = module.params
    wanted = Wanted(asked["name"], asked["requirements"], asked["python"], asked["machine"])
    return fetch_wheels(wanted, asked["folder"], module.check_mode)


def main() -> None:
    run_module_without_docker(OPTIONS, work)


if __name__ == "__main__":
    main()
