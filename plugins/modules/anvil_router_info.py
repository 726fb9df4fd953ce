#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_router_info
short_description: The router's state, its live revision, and real answers through it
version_added: 1.0.0
author:
  - The anvil.serving authors (@fakoli)
description:
  - Tells whether the router runs and answers, where, on which revision of its files, and which other revisions are
    held.
  - With O(ask) it also sends one real chat completion per model through the router, and fails unless every one is
    answered.
  - An absent router is not a failure, unless it is asked something.
options:
  container:
    description:
      - The router's container.
    type: str
    default: anvil-router
  edge:
    description:
      - The container of the edge, where the router has replicas; O(container) is then one of them. O(ask) goes where
        clients go, to the edge's published port, with TLS where it has certificates.
    type: str
    default: ''
  image:
    description:
      - The router's image, needed to read the volume's history where no container exists.
    type: str
    default: ''
  volume:
    description:
      - The router's config volume.
    type: str
    default: anvil-router-cfg
  mount:
    description:
      - Where the router mounts O(volume).
    type: path
    default: /etc/anvil
  ask:
    description:
      - The models (presets or routes of the router) that one chat completion each is sent to.
    type: list
    elements: str
    default: []
  token:
    description:
      - The router's token for O(ask).
    type: str
  prompt:
    description:
      - What O(ask) says to each of them.
    type: str
    default: Say hello.
  max_tokens:
    description:
      - How long an answer may be.
    type: int
    default: 32
  ask_timeout:
    description:
      - Seconds for each completion. A tier that is not ready yet is asked again for 10 seconds at most.
    type: float
    default: 60
  ca_file:
    description:
      - A PEM file on the host with the certificate that the edge's must be, or must be signed by, for O(ask). Left out, the
        edge must present one of the certificates in the folder that it mounts.
    type: path
  server_name:
    description:
      - The name that the edge is asked for, and that its certificate must be for. Left out, any name will do.
    type: str
    default: ''
  docker_host:
    description:
      - The Docker Engine. Its published ports are asked only if it is a local socket.
    type: str
    default: unix:///var/run/docker.sock
attributes:
  check_mode:
    support: full
    description: Changes nothing in any mode; in check mode nothing is asked.
  diff_mode:
    support: none
    description: Changes nothing.
requirements:
  - Docker Engine 24 or newer
  - Docker SDK for Python
seealso:
  - module: anvil.serving.anvil_router_promote
"""

EXAMPLES = r"""
- name: What does the router do?
  anvil.serving.anvil_router_info:
  register: router

- name: Every tier answers through the router
  anvil.serving.anvil_router_info:
    ask: [planning, chat]
    token: "{{ router_token }}"
"""

RETURN = r"""
router:
  description: The router as found.
  returned: success
  type: dict
  contains:
    exists: {description: Whether the container exists., type: bool, returned: always}
    state: {description: The container's state; V(absent) if there is none., type: str, returned: always}
    container_id: {description: The container's id., type: str, returned: always}
    image_id: {description: The id of the image that it runs., type: str, returned: always}
    started_at: {description: When it was started., type: str, returned: always}
    restarts: {description: How often its policy restarted it., type: int, returned: always}
    healthy: {description: Whether C(/healthz) answers 200., type: bool, returned: always}
    endpoint: {description: Where this host reaches it., type: str, returned: always}
    unauthorized_status: {description: What a request without token gets; 401 is wanted., type: int, returned: always}
    token_set: {description: Whether it wants a token; null if it does not answer., type: bool, returned: always}
    revision: {description: The live revision; null is no file., type: str, returned: always}
    loaded: {description: Whether the running process has read it; null if nothing runs., type: bool, returned: always}
    in_flight: {description: The step of a promotion under way or interrupted., type: str, returned: always}
    generation: {description: V(profile) or V(gateway) as its image was validated., type: str, returned: always}
    version: {description: The anvil-serving version that validated it., type: str, returned: always}
    history: {description: Every revision held., type: list, elements: dict, returned: always}
  sample: {"exists": true, "state": "running", "healthy": true, "endpoint": "http://127.0.0.1:8000", "token_set": true}
edge:
  description:
    - The edge and the health of each replica as it sees them; null without O(edge).
    - C(loaded) tells whether it has read the configuration that is written, C(problem) why it could not be asked.
  returned: success
  type: dict
  sample: {"exists": true, "state": "running", "healthy": true, "loaded": true, "tls": false, "version": "3.0.11",
    "replicas": [{"name": "anvil-router-1", "status": "UP", "sessions": 3, "queued": 0}]}
answers:
  description: What each model of O(ask) said, with C(ok), C(status), C(text) and C(seconds).
  returned: success
  type: dict
  sample: {"planning": {"ok": true, "status": 200, "text": "Hello.", "seconds": 0.21}}
problems:
  description: Everything that is wrong, each with C(what), C(where), C(why), C(hint) and C(log).
  returned: failure
  type: list
  elements: dict
"""

from dataclasses import asdict

from ansible_collections.anvil.serving.plugins.module_utils.core import importing  # pylint: disable=unused-import
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_report import describe_edge
from ansible_collections.anvil.serving.plugins.module_utils.router.module_parameters import parse_settings
from ansible_collections.anvil.serving.plugins.module_utils.router.router_report import describe_router
from ansible_collections.anvil.serving.plugins.module_utils.router.tier_completions import (
    CompletionRequest,
    EdgeTrust,
    find_client_endpoint,
    request_completions,
)

OPTIONS = {
    "container": {"type": "str", "default": "anvil-router"},
    "edge": {"type": "str", "default": ""},
    "image": {"type": "str", "default": ""},
    "volume": {"type": "str", "default": "anvil-router-cfg"},
    "mount": {"type": "path", "default": "/etc/anvil"},
    "ask": {"type": "list", "elements": "str", "default": []},
    "token": {"type": "str", "no_log": True},
    "prompt": {"type": "str", "default": "Say hello."},
    "max_tokens": {"type": "int", "default": 32, "no_log": False},
    "ask_timeout": {"type": "float", "default": 60.0},
    "ca_file": {"type": "path"},
    "server_name": {"type": "str", "default": ""},
}


def work(module):
    given = module.params
    docker = DockerEngine(given["docker_host"])
    router = describe_router(docker, parse_settings(given))
    edge = describe_edge(docker, given["edge"]) if given["edge"] else None
    answers = {}
    if given["ask"] and not module.check_mode:
        token, timeout = given["token"] or "", given["ask_timeout"]
        request = CompletionRequest(given["ask"], given["prompt"], given["max_tokens"], token, timeout)
        trust = EdgeTrust(given["ca_file"] or "", given["server_name"])
        endpoint = find_client_endpoint(docker, given["container"], given["edge"], trust)
        completions = request_completions(docker, given["container"], endpoint, request)
        answers = {model: asdict(completion) for model, completion in completions.items()}
    return {"changed": False, "router": router, "edge": edge, "answers": answers}


def main():
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
