# SPDX-License-Identifier: GPL-3.0-or-later
"""The compatibility check of services that are about to start: finds their weights on this host, and lets ``compatibility``
judge them.

Nothing but this host is contacted; ``plan_compatibility`` judges weights that are not here yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, List, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import read_settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin
from ansible_collections.anvil.serving.plugins.module_utils.core.findings import Finding, unknown
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.weights.candidate import Candidate
from ansible_collections.anvil.serving.plugins.module_utils.weights.card_facts import describe_cards
from ansible_collections.anvil.serving.plugins.module_utils.weights.compatibility import judge_candidates
from ansible_collections.anvil.serving.plugins.module_utils.weights.weights_on_host import (
    ServeWeights,
    describe_elsewhere,
    place_findings,
    read_config_file,
    read_weights,
)

if TYPE_CHECKING:
    from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card


def _read_kind(service: Service) -> str:
    """The kind of answers that the readiness and the router expect of a serve of the plan; empty for another container."""
    ready = service.anvil.get("ready")
    return str(ready.get("serves") or "chat") if isinstance(ready, dict) else ""


def judge_services(
    docker: DockerEngine,
    services: Sequence[Service],
    starting: Sequence[str],
    cards: Sequence[Card],
    allowed: Optional[Tuple[Origin, ...]],
) -> List[Finding]:
    """Judge the services that are about to start, beside those that run."""
    candidates: List[Candidate] = []
    found: List[Finding] = []
    for service in services:
        if "model" not in service.anvil:
            continue
        model, args, engine = str(service.anvil["model"]), tuple(service.command or ()), str(service.anvil.get("engine", ""))
        settings = read_settings(engine, args, service.environment)
        mounts = [{"kind": mount.kind, "source": mount.source, "target": mount.target} for mount in service.mounts]
        weights = ServeWeights()
        if service.name in starting:
            weights = read_weights(docker, {"model": model, "mounts": mounts}, settings) or describe_elsewhere(model, settings)
        where = "serve " + service.name
        found += [unknown(note, where) for note in weights.notes]
        found += place_findings(weights, where)
        candidates.append(
            Candidate(
                serve=service.name,
                engine=engine,
                model=model,
                origin=weights.origin,
                cards=service.gpu_uuids,
                args=args,
                claim_mib=int(service.anvil.get("vram_mib") or 0),
                claim_by_card=service.anvil.get("vram_by_card") or {},
                facts=weights.facts,
                environment=service.environment,
                config=read_config_file(docker, {"mounts": mounts}, settings),
                kind=_read_kind(service),
                targets=tuple(mount.target for mount in service.mounts),
                secrets=tuple(service.anvil.get("secrets") or ()),
                entrypoint=service.entrypoint or (),
            )
        )
    cuda = None
    if any(candidate.facts is not None and candidate.facts.trt for candidate in candidates):
        # The driver is queried again only for TensorRT-LLM engines: they name the CUDA they were built for.
        from ansible_collections.anvil.serving.plugins.module_utils.host.nvidia_stack import read_driver

        driver = read_driver()
        cuda = driver.cuda if driver else None
    report = judge_candidates(candidates, describe_cards(cards), allowed, cuda, only=starting)
    return [*found, *report.findings]
