#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_docker_daemon
short_description: Merge settings into the engine's daemon.json
version_added: 1.0.0
description:
  - Merges O(settings) into C(daemon.json) and leaves all else in it as it is. Mappings are merged key by key, lists get what
    they lack, other values are replaced.
  - C(dockerd --validate) judges the result before it is written. The engine is restarted only if the file changed, and must
    answer again; else the old file is put back and the engine restarted on it.
  - A restart of the engine stops its containers, unless C(live-restore) is on; those with a restart policy come back.
  - A C(daemon.json) that cannot be read as JSON is an error, and is left as it is.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Merges and validates, and writes nothing.
    support: full
  diff_mode:
    description: Shows the file.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
options:
  settings:
    description: What the file has to hold.
    type: dict
    required: true
  path:
    description: The file.
    type: path
    default: /etc/docker/daemon.json
  force_restart:
    description: Restart the engine even if the file holds everything, as is needed after the container toolkit was installed.
    type: bool
    default: false
  restart_command:
    description: How to restart the engine, word by word. By default C(systemctl restart docker) where systemd runs, else
      C(service docker restart).
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds within which the restarted engine must answer.
    type: int
    default: 60
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
"""

EXAMPLES = r"""
- name: The engine knows the NVIDIA runtime and keeps containers over its own restarts
  anvil.serving.anvil_docker_daemon:
    settings:
      live-restore: true
      runtimes:
        nvidia:
          path: nvidia-container-runtime
"""

RETURN = r"""
restarted:
  description: Whether the engine was restarted.
  returned: always
  type: bool
settings:
  description: All that the file holds now, or would hold.
  returned: always
  type: dict
  sample: {live-restore: true}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.core import importing  # pylint: disable=unused-import
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.host.docker_daemon import (
    DEFAULT_PATH,
    DaemonSettings,
    converge_daemon,
)

OPTIONS = {
    "settings": {"type": "dict", "required": True},
    "path": {"type": "path", "default": DEFAULT_PATH},
    "force_restart": {"type": "bool", "default": False},
    "restart_command": {"type": "list", "elements": "str", "default": []},
    "timeout": {"type": "int", "default": 60},
}


def work(module: AnsibleModule) -> dict:
    params = module.params
    wanted = DaemonSettings(
        path=params["path"],
        settings=params["settings"],
        restart_command=tuple(params["restart_command"]),
        force_restart=params["force_restart"],
        timeout=params["timeout"],
    )
    return converge_daemon(DockerEngine(params["docker_host"]), wanted, module.check_mode)


def main() -> None:
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
