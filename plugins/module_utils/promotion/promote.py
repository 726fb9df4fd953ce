# SPDX-License-Identifier: GPL-3.0-or-later
"""The promotion of files in a config volume: they become live, verified, or everything stays as it was.

The volume always holds either the old revision or the new one. docs/promotion.md says what a crash at each step leaves.
"""

from __future__ import annotations

import time
from dataclasses import replace

from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.promotion.candidate import is_up_to_date, select_candidate
from ansible_collections.anvil.serving.plugins.module_utils.promotion.container_troubles import describe_troubles
from ansible_collections.anvil.serving.plugins.module_utils.promotion.crash_loops import started_since
from ansible_collections.anvil.serving.plugins.module_utils.promotion.file_sources import Choice
from ansible_collections.anvil.serving.plugins.module_utils.promotion.journal import parse_journal
from ansible_collections.anvil.serving.plugins.module_utils.promotion.loaded_revision import choose_observation
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica_group import ReplicaGroup, read_volume
from ansible_collections.anvil.serving.plugins.module_utils.promotion.request import PromotionRequest
from ansible_collections.anvil.serving.plugins.module_utils.promotion.result import PromotionResult, unchanged_result
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import Place
from ansible_collections.anvil.serving.plugins.module_utils.promotion.volume_writer import open_writer


def promote(docker: DockerEngine, group: ReplicaGroup, place: Place, request: PromotionRequest) -> PromotionResult:
    """Make the requested files or revision live, or leave everything as it was and raise ``AnvilError``."""
    states = group.read_states()
    snapshot = read_volume(docker, group, place, states)
    journal = parse_journal(snapshot.journal, "volume " + place.volume, request.discard_journal)
    choice = Choice({}) if request.only_restores_plain_files else select_candidate(group, request, snapshot, journal)
    if is_up_to_date(group, snapshot, journal, states, request, choice):
        now = time.time()
        troubles = [
            text for each in states for text in describe_troubles(each, states[each], started_since(journal, snapshot, each), now)
        ]
        return replace(unchanged_result(snapshot, journal, choice.kept), warnings=tuple(troubles))
    if request.check_mode or request.validate_only:
        from ansible_collections.anvil.serving.plugins.module_utils.promotion.prediction import predict_promotion

        return predict_promotion(group, snapshot, journal, states, request, choice)
    from ansible_collections.anvil.serving.plugins.module_utils.promotion.leftovers import sweep_leftovers
    from ansible_collections.anvil.serving.plugins.module_utils.promotion.locked_run import PromotionRun

    # A bad candidate is refused before the volume is locked or written. What an interrupted promotion left is undone even
    # then, so that case validates under the lock.
    candidate = dry_boot = None
    try:
        if (journal is None or not journal.in_flight) and not request.only_restores_plain_files:
            candidate = group.first.validate(choice)
            observation = choose_observation(group, snapshot, journal, states, candidate, request)
            dry_boot = group.first.start_dry_boot(candidate, observation)
            if dry_boot is not None and (dry_boot.observation or not any(state.exists for state in states.values())):
                # Taking the lock may create the volume: not for a bad candidate. And other runs need not wait for the lock
                # while a candidate is only observed.
                dry_boot.confirm()
        image = request.writer_image or group.first.find_image()
        sweep_leftovers(docker)
        with open_writer(docker, image, place, request.lock_wait) as writer:
            return PromotionRun(group, place, request, writer).run(candidate, dry_boot)
    finally:
        if dry_boot is not None:
            dry_boot.close()
