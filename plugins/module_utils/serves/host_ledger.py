# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger of one host at one moment, read from the engine and the driver, and what it decides about serves with cards."""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, List, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.service import (
    COMPOSE_PROJECT,
    COMPOSE_SERVICE,
    EVICTABLE,
    ON_DEMAND,
    Service,
)
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card
from ansible_collections.anvil.serving.plugins.module_utils.serves import drift
from ansible_collections.anvil.serving.plugins.module_utils.serves.gpu_claims import read_claims
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Order, Outcome
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import Reader
from ansible_collections.anvil.serving.plugins.module_utils.serves.vram_ledger import (
    Budget,
    Claim,
    Verdict,
    Want,
    choose_evictions,
    weigh,
)


class Books:
    """The ledger of one host at one moment, read from the engine and the driver."""

    def __init__(
        self, reader: Reader, charged: Sequence[Service], outcomes: Dict[str, Outcome], cards: Sequence[Card], order: Order
    ) -> None:
        self.project, self.cards = reader.project, cards
        self.budgets = [
            Budget(str(gpu["alias"]), str(gpu["uuid"]), int(gpu["vram_mib"]), int(gpu.get("reserve_mib") or 0))
            for gpu in order.gpus
        ]
        self.charged = [service for service in charged if service.gpu_uuids]
        self.freed: Dict[str, Optional[int]] = {}
        self.serve_claims: Dict[str, Claim] = {}
        self.claims: List[Claim] = []
        if self.charged:
            self._read(reader, outcomes)

    def _read(self, reader: Reader, outcomes: Dict[str, Outcome]) -> None:
        own = [outcomes[service.name].seen for service in self.charged]
        gone = [outcome.seen for outcome in outcomes.values() if outcome.decision.action == drift.EVICT]
        leaving = {seen.id for seen in (*own, *gone, *(outcome.replaces for outcome in outcomes.values())) if seen is not None}
        held = read_claims(reader.engine, reader.listed, self.cards, ())
        for container, told in held.items():
            claim = told
            if container in leaving:
                for uuid in claim.uuids:
                    known = self.freed.get(uuid, 0)
                    self.freed[uuid] = None if known is None or claim.mib is None else known + claim.mib
                continue
            serve = self._serve_of(reader, container)
            if serve is not None:
                # What the inventory says now counts: a changed need restarts nothing, so the label may be old.
                claim = replace(claim, holder="serve " + serve.name, mib=int(serve.anvil.get("vram_mib") or 0))
                self.serve_claims[serve.name] = claim
            self.claims.append(claim)

    def _serve_of(self, reader: Reader, container: str) -> Optional[Service]:
        entry = next(entry for entry in reader.listed if entry["Id"] == container)
        seen = entry["Labels"] or {}
        ours = seen.get(COMPOSE_PROJECT) == self.project.name
        return self.project.services.get(seen.get(COMPOSE_SERVICE, "")) if ours else None

    def wants(self, but: Sequence[str] = ()) -> List[Want]:
        return [
            Want(service.name, service.gpu_uuids, int(service.anvil.get("vram_mib") or 0))
            for service in self.charged
            if service.name not in but
        ]

    def weigh_resting(self, services: Sequence[Service]) -> Tuple[Verdict, List[str]]:
        """The verdict, and the evictable serves that rest: nobody named them, and a serve on demand has their card."""
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

    def _weigh(self, but: Sequence[str]) -> Verdict:
        return weigh(self.wants(but), self.claims, self.budgets, self.cards, self.freed)

    def evictions(self, verdict: Verdict, chosen: Sequence[str]) -> List[Service]:
        """What must go for the serves on demand; nothing where all fits, or where any other serve is refused too.

        A serve that was itself chosen in this run is never evicted by it.
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
        names = choose_evictions(self.wants(), self.claims, evictable, self.budgets, self.cards, self.freed)
        return [services[name] for name in names]
