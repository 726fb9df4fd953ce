#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_docker_daemon
short_description: Merge settings into the Docker Engine's daemon.json
version_added: 1.0.0
description:
  - Merges O(settings) into C(daemon.json) and keeps everything else in it. Mappings are merged key by key, missing items are
    added to lists, other values are replaced.
  - C(dockerd --validate) checks the result before it is written, also against the flags of the Docker Engine that runs. A setting
    in the file and among the flags would keep it from starting.
  - If every changed setting is one that dockerd reads again on SIGHUP, the Docker Engine is reloaded, and no container stops.
    Otherwise it is restarted, and only if the file changed. If it does not answer after the restart, the old file is put back
    and the Docker Engine is restarted with it.
  - A restart of the Docker Engine stops its containers, unless C(live-restore) is on. Containers with a restart policy start
    again. If O(settings) turn C(live-restore) on, the Docker Engine reads that before its restart.
  - The file keeps its mode and its owner. If it is a symbolic link, the file behind it is written.
  - A C(daemon.json) that is not valid JSON, has a key twice, is UTF-16, or is no plain file, is an error, and is not changed.
  - Secrets in the file, such as the login of a proxy, are hidden in the result and in the diff.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Merges and validates, and writes nothing.
    support: full
  diff_mode:
    description: Shows the settings, with their secrets hidden.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
options:
  settings:
    description: The settings that the file must contain.
    type: dict
    required: true
  path:
    description:
      - Path of the file. The default is where the Docker Engine of the host reads it - the C(--config-file) of the one that runs,
        else C(/etc/docker/daemon.json), or the place that Docker's snap or rootless Docker uses.
      - Docker Desktop reads no such file of the host, which is an error.
    type: path
  force_restart:
    description: Restart the Docker Engine even if the file does not change. Needed after the container toolkit was installed.
    type: bool
    default: false
  restart_command:
    description: Command that restarts the Docker Engine, as a list of words. The default is C(systemctl restart docker) if
      systemd runs, else C(service docker restart). With a command of your own the Docker Engine is never only reloaded.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds within which the restarted Docker Engine must answer.
    type: int
    default: 60
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
"""

EXAMPLES = r"""
- name: Register the NVIDIA runtime, and keep containers running while the Docker Engine restarts
  anvil.serving.anvil_docker_daemon:
    settings:
      live-restore: true
      runtimes:
        nvidia:
          path: nvidia-container-runtime
"""

RETURN = r"""
restarted:
  description: Whether the Docker Engine was restarted.
  returned: always
  type: bool
reloaded:
  description: Whether the Docker Engine read its settings again, without a restart or before it.
  returned: always
  type: bool
settings:
  description: All settings in the file now, or in check mode after a run. Secrets are hidden.
  returned: always
  type: dict
  sample: {live-restore: true}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.host.daemon_settings import list_secrets
from ansible_collections.anvil.serving.plugins.module_utils.host.docker_daemon import DaemonSettings, converge_daemon

OPTIONS = {
    # no_log keeps the settings out of the system's log; in the result only the secrets among them are hidden, see `work`.
    "settings": {"type": "dict", "required": True, "no_log": True},
    "path": {"type": "path"},
    "force_restart": {"type": "bool", "default": False},
    "restart_command": {"type": "list", "elements": "str", "default": []},
    "timeout": {"type": "int", "default": 60},
}


def work(module: AnsibleModule) -> dict:
    params = module.params
    module.no_log_values = set(list_secrets(params["settings"]))
    wanted = DaemonSettings(
        path=params["path"] or "",
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
