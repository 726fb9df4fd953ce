# SPDX-License-Identifier: GPL-3.0-or-later
"""A serve to judge, as data: its engine, model, cards, settings and what its weights hold. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import Settings, read_settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import ModelFacts


@dataclass(frozen=True)
class Candidate:
    """A serve to judge. claim_mib: what the inventory claims for it on each card; claim_by_card: UUID -> MiB,
    where the claims differ.

    origin: where its weights come from. facts: what they hold. None where that is not known. config: the content of the
    configuration file that its arguments name, where it is known. kind: of its answers, as planned; empty if that is not known.
    targets: the folders in its container that volumes and folders of this host hold. secrets: its variables with secret values.
    """

    serve: str
    engine: str
    model: str
    origin: Optional[Origin] = None
    cards: Tuple[str, ...] = ()
    args: Tuple[str, ...] = ()
    claim_mib: int = 0
    facts: Optional[ModelFacts] = None
    environment: Mapping[str, str] = field(default_factory=dict)
    config: Optional[Mapping[str, Any]] = None
    claim_by_card: Mapping[str, int] = field(default_factory=dict)
    kind: str = ""
    targets: Tuple[str, ...] = ()
    secrets: Tuple[str, ...] = ()
    entrypoint: Tuple[str, ...] = ()

    @cached_property
    def settings(self) -> Settings:
        return read_settings(self.engine, self.args, self.environment, self.config)
