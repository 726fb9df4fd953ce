# SPDX-License-Identifier: GPL-3.0-or-later
"""Give the replicas of a router a new token while they take requests, as ``anvil_router_token`` does.

A router accepts one token. So the edge presents the old one until one replica has the new one, and then turns to that replica
and the new token in one reload. Each step is read off what runs, so a run that was killed is finished by the next one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.promotion.volume_writer import block_promotions
from ansible_collections.anvil.serving.plugins.module_utils.router.deployment import Deployment, is_up
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import Edge
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_files import read_server_key
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_promotion import EDGE_DEFAULTS, run_edge_module
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_servers import UP
from ansible_collections.anvil.serving.plugins.module_utils.router.tier_report import read_own_token
from ansible_collections.anvil.serving.plugins.module_utils.router.tier_transitions import NO_API, TransitionApi
from ansible_collections.anvil.serving.plugins.module_utils.serves import verbs
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import ServeOptions

POLL = 0.25
ROUTERS = "routers"


@dataclass(frozen=True)
class Rotation:
    """The request. edge: the options of ``anvil_router_edge``; empty without an edge. token: the name of the secret.

    settle: seconds for which the edge must stay up after each reload. at_once: requests may fail.
    """

    deployment: Deployment
    edge: Mapping[str, Any]
    token: str
    secrets: Mapping[str, str] = field(repr=False)
    settle: float
    at_once: bool


@dataclass(frozen=True)
class TokenState:
    """What runs. tokens: replica (its container) -> the token in its environment, empty without a container.

    presented: the token that the edge presents; empty if there is none, or the edge is down.
    """

    tokens: Mapping[str, str] = field(repr=False)
    presented: str = field(repr=False)


def find_stale(state: TokenState, new: str) -> List[str]:
    """The replicas that do not have the new token."""
    return [name for name, token in state.tokens.items() if token != new]


def choose_first(state: TokenState, new: str) -> str:
    """The replica that gets the new token first; empty if one has it already.

    It is one that takes no request now, because it has another token than the edge presents, else the first one.
    """
    if new in state.tokens.values():
        return ""
    return next((name for name, token in state.tokens.items() if token != state.presented), next(iter(state.tokens)))


def find_failing(rotation: Rotation, state: TokenState) -> str:
    """Why requests fail while this token is changed; empty if none does."""
    if not state.presented:
        return "no edge with a token is in front of the router, and its clients hold the token themselves"
    if any(rotation.token in keys for keys in rotation.edge["clients"].values()):
        return "clients present this token themselves, because anvil_clients is not written"
    if len(state.tokens) < 2:
        return "the router has one replica, and it is restarted"
    return ""


def rotate_token(docker: DockerEngine, rotation: Rotation, check: bool) -> Dict[str, Any]:
    """The return values of ``anvil_router_token``."""
    new = str(rotation.secrets.get(rotation.token) or "")
    if not new:
        raise fail("secret {0} has no value".format(rotation.token), hint="set it in anvil_secrets")
    state = read_state(docker, rotation)
    stale = find_stale(state, new)
    failing = find_failing(rotation, state) if stale else ""
    if failing and not rotation.at_once:
        raise fail(
            "the token of the router cannot be changed without failed requests",
            where="secret " + rotation.token,
            why=failing,
            hint="write anvil_router.replicas: 2 and anvil_clients, and run site.yml with the old token first; "
            "or accept failed requests: -e at_once=true",
        )
    if check:
        return {"changed": bool(stale), "replaced": stale}
    if failing:
        _replace_at_once(docker, rotation)
        return {"changed": True, "replaced": stale}
    if stale:
        _roll(docker, rotation, state, new)
    # Also if no replica is stale: a run may have been killed before the last reload.
    changed = bool(rotation.edge) and _promote(docker, rotation, new, (), list(state.tokens))
    return {"changed": bool(stale) or changed, "replaced": stale}


def read_state(docker: DockerEngine, rotation: Rotation) -> TokenState:
    deployment = rotation.deployment
    replicas = [each.container for each in deployment.project.services.values() if each.container != deployment.edge]
    found = {name: docker.inspect_container(name) for name in replicas}
    tokens = {name: read_own_token(inspected) if inspected else "" for name, inspected in found.items()}
    presented = read_server_key(Edge(docker, deployment.edge), ROUTERS) if is_up(docker, deployment.edge) else ""
    return TokenState(tokens, presented)


def _roll(docker: DockerEngine, rotation: Rotation, state: TokenState, new: str) -> None:
    edge = Edge(docker, rotation.deployment.edge)
    everyone = list(state.tokens)
    first = choose_first(state, new)
    if first:
        if edge.find_server(first, edge.read_servers()).status == UP:
            edge.drain(first, rotation.deployment.drain_timeout)
        # A restart of the edge, or a failure of the next reload, leaves this replica out as well.
        _promote(docker, rotation, state.presented, [first], everyone)
        _replace(docker, rotation, [first], everyone)
    stale = [name for name in find_stale(state, new) if name != first]
    fresh = [name for name in everyone if name not in stale]
    for name in fresh:
        _await_token(docker, name, new, rotation.deployment.start_timeout)
    _promote(docker, rotation, new, stale, everyone)
    if stale:
        # The requests of these replicas are those of the edge's old process.
        edge.await_one_process(rotation.deployment.drain_timeout)
        _replace(docker, rotation, stale, everyone)
        for name in stale:
            _await_token(docker, name, new, rotation.deployment.start_timeout)


def _promote(
    docker: DockerEngine, rotation: Rotation, token: str, resting: Sequence[str], may_rest: Sequence[str], reload: bool = True
) -> bool:
    """Make the edge present this token, and send nothing to the resting replicas; returns whether it changed."""
    options = {**EDGE_DEFAULTS, **rotation.edge, "settle": rotation.settle, "reload": reload}
    options["secrets"] = {**rotation.secrets, rotation.token: token}
    return bool(run_edge_module(docker, {**options, "resting": list(resting)}, False, False, tuple(may_rest))["changed"])


def _replace(docker: DockerEngine, rotation: Rotation, containers: Sequence[str], everyone: Sequence[str]) -> None:
    project = rotation.deployment.project
    services = tuple(name for name, each in project.services.items() if each.container in containers)
    others = [name for name in everyone if name not in containers]
    with block_promotions(docker, others, rotation.deployment.lock_timeout):
        _converge(docker, rotation, services)


def _converge(docker: DockerEngine, rotation: Rotation, services: Tuple[str, ...]) -> None:
    done = verbs.apply_state(docker, replace(rotation.deployment.project, only=services), ServeOptions(), check=False)
    if done["problems"]:
        raise AnvilError(*done["problems"])


def _replace_at_once(docker: DockerEngine, rotation: Rotation) -> None:
    """Write the edge's files first, so that what follows the restart of the router is one reload."""
    deployment = rotation.deployment
    names = tuple(name for name, each in deployment.project.services.items() if each.container != deployment.edge)
    new = str(rotation.secrets[rotation.token])
    if rotation.edge:
        _promote(docker, rotation, new, (), (), reload=False)
    _converge(docker, rotation, names)
    if is_up(docker, deployment.edge):
        everyone = [deployment.project.services[name].container for name in names]
        run_edge_module(docker, {**EDGE_DEFAULTS, "container": deployment.edge}, False, False, tuple(everyone))
        # The proof that the edge runs on these files, for which no client should wait.
        _promote(docker, rotation, new, (), everyone)


def _await_token(docker: DockerEngine, container: str, token: str, timeout: float) -> None:
    """Wait until the router answers a request with this token."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            TransitionApi(docker, container, token).read_tiers("")
            return
        except AnvilError as exc:
            problem: Problem = exc.problems[0]
        if problem.what == NO_API:
            return
        if time.monotonic() > deadline:
            raise fail(
                "the router did not come up with its new token within {0:g} s".format(timeout),
                where="container " + container,
                why="{0}: {1}".format(problem.what, problem.why),
                hint="the edge sends it no requests; correct what the log shows, then type the same command again",
                log=docker.read_log(container, 15),
            )
        time.sleep(POLL)
