#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_router_info
short_description: Report a router's state and live revision, and request real answers through it
version_added: 1.0.0
author:
  - The anvil.serving authors (@fakoli)
description:
  - Reports whether the router runs and answers, where, on which revision of its files, and which other revisions the
    volume holds.
  - With O(ask) it also requests one real answer per model through the router, and fails unless each is answered. A chat
    completion is an answer if it has text, reasoning or a tool call, or if its usage counts tokens.
  - An absent router is not a failure, except with O(ask).
options:
  container:
    description:
      - The router's container.
    type: str
    default: anvil-router
  replicas:
    description:
      - All containers that run the router, for the state of their tiers. Without it, O(container) alone.
    type: list
    elements: str
    default: []
  edge:
    description:
      - The container of the edge in front of the router. O(ask) connects where clients do, to the edge's published port,
        with TLS if it has certificates.
    type: str
    default: ''
  image:
    description:
      - The router's image. It is needed to read the volume if no container exists.
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
      - The models (presets or routes of the router) to request one answer each from. A quiesced tier is left out.
      - The last model is requested after all others, once for each of O(replicas), because a profile router prefers the tier that
        answered last.
    type: list
    elements: str
    default: []
  kinds:
    description:
      - What the models of O(ask) answer, where that is not a chat completion - V(embeddings), V(rerank),
        V(transcription) (of one second of silence) or V(speech).
    type: dict
    default: {}
  token:
    description:
      - The router's token for O(ask) and RV(tiers). Without it, RV(tiers) takes the one in the container's environment.
    type: str
  prompt:
    description:
      - The prompt of O(ask).
    type: str
    default: Say hello.
  max_tokens:
    description:
      - The longest answer, in tokens.
    type: int
    default: 32
  ask_timeout:
    description:
      - Seconds for each completion. A request to a tier that is not ready is repeated for 10 seconds at most.
    type: float
    default: 60
  ca_file:
    description:
      - A PEM file on the host for O(ask), with the edge's certificate or the one that signed it. Without it the edge must
        present the first certificate of its own files.
    type: path
  server_name:
    description:
      - The server name to request from the edge (SNI). Its certificate must be for this name. Without it any name is
        accepted.
    type: str
    default: ''
  plan:
    description:
      - The plan of the router, for RV(stale).
    type: dict
    default: {}
  serves:
    description:
      - The plans of the serves, for RV(stale).
    type: list
    elements: dict
    default: []
  docker_host:
    description:
      - The Docker Engine. Requests are sent to published ports only if it is a local socket.
    type: str
    default: unix:///var/run/docker.sock
extends_documentation_fragment:
  - anvil.serving.anvil.tolerant
attributes:
  check_mode:
    support: full
    description: Changes nothing in any mode. In check mode O(ask) sends no request.
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
- name: Read the router's state
  anvil.serving.anvil_router_info:
  register: router

- name: Request a completion from every tier through the router
  anvil.serving.anvil_router_info:
    ask: [planning, chat]
    token: "{{ router_token }}"
"""

RETURN = r"""
trouble:
  description: Why the host could not be read. Nothing else is returned then.
  returned: with O(tolerant), if the host could not be read
  type: str
router:
  description: The router as found.
  returned: success
  type: dict
  contains:
    exists: {description: Whether the container exists., type: bool, returned: always}
    state: {description: The container's state; V(absent) if there is none., type: str, returned: always}
    container_id: {description: The container's id., type: str, returned: always}
    image_id: {description: The id of the image that the container runs., type: str, returned: always}
    started_at: {description: When it was started., type: str, returned: always}
    restarts: {description: How often its restart policy started it again., type: int, returned: always}
    healthy: {description: Whether C(/healthz) answers 200., type: bool, returned: always}
    endpoint: {description: Where this host reaches it., type: str, returned: always}
    unauthorized_status: {description: The status of a request without a token; it should be 401., type: int, returned: always}
    token_set: {description: Whether it requires a token; null if it does not answer., type: bool, returned: always}
    revision: {description: The live revision; null means no file., type: str, returned: always}
    loaded: {description: Whether the running process has read it; null if nothing runs., type: bool, returned: always}
    in_flight: {description: The step of a promotion that runs or was interrupted., type: str, returned: always}
    generation: {description: V(profile) or V(gateway) as its image was validated., type: str, returned: always}
    version: {description: The anvil-serving version that validated it., type: str, returned: always}
    history: {description: Every revision in the volume., type: list, elements: dict, returned: always}
  sample: {"exists": true, "state": "running", "healthy": true, "endpoint": "http://127.0.0.1:8000", "token_set": true}
restarts:
  description:
    - A line for each replica that is in a restart loop, or that ended by itself within the last hour and was started again.
    - Also one for a replica whose image has a health check that fails, that ended for good, or that reached its memory limit.
  returned: success
  type: list
  elements: str
  sample: ["anvil-router is in a restart loop: restarted 3 times since 2026-11-30 06:21:07 UTC, every 12 s on average; running
    for 4 s"]
edge:
  description:
    - The edge, and the health of each replica as the edge sees it; null without O(edge).
    - C(loaded) is whether it has read the written configuration, C(problem) why it could not be read.
    - C(certificates) are those that it has, with their last day and, from 30 days before, a warning. C(clients) is what each
      client did since the last reload.
  returned: success
  type: dict
  sample: {"exists": true, "state": "running", "healthy": true, "loaded": true, "tls": false, "version": "3.0.11",
    "replicas": [{"name": "anvil-router-1", "status": "UP", "sessions": 3, "queued": 0}],
    "certificates": [{"file": "/etc/anvil-edge/private/host-0.pem", "expires": "2027-02-28", "warning": ""}],
    "clients": [{"name": "alice", "requests": 120, "admitted": 118, "in_flight": 1}]}
tiers:
  description:
    - The state of each tier in each router - C(state) is V(admitted) or V(quiesced), C(ready) whether the router sees its serve
      answer, C(in_flight) the number of its requests, C(reason) why it is quiesced or not ready.
    - Empty for routers that do not run or have no token.
  returned: success
  type: dict
  sample: {"heavy": {"anvil-router": {"state": "quiesced", "ready": true, "in_flight": 0, "reason": "a new image"}}}
stale:
  description:
    - The tiers whose rows of the live profile are stale - what changed since they were measured, of C(image), C(arguments),
      C(cards) and C(driver). A warning names each of them.
    - A profile remembers what was measured if C(playbooks/measure.yml) made it.
  returned: success, empty without O(plan)
  type: dict
  sample: {"heavy": ["driver"]}
endpoint:
  description: Where the models of O(ask) were asked, as the host reaches it; null without O(ask).
  returned: success
  type: str
  sample: http://127.0.0.1:8000
answers:
  description: The answer of each model of O(ask), with C(ok), C(status), C(text) and C(seconds).
  returned: success
  type: dict
  sample: {"planning": {"ok": true, "status": 200, "text": "Hello.", "seconds": 0.21}}
problems:
  description: All problems, each with C(what), C(where), C(why), C(hint) and C(log).
  returned: failure
  type: list
  elements: dict
"""

from dataclasses import asdict

from ansible_collections.anvil.serving.plugins.module_utils.core.module import TOLERANT_OPTION, run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.measure.staleness import describe_stale, list_stale
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_report import describe_edge, list_warnings
from ansible_collections.anvil.serving.plugins.module_utils.router.module_parameters import parse_settings
from ansible_collections.anvil.serving.plugins.module_utils.router.router_report import describe_router, list_restarts
from ansible_collections.anvil.serving.plugins.module_utils.router.tier_completions import (
    CompletionRequest,
    EdgeTrust,
    find_client_endpoint,
    request_completions,
)
from ansible_collections.anvil.serving.plugins.module_utils.router.tier_report import describe_tiers, is_quiesced

OPTIONS = {
    "container": {"type": "str", "default": "anvil-router"},
    "replicas": {"type": "list", "elements": "str", "default": []},
    "edge": {"type": "str", "default": ""},
    "image": {"type": "str", "default": ""},
    "volume": {"type": "str", "default": "anvil-router-cfg"},
    "mount": {"type": "path", "default": "/etc/anvil"},
    "ask": {"type": "list", "elements": "str", "default": []},
    "kinds": {"type": "dict", "default": {}},
    "token": {"type": "str", "no_log": True},
    "prompt": {"type": "str", "default": "Say hello."},
    "max_tokens": {"type": "int", "default": 32, "no_log": False},
    "ask_timeout": {"type": "float", "default": 60.0},
    "ca_file": {"type": "path"},
    "server_name": {"type": "str", "default": ""},
    "plan": {"type": "dict", "default": {}},
    "serves": {"type": "list", "elements": "dict", "default": []},
    **TOLERANT_OPTION,
}


def work(module):
    given = module.params
    docker = DockerEngine(given["docker_host"])
    settings = parse_settings({**given, "replicas": []})
    router = describe_router(docker, settings)
    edge = describe_edge(docker, given["edge"]) if given["edge"] else None
    replicas = given["replicas"] or [given["container"]]
    restarts = list_restarts(docker, settings, replicas)
    tiers, warnings = describe_tiers(docker, replicas, given["token"] or "")
    stale = list_stale(docker, given["plan"], given["container"], given["serves"]) if given["plan"] else {}
    warnings += describe_stale(stale) + (list_warnings(edge) if edge else [])
    answers, address = {}, None
    asked = [model for model in given["ask"] if not is_quiesced(tiers.get(model, {}))]
    quiesced = "tier {0} is quiesced, so no completion is requested of it: playbooks/router_status.yml shows since why"
    warnings += [quiesced.format(model) for model in given["ask"] if model not in asked]
    if asked and not module.check_mode:
        token, timeout = given["token"] or "", given["ask_timeout"]
        request = CompletionRequest(asked, given["prompt"], given["max_tokens"], token, timeout, given["kinds"], len(replicas))
        trust = EdgeTrust(given["ca_file"] or "", given["server_name"])
        endpoint = find_client_endpoint(docker, given["container"], given["edge"], trust)
        address = endpoint.url
        completions = request_completions(docker, given["container"], endpoint, request)
        answers = {model: asdict(completion) for model, completion in completions.items()}
    report = {
        "endpoint": address,
        "router": router,
        "restarts": restarts,
        "edge": edge,
        "tiers": tiers,
        "answers": answers,
        "stale": stale,
    }
    return {"changed": False, **report, "warnings": warnings}


def main():
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
