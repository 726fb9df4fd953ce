# SPDX-License-Identifier: GPL-3.0-or-later
"""What a promotion would do, for check mode and ``validate_only``: the candidate is validated and nothing is written."""

from __future__ import annotations

import time
from typing import Mapping, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.promotion.candidate import is_live, select_base
from ansible_collections.anvil.serving.plugins.module_utils.promotion.crash_loops import CrashLoop, find_loops
from ansible_collections.anvil.serving.plugins.module_utils.promotion.file_sources import Choice, describe_new_owner
from ansible_collections.anvil.serving.plugins.module_utils.promotion.history import find_way_back, list_history
from ansible_collections.anvil.serving.plugins.module_utils.promotion.journal import Journal, shorten_revision
from ansible_collections.anvil.serving.plugins.module_utils.promotion.loaded_revision import choose_observation
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import ContainerState
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica_group import ReplicaGroup
from ansible_collections.anvil.serving.plugins.module_utils.promotion.request import PromotionRequest
from ansible_collections.anvil.serving.plugins.module_utils.promotion.result import PromotionResult
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import Snapshot, hash_revision

RESTORE_PLAIN_FILES = "restore plain files in the volume"


def _describe_restart(snapshot: Snapshot, journal: Optional[Journal], image: str, loops: Sequence[CrashLoop]) -> str:
    back = find_way_back(snapshot, journal, image)
    text = "restart {0} and observe it for {1:.0f} s; if it does not keep running, {2}"
    otherwise = "go back to " + shorten_revision(back) if back else "fail: there is no revision to go back to"
    return text.format(" and ".join(loop.replica for loop in loops), max(loop.observation for loop in loops), otherwise)


def predict_promotion(
    group: ReplicaGroup,
    snapshot: Snapshot,
    journal: Optional[Journal],
    states: Mapping[str, ContainerState],
    request: PromotionRequest,
    choice: Choice,
) -> PromotionResult:
    """The result that the promotion would have. Raises ``AnvilError`` for a candidate that does not pass the validation."""
    before = select_base(snapshot, journal)
    if request.only_restores_plain_files:
        return PromotionResult(True, snapshot.live, snapshot.live, before, before, actions=(RESTORE_PLAIN_FILES,))
    candidate = group.first.validate(choice)
    warnings = candidate.warnings
    if request.validate_only and not request.check_mode:
        observation = choose_observation(group, snapshot, journal, states, candidate, request)
        dry_boot = group.first.start_dry_boot(candidate, observation)
        if dry_boot is not None:
            try:
                warnings += dry_boot.confirm()
            finally:
                dry_boot.close()
    new = hash_revision(candidate.files)
    old = hash_revision(before) if before else None
    reload = request.reload and any(state.is_up for state in states.values())
    actions = ["validate revision " + shorten_revision(new)]
    changed = not request.validate_only
    if changed:
        interrupted = journal is not None and journal.in_flight
        if interrupted:
            actions.append("finish or undo an interrupted promotion")
        if not snapshot.is_ours:
            actions.append("lay out the volume in revisions")
        if new != old:
            actions.append("switch from {0} to {1}".format(shorten_revision(old), shorten_revision(new)))
        only_owner = choice.has_new_owner and snapshot.is_ours and not interrupted
        if choice.has_new_owner and new == old:
            actions.append("note that " + describe_new_owner(choice))
        if only_owner and is_live(group, snapshot, journal, states, request, choice):
            reload = False
        loops = find_loops(list(states), group.read_states(), snapshot, journal, time.time()) if reload else []
        warnings += tuple(loop.text for loop in loops)
        if loops and new == old:
            actions.append(_describe_restart(snapshot, journal, states[group.first.name].image_id, loops))
        elif reload:
            actions += ["reload", "verify"]
        if request.plain_layout:
            actions.append(RESTORE_PLAIN_FILES)
        elif not reload and snapshot.is_ours and not interrupted:
            changed = choice.has_new_owner or any(snapshot.live_of(replica.name) != new for replica in group.replicas)
    return PromotionResult(
        changed=changed,
        old=old,
        new=new,
        before=before,
        after=candidate.files,
        actions=tuple(actions),
        history=list_history(snapshot, journal),
        warnings=warnings,
        kept=choice.kept,
    )
