# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""restarted, recreated, adopted: what they decide, and how a container that is adopted is kept until its successor is ready.

    old container                renamed to NAME-before-adoption, stopped     (its port, name and card are free)
    new container                created by compose, waited for, watched
    ready                        the old one is removed (its anonymous volumes stay)
    not ready                    the new one is removed, the old one gets its name back and is started if it ran

A run that is killed in between leaves the old container under its kept name; the next run with the same state goes on.
"""

from __future__ import annotations

from typing import Dict, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.service import Service
from ansible_collections.anvil.serving.plugins.module_utils.serves import drift
from ansible_collections.anvil.serving.plugins.module_utils.serves.drift import Decision, Observed
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import GRACE_SECONDS, REQUESTED, Order, Outcome
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import Reader, inspect

KEPT_SUFFIX = "-before-adoption"


def decide_anew(reader: Reader, services: Sequence[Service], outcomes: Dict[str, Outcome], order: Order) -> None:
    """Change what ``up`` would do into what was ordered.

    A serve to be restarted that drifted is recreated: a restart would replay its old configuration.
    """
    sources = _sources(services, order) if order.state == "adopted" else {}
    for service in services:
        outcome = outcomes[service.name]
        decision = outcome.decision
        if order.state == "restarted" and decision.action == drift.NONE and outcome.seen is not None:
            outcome.decision = Decision(drift.RESTART, (REQUESTED,))
        elif order.state == "recreated" and outcome.seen is not None:
            reasons = tuple(sorted({REQUESTED, *decision.reasons}))
            outcome.decision = Decision(drift.RECREATE, reasons, decision.changes)
        elif order.state == "adopted":
            old = _adoptee(reader, service, sources)
            if old is not None:
                outcome.decision, outcome.replaces = _decide_adopt(reader, service, old), old
                outcome.seen = outcome.seen or old


def _sources(services: Sequence[Service], order: Order) -> Dict[str, str]:
    """Which container becomes which serve, where the names differ."""
    if not order.containers:
        return {}
    if len(services) != 1 or len(order.containers) != 1:
        raise fail(
            "which container is to become which serve?",
            where="containers",
            why="{0} serves and {1} containers were named".format(len(services), len(order.containers)),
            hint="adopt one at a time: serves: [heavy], containers: [the name it has now]; "
            "without containers, each serve adopts the container that has its own container name",
        )
    return {services[0].name: order.containers[0]}


def _adoptee(reader: Reader, service: Service, sources: Dict[str, str]) -> Optional[Observed]:
    """The container that is to be adopted: by its name, or by the name it was kept under when a run was killed."""
    name = sources.get(service.name, service.container)
    for candidate in (name, service.container + KEPT_SUFFIX):
        seen = reader.named(candidate)
        if seen is not None and not reader.is_ours(seen):
            return seen
    if name != service.container and reader.container_of(service) is None:
        raise fail(
            "there is no container {0} to adopt".format(name),
            where="serve " + service.name,
            hint="docker ps --all on the host tells the names",
        )
    return None


def _decide_adopt(reader: Reader, service: Service, old: Observed) -> Decision:
    changes = reader.changes_of(service, old)
    reasons = {change.reason for change in changes} | {"foreign_project" if old.project else "by_hand"}
    return Decision(drift.ADOPT, tuple(sorted(reasons)), tuple(changes))


def _describe(old: Observed) -> str:
    return "container {0} of image {1} ({2})".format(
        old.name, old.image, "project " + old.project if old.project else "no compose project"
    )


def set_aside(engine: DockerEngine, service: Service, old: Observed) -> None:
    """Free its name, its ports and its cards, and keep it."""
    kept = service.container + KEPT_SUFFIX
    if old.name != kept:
        engine.rename_container(old.id, kept)
    if old.state in drift.HOLDING:
        engine.stop_container(old.id, GRACE_SECONDS)


def put_back(engine: DockerEngine, service: Service, old: Observed) -> Problem:
    """Give the adopted container its name back and start it if it ran; tells how that went, as a problem to report."""
    kept = service.container + KEPT_SUFFIX
    name = service.container if old.name == kept else old.name
    by_hand = "docker rename {0} {1} && docker start {1}".format(kept, name)
    where, ran = "serve " + service.name, old.state in drift.HOLDING
    try:
        new = inspect(engine, service.container)
        if new is not None and new.id != old.id:
            engine.remove_container(new.id)
        engine.rename_container(old.id, name)
        if ran:
            engine.start_container(old.id)
        seen = inspect(engine, old.id)
    except AnvilError as exc:
        return Problem(
            "it could not be adopted, and what was there before could not be put back",
            where,
            "{0} is kept as {1}: {2}".format(_describe(old), kept, exc.as_text()),
            "get it back with: " + by_hand,
        )
    state = "gone" if seen is None else seen.state
    told = "runs again" if ran and state == "running" else "is there again ({0})".format(state)
    return Problem(
        "it could not be adopted; what was there before {0}".format(told),
        where,
        "{0}, command: {1}".format(_describe(old), " ".join(drift.hide_secrets([*old.entrypoint, *old.command])) or "-"),
        "mend the serve in the inventory, then adopt again; nothing of the old container was lost",
    )


def drop_kept(engine: DockerEngine, old: Observed) -> None:
    """Remove the container whose successor is ready. Its anonymous volumes may hold somebody's data: they stay."""
    engine.remove_container(old.id, volumes=False)
