#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_image_archive_info
short_description: List the images in an archive
version_added: 1.1.0
description:
  - Reads the names, ids and platforms of the images in an archive, as C(docker save) and its like write it, without unpacking it.
  - The role P(anvil.serving.image_archive#role) compares them with those of a host, and loads an archive only
    where one differs.
author:
  - the anvil.serving authors (@fakoli)
options:
  path:
    description: The archive, a tar file. It may be compressed with gzip, bzip2 or xz.
    type: path
    required: true
extends_documentation_fragment:
  - anvil.serving.anvil.reads
"""

EXAMPLES = r"""
- name: List the images in an archive of the controller
  anvil.serving.anvil_image_archive_info:
    path: images.tar
  delegate_to: localhost
"""

RETURN = r"""
images:
  description:
    - The images, each with its C(names), its C(platform) (empty where the archive does not say), and its C(ids). A Docker
      Engine calls it by one of them.
  returned: success
  type: list
  elements: dict
  sample:
    - names: ["anvil.local/base:1"]
      ids: ["sha256:4b479befa9915719f45d96b93070c5757f9c39e049239d249cee0d77dc894357"]
      platform: linux/amd64
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module_without_docker
from ansible_collections.anvil.serving.plugins.module_utils.images.archive import read_archive

OPTIONS = {"path": {"type": "path", "required": True}}


def work(module: AnsibleModule) -> dict:
    return {"changed": False, "images": [image.as_dict() for image in read_archive(module.params["path"])]}


def main() -> None:
    run_module_without_docker(OPTIONS, work)


if __name__ == "__main__":
    main()
