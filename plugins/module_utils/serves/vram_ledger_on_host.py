# SPDX-License-Identifier: GPL-3.0-or-later
"""The VRAM ledger of this host: the claims and free memory of its GPUs, read now, and which serves rest or are evicted."""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, List, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    COMPOSE_PROJECT,
    COMPOSE_SERVICE,
    EVICTABLE,
    ON_DEMAND,
    Service,
)
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card
from ansible_collections.anvil.serving.plugins.module_utils.host.system_memory import read_available_mib
from ansible_collections.anvil.serving.plugins.module_utils.serves import decisions
from ansible_collections.anvil.serving.plugins.module_utils.serves.gpu_claims import read_claims
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Outcome, ServeOptions
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import ProjectState
from ansible_collections.anvil.serving.plugins.module_utils.serves.vram_ledger import (
    Budget,
    Claim,
    Demand,
    Verdict,
    choose_evictions,
    read_claims_of_service,
    weigh,
)


class HostLedger:
    """The claims on the GPUs of this host, read from the Docker Engine and the driver when the ledger is made."""

    def __init__(
        self,
        state: ProjectState,
        charged: Sequence[Service],
        outcomes: Dict[str, Outcome],
        cards: Sequence[Card],
        options: ServeOptions,
    ) -> None:
        self.project, self.cards = state.project, cards
        self.budgets = [
            Budget(str(gpu["alias"]), str(gpu["uuid"]), int(gpu["vram_mib"]), int(gpu.get("reserve_mib") or 0))
            for gpu in options.gpus
        ]
        self.charged = [service for service in charged if service.gpu_uuids]
        self.system_mib = read_available_mib() if any(card.shares_system_memory for card in cards) else None
        self.freed: Dict[str, Optional[int]] = {}
        self.serve_claims: Dict[str, Claim] = {}
        self.claims: List[Claim] = []
        if self.charged:
            self._read(state, outcomes)

    def _read(self, state: ProjectState, outcomes: Dict[str, Outcome]) -> None:
        own = [outcomes[service.name].seen for service in self.charged]
        gone = [outcome.seen for outcome in outcomes.values() if outcome.decision.action == decisions.EVICT]
        leaving = {seen.id for seen in (*own, *gone, *(outcome.replaces for outcome in outcomes.values())) if seen is not None}
        held = read_claims(state.docker, state.listed, self.cards)
        for container, held_claim in held.items():
            claim = held_claim
            if container in leaving:
                for uuid in claim.uuids:
                    known = self.freed.get(uuid, 0)
                    back = claim.mib_on(uuid)
                    self.freed[uuid] = None if known is None or back is None else known + back
                continue
            serve = self._find_serve(state, container)
            if serve is not None:
                # The inventory counts: a changed need restarts nothing, so the label of the container may be old.
                mib, by_card = read_claims_of_service(serve.anvil)
                claim = replace(claim, holder="serve " + serve.name, mib=mib, by_card=by_card)
                self.serve_claims[serve.name] = claim
            self.claims.append(claim)

    def _find_serve(self, state: ProjectState, container: str) -> Optional[Service]:
        entry = next(entry for entry in state.listed if entry["Id"] == container)
        seen = entry["Labels"] or {}
        ours = seen.get(COMPOSE_PROJECT) == self.project.name
        return self.project.services.get(seen.get(COMPOSE_SERVICE, "")) if ours else None

    def list_demands(self, resting: Sequence[str] = ()) -> List[Demand]:
        return [
            Demand(service.name, service.gpu_uuids, *read_claims_of_service(service.anvil))
            for service in self.charged
            if service.name not in resting
        ]

    def weigh_resting(self, services: Sequence[Service]) -> Tuple[Verdict, List[str]]:
        """The verdict, and the evictable serves that rest: they were not named, and a serve on demand has their GPU."""
        taken = {
            uuid
            for name, claim in self.serve_claims.items()
            if self.project.residency(self.project.services[name]) == ON_DEMAND
            for uuid in claim.uuids
        }
        resting: List[str] = []
        verdict = self._weigh(resting)
        for service in services:
            evicted = self.project.residency(service) == EVICTABLE and taken.intersection(service.gpu_uuids)
            if service.name in verdict.problems and evicted and not self.project.only:
                resting.append(service.name)
                verdict = self._weigh(resting)
        self.charged = [service for service in self.charged if service.name not in resting]
        return verdict, resting

    def _weigh(self, resting: Sequence[str]) -> Verdict:
        return weigh(self.list_demands(resting), self.claims, self.budgets, self.cards, self.freed, self.system_mib)

    def choose_evictions(self, verdict: Verdict, chosen: Sequence[str]) -> List[Service]:
        """The serves to evict for the serves on demand; none where all fit, or where another serve is refused too.

        A serve that was chosen in this run is never evicted by it.
        """
        on_demand = {service.name for service in self.charged if self.project.residency(service) == ON_DEMAND}
        if not verdict.problems or not on_demand.issuperset(verdict.problems):
            return []
        services = self.project.services
        evictable = {
            name: claim
            for name, claim in self.serve_claims.items()
            if self.project.residency(services[name]) == EVICTABLE and name not in chosen
        }
        names = choose_evictions(self.list_demands(), self.claims, evictable, self.budgets, self.cards, self.freed)
        return [services[name] for name in names]
