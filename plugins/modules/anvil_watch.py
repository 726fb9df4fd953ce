#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_watch
short_description: Install the resident service of a host that knows whether its serves live
version_added: 1.1.0
description:
  - Installs C(anvil-watch), or removes it. It is one file of Python without dependencies, which a systemd unit runs, or a
    container on a host without systemd.
  - It watches the serves of O(project), restarts those that hang, and answers on loopback; C(docs/watch.md) describes it.
  - A change of the serves or limits restarts nothing, because the running process reads its settings again.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Compares everything and changes nothing.
    support: full
  diff_mode:
    description: RV(changes) names what differs.
    support: none
  idempotent:
    description: A second run changes nothing.
    support: full
options:
  state:
    description: V(present) installs and starts it. V(absent) removes it; its incidents stay.
    type: str
    choices: [present, absent]
    default: present
  project:
    description: The project of the serves, from C(serves) of M(anvil.serving.anvil_plan); none for a host without serves.
    type: dict
    suboptions:
      name:
        description: Name of the compose project.
        type: str
        required: true
      directory:
        description: Absolute folder of the project on the host.
        type: path
        required: true
      compose:
        description: Text of the compose file.
        type: str
        required: true
      services:
        description: The services of the compose file in canonical form.
        type: dict
        required: true
      files:
        description: Further files of the project.
        type: dict
        default: {}
  gpus:
    description: The GPUs of the inventory with their budgets, from C(gpus) of M(anvil.serving.anvil_plan), for the VRAM ledger.
    type: list
    elements: dict
    default: []
  routers:
    description: Containers of the router whose live revision is told.
    type: list
    elements: str
    default: []
  edge:
    description: Container of the edge whose live revision is told.
    type: str
    default: ""
  certificates:
    description: Files of the edge's certificates on the host, whose end is told.
    type: list
    elements: path
    default: []
  for_edge:
    description: Whether the edge of the host passes the metrics on. They are then told on a socket in O(root) too.
    type: bool
    default: false
  root:
    description: Folder of the collection on the host (C(anvil_root)). Program and settings lie in C(anvil-watch) below it.
    type: path
    default: /opt/anvil
  data:
    description: Folder for the state of watch and its incidents.
    type: path
    default: /var/lib/anvil
  port:
    description: Port on 127.0.0.1 for C(/metrics), C(/alive/NAME) and C(/state).
    type: int
    default: 9419
  restarts_per_hour:
    description:
      - The most restarts of one serve in an hour. After that a hung serve stays out of rotation until somebody restarts it.
    type: int
    default: 3
  limits:
    description:
      - Seconds that replace a default - C(tick) (3), C(stall) (6), C(stall_busy) (45), C(confirm) (20), C(confirm_busy) (180),
        C(probe_idle) (60), C(probe_deadline) (10), C(survey) (300), C(host_tick) (60, cards and disks), C(leave) (15),
        C(load); and C(wrong_probes) (3 probes), C(idle_cpu) (0.02 processors).
    type: dict
    default: {}
  runs_in:
    description: V(auto) is V(systemd) where it runs the host, and V(container) elsewhere.
    type: str
    choices: [auto, systemd, container]
    default: auto
  image:
    description: Image of the container, with Python 3.9 or newer. It must be on the host.
    type: str
    default: ""
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
"""

EXAMPLES = r"""
- name: Watch the serves of this host
  anvil.serving.anvil_watch:
    project: "{{ anvil.serves }}"
    root: "{{ anvil.plan.root }}"
"""

RETURN = r"""
changes:
  description: What changed, or would change, such as C(program), C(settings), C(unit), C(started), C(restarted).
  returned: always
  type: list
  elements: str
  sample: [settings]
runs_in:
  description: V(systemd) or V(container); empty where it was removed.
  returned: always
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.core.module import PROJECT_OPTIONS, run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.watch.installation_request import converge_watch

OPTIONS = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "project": {"type": "dict", "options": PROJECT_OPTIONS["project"]["options"]},
    "gpus": {"type": "list", "elements": "dict", "default": []},
    "routers": {"type": "list", "elements": "str", "default": []},
    "edge": {"type": "str", "default": ""},
    "certificates": {"type": "list", "elements": "path", "default": []},
    "for_edge": {"type": "bool", "default": False},
    "root": {"type": "path", "default": "/opt/anvil"},
    "data": {"type": "path", "default": "/var/lib/anvil"},
    "port": {"type": "int", "default": 9419},
    "restarts_per_hour": {"type": "int", "default": 3},
    "limits": {"type": "dict", "default": {}},
    "runs_in": {"type": "str", "choices": ["auto", "systemd", "container"], "default": "auto"},
    "image": {"type": "str", "default": ""},
}


def work(module: AnsibleModule) -> dict:
    return converge_watch(DockerEngine(module.params["docker_host"]), module.params, module.check_mode)


def main() -> None:
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
