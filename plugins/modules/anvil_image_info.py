#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_image_info
short_description: Describe an image and the Python in it
version_added: 1.0.0
description:
  - Returns size and processor of an image on the host, and the version of its C(python3), which a temporary container prints.
  - An image that is built on it needs wheels for exactly this version (M(anvil.serving.anvil_wheels)).
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Pulls nothing. The temporary container still runs if the image is there.
    support: full
  diff_mode:
    description: There is no diff.
    support: none
  idempotent:
    description: A second run changes nothing.
    support: full
options:
  name:
    description: Name of the image.
    type: str
    required: true
  pull:
    description: Whether to pull an image that is not on the host.
    type: bool
    default: true
  base:
    description:
      - The base image that the image is built on. If given, only RV(fresh) is returned, and nothing is pulled or started.
    type: str
    default: ""
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
seealso:
  - module: anvil.serving.anvil_image
"""

EXAMPLES = r"""
- name: Describe the base image
  anvil.serving.anvil_image_info:
    name: python:3.13-slim
  register: base
"""

RETURN = r"""
fresh:
  description: Whether the image is on the host and was built on the base image as it is now.
  returned: when O(base) is given
  type: bool
exists:
  description: Whether the image is on the host.
  returned: unless O(base) is given
  type: bool
image_id:
  description: Id of the image. Null if it is not there.
  returned: unless O(base) is given
  type: str
mb:
  description: Size of the image in units of 10**6 bytes, as C(docker image ls) shows it.
  returned: unless O(base) is given
  type: float
machine:
  description: Processor of the image, such as V(x86_64). Empty if it is not there.
  returned: unless O(base) is given
  type: str
python:
  description: Version of its Python, such as V(3.11). Empty if it has none.
  returned: unless O(base) is given
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.images.image_info import describe_image, is_fresh

OPTIONS = {
    "name": {"type": "str", "required": True},
    "pull": {"type": "bool", "default": True},
    "base": {"type": "str", "default": ""},
}


def work(module: AnsibleModule) -> dict:
    params = module.params
    docker = DockerEngine(params["docker_host"])
    if params["base"]:
        return {"changed": False, "fresh": is_fresh(docker, params["name"], params["base"])}
    return describe_image(docker, params["name"], params["pull"], module.check_mode)


def main() -> None:
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
