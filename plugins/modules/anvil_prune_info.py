#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_prune_info
short_description: Find the images of this collection that nothing on a host needs
version_added: 1.1.0
description:
  - Returns the images that M(anvil.serving.anvil_image) built on this host and that nothing needs, with their sizes.
  - An image is needed if a container uses it (running or not), if the inventory or a file below O(root) names it, if O(builds)
    has it, if it has a name that this collection did not give, or if it is among the newest O(keep) unused ones, for a roll back.
  - An image that is not certainly of this collection is not returned. Removes nothing; the role P(anvil.serving.prune#role) does.
author:
  - the anvil.serving authors (@fakoli)
options:
  root:
    description: Folder of the collection on the host (C(anvil_root)). Every image that a file in it names is needed.
    type: path
    default: /opt/anvil
  images:
    description: References of images that the inventory names.
    type: list
    elements: str
    default: []
  builds:
    description: The entries of C(images_list), of which only these keys are read.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Repository of the image.
        type: str
        required: true
      stack:
        description: What the image is for.
        type: str
        required: true
        choices: [vllm, trt, tool, sglang, llama_cpp, workflow]
      tag:
        description: Readable tag. Without one, no image of this repository and stack is returned.
        type: str
        default: ""
  keep:
    description: Number of unused images that stay for a roll back, for each repository and stack, newest first.
    type: int
    default: 1
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
  - anvil.serving.anvil.reads
"""

EXAMPLES = r"""
- name: Find images that nothing needs
  anvil.serving.anvil_prune_info:
    images: "{{ anvil.plan.serves | map(attribute='image') }}"
  register: found
"""

RETURN = r"""
images:
  description: The images that nothing needs. C(frees_mb) counts only the layers that no other image has.
  returned: always
  type: list
  sample:
    - id: sha256:4b479befa9915719f45d96b93070c5757f9c39e049239d249cee0d77dc894357
      names: ["registry.example.com/serving:vllm-0d8f2c6a41b7e935"]
      mb: 9120.4
      frees_mb: 310.2
remove:
  description: The names to remove, in this order; the id of an image that has no name.
  returned: always
  type: list
kept:
  description: The other images of this collection, each with the reason C(why) it is needed.
  returned: always
  type: list
frees_mb:
  description: What removing all of them frees at least, in MB. Layers that only they share count for none of them.
  returned: always
  type: float
build_cache_mb:
  description: Size of the build cache that no image needs, in MB. It belongs to all builds of the Docker Engine.
  returned: always
  type: float
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.images.prune_info import describe_unused
from ansible_collections.anvil.serving.plugins.module_utils.images.recipe import STACKS
from ansible_collections.anvil.serving.plugins.module_utils.images.unused_images import Build

OPTIONS = {
    "root": {"type": "path", "default": "/opt/anvil"},
    "images": {"type": "list", "elements": "str", "default": []},
    "builds": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "stack": {"type": "str", "required": True, "choices": list(STACKS)},
            "tag": {"type": "str", "default": ""},
        },
    },
    "keep": {"type": "int", "default": 1},
}


def work(module: AnsibleModule) -> dict:
    params = module.params
    builds = [Build(entry["name"], entry["stack"], entry["tag"]) for entry in params["builds"]]
    return describe_unused(DockerEngine(params["docker_host"]), params["root"], params["images"], builds, params["keep"])


def main() -> None:
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
