#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_plan
short_description: Check the inventory of a host and render its files, on the controller
version_added: 1.0.0
description:
  - Reads the C(anvil_*) variables of the host, checks them, and decides every default. All mistakes are reported at
    once, each with the path of the key, the file and line, and what to write instead.
  - Runs on the controller. It contacts a host only if its C(anvil_gpus) left values out, see O(driver).
  - No returned value contains a secret.
  - A variable such as C(anvil_serves) is merged with its layers, C(anvil_serves__SUFFIX), key by key.
  - C(docs/inventory.md) describes the variables.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: With O(output), reports whether files would change. Without it, nothing can change.
    support: full
  diff_mode:
    description: There is no diff.
    support: none
  idempotent:
    description: The same variables give the same plan and the same files.
    support: full
options:
  secrets:
    description:
      - How to treat a used secret without a value, for example because its file does not exist yet.
      - With V(required) it is a mistake. With V(optional) it is a note, for a plan that is only rendered.
      - A secret written in clear text is always a mistake.
    type: str
    choices: [required, optional]
    default: required
  driver:
    description:
      - Whether to ask the driver of the host for values that C(anvil_gpus) left out (C(vram_mib), C(compute_capability)). A host
        whose entries have both is never asked.
      - With V(required), a driver that cannot be asked is a mistake. With V(optional), it is a warning. With V(none), the host is
        not contacted.
      - A written value that differs from the driver's is a note, on hosts that are asked.
    type: str
    choices: [required, optional, none]
    default: required
    version_added: 1.1.0
  inventory:
    description: Variables that override the variables of the host with the same names.
    type: dict
    default: {}
  explain:
    description: Also return where each value of the inventory was written, as RV(origins).
    type: bool
    default: false
    version_added: 1.1.0
  output:
    description: Folder on the controller for the rendered files. Each host gets a subfolder with its name.
    type: path
notes:
  - An action plugin of the same name does the work. The module contains the documentation only.
"""

EXAMPLES = r"""
- name: Plan and render in a play with any_errors_fatal, so that no host is contacted before all inventories are checked
  anvil.serving.anvil_plan:
  register: anvil

- name: Plan without secrets
  anvil.serving.anvil_plan:
    secrets: optional
  register: anvil
"""

RETURN = r"""
token_file:
  description: The file of the controller with the token by which tiers are asked; empty if it is stored in another way.
  returned: success
  type: str
  sample: /home/ops/.config/anvil/my-host/router-token
plan:
  description: The checked inventory of the host with every default decided. Secrets appear by name only.
  returned: success
  type: dict
  sample: {"host": "fakoli-dark", "root": "/opt/anvil", "serves": [{"name": "heavy", "port": 30002}]}
notes:
  description: Facts that are not mistakes but good to know, such as a serve without C(vram_mib), which claims a whole GPU.
  returned: success
  type: list
  elements: str
serves:
  description: The compose project of the serves, for M(anvil.serving.anvil_serve); V(none) if the host has no serves.
  returned: success
  type: dict
selectors:
  description: The words that select serves of the host - their names and tags, among them the tiers.
  returned: success
  type: list
  elements: str
  sample: [chat, fast, heavy]
partners:
  description: The hosts that run a serve together with this one, this one included; empty if it has no serve over several hosts.
  returned: success
  type: list
  elements: str
  sample: [gpu1, gpu2]
router:
  description: The compose project of the router, for M(anvil.serving.anvil_serve); V(none) if the host has no router.
  returned: success
  type: dict
gpus:
  description: The GPUs of the inventory with their budgets, for O(anvil.serving.anvil_serve#module:gpus).
  returned: success
  type: list
  elements: dict
scraped:
  description:
    - Where a Prometheus reads the metrics of the host - C(here) on the host itself, C(away) from another host, through its edge.
  returned: success
  type: dict
  sample: {"here": [{"job": "anvil-watch", "address": "127.0.0.1", "port": 9419, "path": "/metrics"}], "away": []}
router_names:
  description:
    - The names of the router's containers. C(containers) run the router. C(replicas) are the same if there is more than one,
      else empty. C(edge) is in front of them, or empty. C(front) is the container that clients reach. C(asked) is where an
      answer of every tier is requested, an edge or none, and the secret that is presented there. V(none) if the host has no
      router.
  returned: success
  type: dict
  sample: {"containers": ["anvil-router"], "replicas": [], "edge": "", "front": "anvil-router"}
router_files:
  description:
    - The text of the router's C(config) and C(profile), for M(anvil.serving.anvil_router_promote). Empty if there is none.
  returned: success
  type: dict
edge:
  description: The options of M(anvil.serving.anvil_router_edge) for the edge, without secrets; V(none) if the host has none.
  returned: success
  type: dict
backend_hosts:
  description: The hosts that tiers of this host have backends on, by their names in the inventory.
  returned: success
  type: list
  elements: str
  sample: [gpu1, gpu2]
edge_alone:
  description: The compose project of an edge without a router, for M(anvil.serving.anvil_router_up), else V(none).
  returned: success
  type: dict
external_files:
  description: A start script for each external server whose start the inventory describes, which O(output) writes too.
  returned: success
  type: dict
origins:
  description:
    - One line for each value, with the file and line where it was written, its layer, and the values that it replaces.
    - A value that looks like a secret is not shown. Of C(anvil_secrets) only the names are shown, and how each is stored.
  returned: when O(explain=true)
  type: list
  elements: str
  sample: ["anvil_serves.fast.port: 30003    inventory/fleet/group_vars/gpu.yml:18 (anvil_serves__gpu)"]
files:
  description: The paths of the files of this host in O(output).
  returned: when O(output) is given
  type: list
  elements: str
problems:
  description: Every mistake in the inventory.
  returned: failure
  type: list
  elements: dict
  contains:
    where:
      description: The path of the key.
      type: str
      sample: anvil_serves.heavy.gpus[0]
    what:
      description: The mistake, with the value.
      type: str
    why:
      description: The file and line of the key, and the cause if it is known.
      type: str
    hint:
      description: What to write instead.
      type: str
    log:
      description: Always empty.
      type: list
      elements: str
"""

from ansible.module_utils.basic import AnsibleModule

# The action plugin of the same name imports them.
OPTIONS = {
    "secrets": {"type": "str", "choices": ["required", "optional"], "default": "required", "no_log": False},
    "driver": {"type": "str", "choices": ["required", "optional", "none"], "default": "required"},
    "inventory": {"type": "dict", "default": {}},
    "explain": {"type": "bool", "default": False},
    "output": {"type": "path"},
}


def main():
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    module.fail_json(msg="anvil_plan is an action plugin and runs on the controller only: use it in a playbook")


if __name__ == "__main__":
    main()
