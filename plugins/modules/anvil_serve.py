#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_serve
short_description: Converge the serves of a compose project
version_added: 1.0.0
description:
  - Brings all serves of one compose project to the wanted state in one call, and touches only those that differ.
  - What differs is found by comparing the rendered services with what the engine says of each container, field by field;
    acting is left to C(docker compose up), which never replays an old container.
  - After O(state=up) each serve has answered with its model's name, or the task fails with the reason and the end of
    the serve's log. Other serves are left running.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Predicts every action and reason, and touches nothing.
    support: full
  diff_mode:
    description: Shows the compose file and each differing field; environment variables by name only.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
options:
  state:
    description:
      - V(up) creates, replaces, starts or unpauses what differs, and waits until every serve is ready.
      - V(down) removes the containers of the serves; files, volumes and the network stay.
    type: str
    choices: [up, down]
    default: up
  keep_container:
    description: With O(state=down), only stop the containers.
    type: bool
    default: false
  progress:
    description:
      - Set by the action plugin of the same name, which prints one line for each serve and change while the module runs.
      - Environment variable E(ANVIL_PROGRESS) of the controller set to V(no) turns that off. Where the controller's standard
        output is no terminal, there is at most one line in ten seconds.
    type: str
extends_documentation_fragment:
  - anvil.serving.anvil.engine
  - anvil.serving.anvil.project
seealso:
  - module: anvil.serving.anvil_plan
  - module: anvil.serving.anvil_serve_info
"""

EXAMPLES = r"""
- name: Check the inventory and render it
  anvil.serving.anvil_plan:
  register: anvil

- name: Bring the model tiers up
  anvil.serving.anvil_serve:
    project: "{{ anvil.serves }}"
    secrets: "{{ anvil_secrets | default({}) }}"

- name: Free the cards of the heavy tier
  anvil.serving.anvil_serve:
    project: "{{ anvil.serves }}"
    secrets: "{{ anvil_secrets | default({}) }}"
    serves: [heavy]
    state: down
"""

RETURN = r"""
serves:
  description: What was done with each serve, and what it is now.
  returned: always
  type: dict
  contains:
    action:
      description: V(none), V(create), V(recreate), V(start), V(unpause), V(stop) or V(remove).
      type: str
    reasons:
      description:
        - Why, as words of a fixed vocabulary - V(missing), V(stopped), V(paused), V(unhealthy), V(dead), V(image),
          V(command), V(entrypoint), V(environment), V(env_file), V(gpu), V(ports), V(mounts), V(networks), V(ipc),
          V(shm), V(limits), V(restart_policy), V(user), V(read_only), V(tmpfs), V(init), V(healthcheck),
          V(capabilities), V(security_opt), V(extra_hosts), V(labels), V(name), V(foreign_project), V(stale_container).
      type: list
    changes:
      description: Before and after of each field that differed; environment variables by name only.
      type: dict
    state:
      description: V(ready), or what it is instead, such as V(loading), V(exited), V(restart_loop), V(oom_killed).
      type: str
    health:
      description: The engine's health word, empty where the container has no health check.
      type: str
    ready:
      description: Whether the serve answered with its model's name; null in check mode.
      type: bool
    container:
      description: Name of the container.
      type: str
    container_id:
      description: Id of the container; empty where there is none.
      type: str
    image_id:
      description: Id of the image the container was made of.
      type: str
    gpu_uuids:
      description: The cards the serve is pinned to.
      type: list
    endpoint:
      description: Base URL of its OpenAI-compatible API, as reached from the host.
      type: str
    seconds:
      description: How long it took until it was ready.
      type: float
  sample:
    heavy: {action: recreate, reasons: [command], state: ready, ready: true, endpoint: "http://127.0.0.1:30002/v1"}
created:
  description: Networks and volumes that were created.
  returned: always
  type: list
files:
  description: Files on the host that were written.
  returned: always
  type: list
commands:
  description: The commands that were run, as argument lists.
  returned: always
  type: list
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils import progress, serves
from ansible_collections.anvil.serving.plugins.module_utils.engine import Engine
from ansible_collections.anvil.serving.plugins.module_utils.runner import PROJECT_OPTIONS, run_module

OPTIONS = {
    **PROJECT_OPTIONS,
    "state": {"type": "str", "choices": ["up", "down"], "default": "up"},
    "keep_container": {"type": "bool", "default": False},
    "progress": {"type": "str", "no_log": False},
}


def work(module: AnsibleModule) -> dict:
    params = module.params
    engine = Engine(params["docker_host"])
    project = serves.read_project(params["project"], params["secrets"], params["serves"])
    if params["state"] == "down":
        return serves.take_down(engine, project, params["keep_container"], module.check_mode)
    with progress.told(params["docker_host"], project, None if module.check_mode else params["progress"]):
        return serves.bring_up(engine, project, module.check_mode)


def main() -> None:
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
