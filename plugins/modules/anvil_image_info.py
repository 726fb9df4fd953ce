#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_image_info
short_description: Tell what an image is, and which Python it has
version_added: 1.0.0
description:
  - Size and processor of an image on the host, and the version of its C(python3), which a throwaway container tells.
  - What is built on it needs wheels for just that version (M(anvil.serving.anvil_wheels)).
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Pulls nothing. An image that is there is asked for its Python all the same.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: A second run changes nothing.
    support: full
options:
  name:
    description: The image.
    type: str
    required: true
  pull:
    description: Whether to pull an image that is not on the host.
    type: bool
    default: true
  base:
    description:
      - The base that the image is built on. Then only RV(fresh) is told, and nothing is pulled or started.
    type: str
    default: ""
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
seealso:
  - module: anvil.serving.anvil_image
"""

EXAMPLES = r"""
- name: Look at the base
  anvil.serving.anvil_image_info:
    name: python:3.13-slim
  register: base
"""

RETURN = r"""
fresh:
  description: Whether the image is on the host, and was built on the base as it is now.
  returned: when O(base) is given
  type: bool
exists:
  description: Whether the image is on the host.
  returned: unless O(base) is given
  type: bool
image_id:
  description: Its id; null if it is not there.
  returned: unless O(base) is given
  type: str
mb:
  description: Its size in units of 10**6 bytes, as C(docker image ls) shows it.
  returned: unless O(base) is given
  type: float
machine:
  description: Its processor, such as V(x86_64); empty if it is not there.
  returned: unless O(base) is given
  type: str
python:
  description: Version of its Python, such as V(3.11); empty where it has none.
  returned: unless O(base) is given
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.core import importing  # pylint: disable=unused-import
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.images.images import describe_image, is_fresh

OPTIONS = {
    "name": {"type": "str", "required": True},
    "pull": {"type": "bool", "default": True},
    "base": {"type": "str", "default": ""},
}


def work(module: AnsibleModule) -> dict:
    asked = module.params
    engine = DockerEngine(asked["docker_host"])
    if asked["base"]:
        return {"changed": False, "fresh": is_fresh(engine, asked["name"], asked["base"])}
    return describe_image(engine, asked["name"], asked["pull"], module.check_mode)


def main() -> None:
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
