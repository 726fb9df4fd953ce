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
  - Brings the serves of one compose project to a state in one call, and changes only the serves that differ.
  - The rendered services are compared field by field with the containers that the Docker Engine reports. Containers are
    created by C(docker compose up), so that an old configuration is never started again.
  - After O(state=up) each serve has answered with the name of its model, or the task fails with the reason and the end of
    the serve's log. Other serves keep running.
  - Before a container is changed, the module checks that the GPUs exist, that the claims on the memory of each GPU fit, and
    that names and ports are free. Otherwise the task fails, and lists every conflict with the container or process that
    causes it.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Predicts every action and its reasons, and changes nothing.
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
      - V(up) creates, replaces, starts or unpauses the serves that differ, and waits until every serve is ready. A serve with
        C(residency=on_demand) is started only if O(serves) selects it.
      - V(down) removes the containers of the serves; files, volumes and the network stay. The task fails if a container is
        back within O(settle) seconds.
      - V(restarted) restarts the serves that do not differ from the inventory, and does what V(up) does with the others, because
        a restart keeps the old configuration. Then every serve must be ready and run the same process for O(settle) seconds.
      - V(recreated) replaces the containers even if they do not differ, and observes them in the same way.
      - V(adopted) replaces a container that was started by hand or by another project with a serve of this project. The old
        container is renamed and stopped until the new one is ready. If the new one does not get ready, the old one is put back
        with its name, restart policy and state. What it was is noted in a file beside the project first, so a later run finishes
        or undoes an adoption that was interrupted, whatever its O(state).
      - V(rolled_back) makes the O(revision) of the one serve that O(serves) selects live. It stays until the definition of the
        serve in the inventory changes. If it does not get ready, what ran before is brought back, and the task fails.
      - V(absent) removes the O(containers).
    type: str
    choices: [up, down, restarted, recreated, adopted, rolled_back, absent]
    default: up
  keep_container:
    description: With O(state=down), stop the containers and keep them.
    type: bool
    default: false
  containers:
    description:
      - With O(state=absent), the names of containers or serves to remove, in the inventory or not. The name of a serve that is
        also the name of another container is refused.
      - With O(state=adopted), the present name of the container, if it is not the serve's container name and exactly one serve is
        selected; or C(SERVE=CONTAINER) for each of several.
    type: list
    elements: str
    default: []
  models_allowed:
    description:
      - Origins of models that may be served, in the form of C(anvil_models_allowed). If not given, every model may be served.
      - A serve that runs already is not stopped.
    type: list
    elements: dict
    suboptions:
      repo:
        description: Repository of the hub; requires C(revision).
        type: str
      revision:
        description: The commit of the repository.
        type: str
      sha256:
        description: Checksum of a file or archive from another source.
        type: str
      code:
        description: Whether the Python code that comes with the model may run (C(--trust-remote-code)).
        type: bool
        default: false
  compatibility:
    description:
      - What to do if the model of a serve that is about to start does not fit its engine or its GPUs, as judged by
        M(anvil.serving.anvil_compatibility), or if a GPU of it is sick (C(docs/gpu-health.md)).
      - V(enforce) fails if a serve cannot run, with all such findings, and changes nothing; what is only doubtful is a warning.
        V(strict) fails on doubtful findings too. V(warn) turns all findings into warnings. V(off) skips the check.
    type: str
    choices: [enforce, strict, warn, "off"]
    default: enforce
  engine_check:
    description:
      - Whether the engine in the image of a serve judges the serve's command line before a container is created or replaced.
        Its own argument parser runs in a side container without network, GPUs and secrets. A refused command line fails the task
        with the parser's words, and nothing is changed. An accepted one is remembered on the host, and is not judged again.
      - V(auto) asks, except in check mode. V(always) asks in check mode too. V(off) never asks.
      - If the program of an image cannot be asked, that is a warning.
    type: str
    choices: [auto, always, "off"]
    default: auto
  experiments_root:
    description:
      - With O(state=up), first retire every experiment whose time to live is over, as M(anvil.serving.anvil_experiment) does. It
        is the folder of the host that holds the projects, C(anvil_root) of the inventory. If not given, no experiment is retired.
    type: path
  confirm:
    description:
      - With O(state=absent), also remove containers that do not belong to this project.
      - With O(state=adopted), also adopt a container that could not be put back (C(--rm)), that another tool would start
        again, or that this collection manages in another project.
    type: bool
    default: false
  settle:
    description: Seconds for which a serve is observed after it was restarted, replaced, adopted or taken down.
    type: float
    default: 2
  drain_timeout:
    description:
      - Seconds that an evicted serve has to end its requests in flight. The engine reports how many there are (llama.cpp, vLLM,
        and SGLang with C(--enable-metrics)).
      - The serve is stopped when it has no requests in flight, or when the time is over.
    type: float
    default: 60
  gpus:
    description:
      - The GPUs of the inventory, as in RV(anvil.serving.anvil_plan#module:gpus), with their budgets for the memory ledger.
      - The budget of a GPU that is not listed is its whole memory.
    type: list
    elements: dict
    default: []
    suboptions:
      alias:
        description: Name of the GPU in the inventory.
        type: str
        required: true
      uuid:
        description: UUID of the GPU.
        type: str
        required: true
      vram_mib:
        description: Its total memory in MiB.
        type: int
        required: true
      reserve_mib:
        description: Memory in MiB that no serve may claim.
        type: int
        default: 0
  progress:
    description:
      - Set by the action plugin of the same name, which prints a line for each change of a serve while the module runs.
      - Set the environment variable E(ANVIL_PROGRESS) to V(no) on the controller to turn that off. If the standard output of the
        controller is not a terminal, there is at most one line in ten seconds.
    type: str
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
  - anvil.serving.anvil.project
  - anvil.serving.anvil.serves
  - anvil.serving.anvil.revisions
  - anvil.serving.anvil.several_hosts
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

- name: Adopt a container that was started by hand
  anvil.serving.anvil_serve:
    project: "{{ anvil.serves }}"
    secrets: "{{ anvil_secrets | default({}) }}"
    gpus: "{{ anvil.gpus }}"
    serves: [heavy]
    containers: [vllm-by-hand]
    state: adopted

- name: Retire a container that holds a port of a serve
  anvil.serving.anvil_serve:
    project: "{{ anvil.serves }}"
    secrets: "{{ anvil_secrets | default({}) }}"
    containers: [old-llm]
    confirm: true
    state: absent
"""

RETURN = r"""
serves:
  description: The action for each serve, its reasons, and the state of the serve afterwards.
  returned: always
  type: dict
  contains:
    action:
      description:
        - V(none), V(create), V(recreate), V(start), V(unpause), V(restart), V(adopt), V(evict), V(stop) or V(remove).
      type: str
    reasons:
      description:
        - The reasons for the action, from a fixed vocabulary.
        - From the state of the container - V(missing), V(stopped), V(paused), V(dead), V(removing);
          V(unhealthy) if a health check of the service itself fails;
          V(killed) if it is killed after each restart, and not because of memory; V(gpu_lost) if it does not reach its GPUs any
          more; V(restart_loop) if it exits again and again, and is a part of a serve over several hosts;
          V(present), V(running), V(restarting) if it is taken down.
        - From a field that differs - V(image), V(command), V(entrypoint), V(environment), V(env_file), V(gpu), V(ports),
          V(mounts), V(mounted_file), V(networks), V(addresses), V(ipc), V(shm), V(limits), V(logging), V(restart_policy),
          V(user), V(read_only), V(tmpfs), V(init), V(working_dir), V(healthcheck), V(stop_signal), V(stop_grace),
          V(capabilities), V(security_opt), V(extra_hosts), V(labels), V(name).
        - V(mounted_file) - the content of a mounted file differs from the content when the container was created.
          V(stale_weights) - the files of the model were exchanged since the serve started, so it holds the old ones.
          V(stale_container) - the hash of the service differs, but no field does.
        - From the owner of the container - V(foreign_project), V(by_hand).
        - V(requested) - the operator requested a restart or recreation.
        - V(on_demand) - the serve starts only when it is named. V(evicted) - the serve makes room for a serve on demand.
          V(off) - the profile or the deploy mode of the host leaves the serve out.
      type: list
    changes:
      description: Value before and after of each field that differed; environment variables by name only.
      type: dict
    state:
      description:
        - V(ready), or another verdict - V(starting), V(loading), V(unhealthy), V(refused), V(wrong_model), V(exited),
          V(restarting), V(restart_loop), V(oom_killed), V(not_started), V(paused), V(missing), V(setting_ignored).
        - Otherwise the container state that the Docker Engine reports, or V(absent).
      type: str
    health:
      description:
        - Health that the Docker Engine reports; empty if the container has no health check; V(disabled) if the check of its
          image is switched off, as it is for every serve, because what counts is whether the server answers.
      type: str
    ready:
      description: Whether the serve answered with the name of its model; null in check mode.
      type: bool
    container:
      description: Name of the container.
      type: str
    container_id:
      description: Id of the container; empty if there is none.
      type: str
    image_id:
      description: Id of the image that the container was created from.
      type: str
    gpu_uuids:
      description: UUIDs of the GPUs that the serve is pinned to.
      type: list
    endpoint:
      description: Base URL of its OpenAI-compatible API, as reached from the host.
      type: str
    seconds:
      description: Seconds until the serve was ready.
      type: float
  sample:
    heavy: {action: recreate, reasons: [command], state: ready, ready: true, endpoint: "http://127.0.0.1:30002/v1"}
containers:
  description: With O(state=absent), the action for each name.
  returned: when O(state=absent)
  type: dict
  sample:
    old-llm: {action: remove, reasons: [present], state: absent, image: "vllm/vllm-openai:v0.19.1", project: ""}
held:
  description: Whether serves would change, and nothing was changed because of O(hold). RV(serves) has the actions.
  returned: with O(hold)
  type: bool
retired:
  description: The experiments that were removed, or in check mode would be, as M(anvil.serving.anvil_experiment) returns them.
  returned: with O(experiments_root) and O(state=up)
  type: list
  elements: dict
evictions:
  description: Serves that were taken down to make room for a serve on demand, or because the host's profile leaves them out.
  returned: always
  type: list
  elements: dict
  sample: [{serve: fast, container: anvil-fast, for: night, gpu_uuids: [GPU-04d3b6e7-5691-3e86-1d34-c37999440cf1]}]
revision:
  description: The revision that is live now, or in check mode would be.
  returned: with O(state=rolled_back)
  type: str
pulled:
  description: Images that were pulled because the host did not have them.
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

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import ALLOWED_OPTION, read_allowed
from ansible_collections.anvil.serving.plugins.module_utils.core.module import PROJECT_OPTIONS, run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import EXPERIMENT_PROJECT
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves import converge_progress, verbs
from ansible_collections.anvil.serving.plugins.module_utils.serves.experiments import retire_experiments
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import HOLDING_STATES, ServeOptions, read_project

STATES = ["up", "down", "restarted", "recreated", "adopted", "rolled_back", "absent"]
OPTIONS = {
    **PROJECT_OPTIONS,
    "state": {"type": "str", "choices": STATES, "default": "up"},
    "hold": {"type": "bool", "default": False},
    "parts": {"type": "str", "choices": ["all", "members", "others"], "default": "all"},
    "keep_container": {"type": "bool", "default": False},
    "containers": {"type": "list", "elements": "str", "default": []},
    "confirm": {"type": "bool", "default": False},
    "experiments_root": {"type": "path"},
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
    "engine_check": {"type": "str", "choices": ["auto", "always", "off"], "default": "auto"},
    "compatibility": {"type": "str", "choices": ["enforce", "strict", "warn", "off"], "default": "enforce"},
    "on_failure": {"type": "str", "choices": ["roll_back", "keep"]},
    "again": {"type": "bool", "default": False},
    "revision": {"type": "str", "default": "previous"},
    "by": {"type": "str", "default": ""},
    "progress": {"type": "str", "no_log": False},
}


def work(module: AnsibleModule) -> dict:
    params = module.params
    options = ServeOptions(
        state=params["state"],
        hold=params["hold"] and params["state"] in HOLDING_STATES and not module.check_mode,
        keep_container=params["keep_container"],
        containers=tuple(params["containers"]),
        confirm=params["confirm"],
        gpus=tuple(params["gpus"]),
        settle=params["settle"],
        allowed=read_allowed(params["models_allowed"]),
        compatibility=params["compatibility"],
        engine_check=params["engine_check"],
        drain_timeout=params["drain_timeout"],
        keep_revisions=not str(params["project"].get("name", "")).startswith(EXPERIMENT_PROJECT),
        on_failure=params["on_failure"] or "",
        again=params["again"],
        revision=params["revision"],
        by=params["by"],
    )
    project = read_project(params["project"], params["secrets"], params["serves"])
    progress = None if module.check_mode or params["state"] in ("down", "absent") else params["progress"]
    docker = DockerEngine(params["docker_host"])
    with converge_progress.report_progress(docker, project, progress):
        gone = None
        if params["experiments_root"] and params["state"] == "up":
            gone = retire_experiments(docker, params["experiments_root"], "", time.time(), module.check_mode)
        result = verbs.apply_state(docker, project, options, module.check_mode)
    if params["hold"]:
        result.setdefault("held", False)
    if gone is not None:
        result.update(retired=gone["retired"], changed=result["changed"] or gone["changed"])
    return result


def main() -> None:
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
