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
  - Before a container is touched all is admitted - GPUs exist, the memory of each card adds up, names and ports are free -
    or the task fails with every conflict and who holds what.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Predicts every action and reason, and touches nothing.
    support: full
  diff_mode:
    description: Shows the compose file, and for each serve the fields that differ; environment variables by name only.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
options:
  state:
    description:
      - V(up) creates, replaces, starts or unpauses what differs, and waits until every serve is ready. A serve with
        C(residency=on_demand) is started only when O(serves) chooses it.
      - V(down) removes the containers of the serves; files, volumes and the network stay. A serve that is back within
        O(settle) seconds is a failure.
      - V(restarted) restarts what is as the inventory says, and does what V(up) does with the rest, because a restart would
        replay an old configuration. Then every serve must be ready and stay the same process for O(settle) seconds.
      - V(recreated) replaces the containers whether they differ or not, and watches them likewise.
      - V(adopted) replaces a container that was started by hand or by another project with one of ours. The old one is
        renamed and stopped until the new one is ready; if it does not get ready, the old one is put back and started.
      - V(absent) removes the O(containers).
    type: str
    choices: [up, down, restarted, recreated, adopted, absent]
    default: up
  keep_container:
    description: With O(state=down), only stop the containers.
    type: bool
    default: false
  containers:
    description:
      - With O(state=absent), the names of containers or serves that must not be there, in the inventory or not. A name that
        is a serve and also another container is refused.
      - With O(state=adopted), the name the container has now, if it is not the serve's own; one container for one serve.
    type: list
    elements: str
    default: []
  models_allowed:
    description:
      - Origins that may be served, as C(anvil_models_allowed) has them. If not given, every model may.
      - A serve that runs already is left alone.
    type: list
    elements: dict
    suboptions:
      repo:
        description: Repository of the hub; needs C(revision).
        type: str
      revision:
        description: The commit.
        type: str
      sha256:
        description: Of a file or archive from elsewhere.
        type: str
  compatibility:
    description:
      - What to do with a serve about to start whose model does not fit its engine or its cards, as
        M(anvil.serving.anvil_compatibility) judges it - nothing is touched and all findings are told (V(enforce)), they are
        warnings (V(warn)), or nobody looks (V(off)).
    type: str
    choices: [enforce, warn, "off"]
    default: enforce
  confirm:
    description: With O(state=absent), also remove containers that are not of this project.
    type: bool
    default: false
  settle:
    description: Seconds that a serve is watched for after it was restarted, replaced, adopted or taken down.
    type: float
    default: 2
  drain_timeout:
    description:
      - Seconds that a serve which makes room for one on demand may take to end the requests it has in flight, as its engine
        tells them (llama.cpp, vLLM, and SGLang with C(--enable-metrics)). It is told to stop once it has none, or when the
        time is over.
    type: float
    default: 60
  gpus:
    description:
      - The cards of the inventory, as RV(anvil.serving.anvil_plan#module:gpus) has them, for the memory ledger.
      - The whole memory of a card that is not named here is its budget.
    type: list
    elements: dict
    default: []
    suboptions:
      alias:
        description: Its name in the inventory.
        type: str
        required: true
      uuid:
        description: UUID of the card.
        type: str
        required: true
      vram_mib:
        description: Its total memory in MiB.
        type: int
        required: true
      reserve_mib:
        description: What of it no serve may claim, in MiB.
        type: int
        default: 0
  progress:
    description:
      - Set by the action plugin of the same name, which prints one line for each serve and change while the module runs.
      - Environment variable E(ANVIL_PROGRESS) of the controller set to V(no) turns that off. Where the controller's standard
        output is no terminal, there is at most one line in ten seconds.
    type: str
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
  - anvil.serving.anvil.project
  - anvil.serving.anvil.serves
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

- name: Start a serve on demand; evictable serves make room for it
  anvil.serving.anvil_serve:
    project: "{{ anvil.serves }}"
    secrets: "{{ anvil_secrets | default({}) }}"
    gpus: "{{ anvil.gpus }}"
    serves: [night]

- name: Take over a container that somebody started by hand
  anvil.serving.anvil_serve:
    project: "{{ anvil.serves }}"
    secrets: "{{ anvil_secrets | default({}) }}"
    gpus: "{{ anvil.gpus }}"
    serves: [heavy]
    containers: [vllm-by-hand]
    state: adopted

- name: Retire a container that squats on a port
  anvil.serving.anvil_serve:
    project: "{{ anvil.serves }}"
    secrets: "{{ anvil_secrets | default({}) }}"
    containers: [old-llm]
    confirm: true
    state: absent

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
      description:
        - V(none), V(create), V(recreate), V(start), V(unpause), V(restart), V(adopt), V(evict), V(stop) or V(remove).
      type: str
    reasons:
      description:
        - Why, as words of a fixed vocabulary.
        - Of the container's state - V(missing), V(stopped), V(paused), V(unhealthy), V(dead), V(removing),
          V(killed) where it is restarted and killed again and again, and not for want of memory;
          V(present), V(running), V(restarting) where it is taken down.
        - Of a field that differs - V(image), V(command), V(entrypoint), V(environment), V(env_file), V(gpu), V(ports),
          V(mounts), V(mounted_file), V(networks), V(addresses), V(ipc), V(shm), V(limits), V(restart_policy), V(user),
          V(read_only), V(tmpfs), V(init), V(working_dir), V(healthcheck), V(stop_signal), V(stop_grace), V(capabilities),
          V(security_opt), V(extra_hosts), V(labels), V(name).
        - V(mounted_file) is a single file that is mounted and whose content is not what the container was created with;
          V(stale_container) is a service whose hash differs where no field tells why.
        - Of whose it is - V(foreign_project), V(by_hand).
        - V(requested) - it was restarted or recreated because that was ordered.
        - V(on_demand) - nobody named it, so it rests; V(evicted) - it made room for a serve on demand.
      type: list
    changes:
      description: Before and after of each field that differed; environment variables by name only.
      type: dict
    state:
      description:
        - V(ready), or what it is instead - V(starting), V(loading), V(unhealthy), V(refused), V(wrong_model), V(exited),
          V(restarting), V(restart_loop), V(oom_killed), V(not_started), V(paused), V(missing), V(setting_ignored).
        - Otherwise the engine's word for the container's state, or V(absent).
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
containers:
  description: With O(state=absent), what was done with each name.
  returned: when O(state=absent)
  type: dict
  sample:
    old-llm: {action: remove, reasons: [present], state: absent, image: "vllm/vllm-openai:v0.19.1", project: ""}
evictions:
  description: Serves that were taken down to make room for a serve on demand.
  returned: always
  type: list
  elements: dict
  sample: [{serve: fast, container: anvil-fast, for: night, gpu_uuids: [GPU-04d3b6e7-5691-3e86-1d34-c37999440cf1]}]
pulled:
  description: Images that were pulled, because the host lacked them.
  returned: always
  type: list
  elements: str
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
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import ALLOWED_OPTION, read_allowed
from ansible_collections.anvil.serving.plugins.module_utils.core import importing  # pylint: disable=unused-import
from ansible_collections.anvil.serving.plugins.module_utils.core.module import PROJECT_OPTIONS, run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves import converge_progress, verbs
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import ServeOptions, read_project

OPTIONS = {
    **PROJECT_OPTIONS,
    "state": {
        "type": "str",
        "choices": ["up", "down", "restarted", "recreated", "adopted", "absent"],
        "default": "up",
    },
    "keep_container": {"type": "bool", "default": False},
    "containers": {"type": "list", "elements": "str", "default": []},
    "confirm": {"type": "bool", "default": False},
    "settle": {"type": "float", "default": 2},
    "drain_timeout": {"type": "float", "default": 60},
    "gpus": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "alias": {"type": "str", "required": True},
            "uuid": {"type": "str", "required": True},
            "vram_mib": {"type": "int", "required": True},
            "reserve_mib": {"type": "int", "default": 0},
        },
    },
    "models_allowed": ALLOWED_OPTION,
    "compatibility": {"type": "str", "choices": ["enforce", "warn", "off"], "default": "enforce"},
    "progress": {"type": "str", "no_log": False},
}


def work(module: AnsibleModule) -> dict:
    params = module.params
    options = ServeOptions(
        state=params["state"],
        keep_container=params["keep_container"],
        containers=tuple(params["containers"]),
        confirm=params["confirm"],
        gpus=tuple(params["gpus"]),
        settle=params["settle"],
        allowed=read_allowed(params["models_allowed"]),
        compatibility=params["compatibility"],
        drain_timeout=params["drain_timeout"],
    )
    project = read_project(params["project"], params["secrets"], params["serves"])
    progress = None if module.check_mode or params["state"] in ("down", "absent") else params["progress"]
    docker = DockerEngine(params["docker_host"])
    with converge_progress.report_progress(docker, project, progress):
        return verbs.apply_state(docker, project, options, module.check_mode)


def main() -> None:
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
