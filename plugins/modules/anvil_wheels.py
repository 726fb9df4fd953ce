#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_wheels
short_description: Fetch the Python wheels for an image that is built without a network
version_added: 1.0.0
description:
  - Fetches the wheels of a pinned and complete requirements file for the interpreter and processor of an image, as one tar.
  - Run it on a machine that reaches a package index, usually the controller (C(delegate_to=localhost)). It uses the index that
    pip is configured with there.
  - A tar that exists is not fetched again.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Predicts whether the wheels are fetched; fetches nothing.
    support: full
  diff_mode:
    description: There is no diff.
    support: none
  idempotent:
    description: A second run changes nothing.
    support: full
options:
  name:
    description: What the wheels are for. The name of the tar begins with it.
    type: str
    required: true
  requirements:
    description: Text of the requirements file. Every line is pinned with C(==), and every dependency is listed.
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
  locks:
    description:
      - Paths of files with the hashes of all these packages and of pip, in pip's format (C(requirements/*.lock)). A file with
        another hash is refused. If not given, files are taken as the index serves them.
    type: list
    elements: path
    default: []
  folder:
    description: Folder that holds the tars.
    type: path
    default: ~/.cache/anvil/wheels
seealso:
  - module: anvil.serving.anvil_image
"""

EXAMPLES = r"""
- name: Fetch the wheels of the server
  anvil.serving.anvil_wheels:
    name: workflow
    requirements: "{{ lookup('ansible.builtin.file', 'requirements.txt') }}"
    python: "3.11"
  delegate_to: localhost
  register: wheels
"""

RETURN = r"""
path:
  description: Path of the tar.
  returned: always
  type: str
  sample: /root/.cache/anvil/wheels/workflow-0d8f2c6a41b7e935.tar
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module_without_docker
from ansible_collections.anvil.serving.plugins.module_utils.images.wheels import WheelSet, fetch_wheels

OPTIONS = {
    "name": {"type": "str", "required": True},
    "requirements": {"type": "str", "required": True},
    "python": {"type": "str", "required": True},
    "machine": {"type": "str", "choices": ["x86_64", "aarch64"], "default": "x86_64"},
    "locks": {"type": "list", "elements": "path", "default": []},
    "folder": {"type": "path", "default": "~/.cache/anvil/wheels"},
}


def read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as handle:
            return handle.read()
    except OSError as exc:
        raise fail("the lock file cannot be read", where=path, why=exc.strerror or str(exc), hint="make lock writes it") from exc


def work(module: AnsibleModule) -> dict:
    params = module.params
    locks = tuple(read_text(path) for path in params["locks"])
    wheels = WheelSet(params["name"], params["requirements"], params["python"], params["machine"], locks)
    return fetch_wheels(wheels, params["folder"], module.check_mode)


def main() -> None:
    run_module_without_docker(OPTIONS, work)


if __name__ == "__main__":
    main()
