#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_router_tier
short_description: Take a tier of a router out of service and back
version_added: 1.0.0
author:
  - The anvil.serving authors (@fakoli)
description:
  - Quiesces, drains and readmits a tier through the router's transition API, so that the serve behind it can be
    replaced without a failed request.
  - The router needs a token (C([server].auth_env)). The module fails with a hint if the router has no such API.
  - The router readmits a tier only if the serve behind it reports the configured model. For that the tier's config needs
    C(health_path) and C(model_identity). A tier without them is not taken out of service, because it could not come back; see
      O(force).
  - A router keeps these states in memory. After a restart every tier is admitted again.
options:
  containers:
    description:
      - The router's containers. Name every replica, because they do not share these states.
    type: list
    elements: str
    default: [anvil-router]
  tier:
    description:
      - The tier. With O(state=status), empty means every tier.
    type: str
    default: ''
  state:
    description:
      - V(status) only reports.
      - V(quiesced) sends the tier no new requests.
      - V(drained) also waits until it has no requests in flight.
      - V(admitted) sends it requests again, once the router has found the configured model behind it.
    type: str
    choices: [status, quiesced, drained, admitted]
    default: status
  reason:
    description:
      - The reason that the router records - one word of letters, digits and C(-), C(_), C(.).
    type: str
    default: operator
  drain_timeout:
    description:
      - Seconds within which requests in flight must end, 0 to 3600. Otherwise the tier stays quiesced, and the module
        fails.
    type: int
    default: 330
  retry:
    description:
      - Seconds for which a readmission is repeated while the router or the serve behind the tier is still starting.
    type: float
    default: 60
  force:
    description:
      - Take the tier out of service even though the router could not readmit it. Only a restart of the router brings it back.
    type: bool
    default: false
  token:
    description:
      - The router's token.
    type: str
    required: true
  docker_host:
    description:
      - The Docker Engine of this host.
    type: str
    default: unix:///var/run/docker.sock
attributes:
  check_mode:
    support: full
    description: Reads the tier's state and reports whether it would change.
  diff_mode:
    support: none
    description: Nothing to compare.
  idempotent:
    support: full
    description: A tier that is already in the state is not changed.
requirements:
  - Docker Engine 24 or newer
seealso:
  - module: anvil.serving.anvil_router_info
"""

EXAMPLES = r"""
- name: Drain the heavy tier
  anvil.serving.anvil_router_tier:
    tier: heavy
    state: drained
    drain_timeout: 600
    token: "{{ router_token }}"

- name: Readmit the heavy tier
  anvil.serving.anvil_router_tier:
    tier: heavy
    state: admitted
    token: "{{ router_token }}"
"""

RETURN = r"""
routers:
  description: The tiers as each router reports them.
  returned: success
  type: dict
  sample: {"anvil-router": [{"tier_id": "heavy", "state": "quiesced", "reason": "operator", "active_requests": 0}]}
problems:
  description: All problems, each with C(what), C(where), C(why), C(hint) and C(log).
  returned: failure
  type: list
  elements: dict
"""

from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.router.tier_transitions import TierRequest, set_tier_state

OPTIONS = {
    "containers": {"type": "list", "elements": "str", "default": ["anvil-router"]},
    "tier": {"type": "str", "default": ""},
    "state": {"type": "str", "choices": ["status", "quiesced", "drained", "admitted"], "default": "status"},
    "reason": {"type": "str", "default": "operator"},
    "drain_timeout": {"type": "int", "default": 330},
    "retry": {"type": "float", "default": 60.0},
    "force": {"type": "bool", "default": False},
    "token": {"type": "str", "required": True, "no_log": True},
}


def work(module):
    given = module.params
    names = ("tier", "state", "reason", "drain_timeout", "retry", "force", "token")
    request = TierRequest(check_mode=module.check_mode, **{name: given[name] for name in names})
    return set_tier_state(DockerEngine(given["docker_host"]), given["containers"], request)


def main():
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
