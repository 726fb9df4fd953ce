# SPDX-License-Identifier: GPL-3.0-or-later
"""What a promotion did, or would do: its result, and the notes that are taken while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.promotion.file_sources import KeptFile
from ansible_collections.anvil.serving.plugins.module_utils.promotion.history import list_history
from ansible_collections.anvil.serving.plugins.module_utils.promotion.journal import Journal
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import Proof
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import Snapshot


@dataclass(frozen=True)
class PromotionResult:
    """What was done, or in check mode what would be. old, new: revisions. before, after: the files, for a diff.

    kept: live files that stay although the inventory renders others.
    """

    changed: bool
    old: Optional[str]
    new: Optional[str]
    before: Mapping[str, bytes]
    after: Mapping[str, bytes]
    actions: Tuple[str, ...] = ()
    reloaded: bool = False
    proof: Optional[Proof] = None
    history: Tuple[Dict[str, Any], ...] = ()
    warnings: Tuple[str, ...] = ()
    kept: Tuple[KeptFile, ...] = ()


@dataclass
class PromotionNotes:
    """The actions and warnings of a promotion so far."""

    actions: List[str] = field(default_factory=list)
    warnings: List[str] = field(default_factory=list)


def unchanged_result(snapshot: Snapshot, journal: Optional[Journal], kept: Tuple[KeptFile, ...] = ()) -> PromotionResult:
    """The result of a promotion that had nothing to do."""
    files = snapshot.observed()
    history = list_history(snapshot, journal)
    return PromotionResult(False, snapshot.live, snapshot.live, files, files, history=history, kept=kept)
