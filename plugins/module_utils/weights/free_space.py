# SPDX-License-Identifier: GPL-3.0-or-later
"""Room for weights: judged before a transfer, and asked again while it runs, because others write to the disk too."""

from __future__ import annotations

from typing import Optional

from ansible_collections.anvil.serving.plugins.module_utils.core.disk_space import count_free_bytes, find_shortage
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.weights.fetch_errors import build_fetch_error
from ansible_collections.anvil.serving.plugins.module_utils.weights.fetch_progress import format_bytes


def judge_free_space(folder: str, need: int, have: int, free: int, reserve: int) -> Optional[AnvilError]:
    """An error unless ``need`` bytes, of which ``have`` are there already, fit and leave ``reserve``; all in bytes."""
    missing = need - have + reserve - free
    if missing <= 0:
        return None
    arithmetic = "{0} to fetch - {1} already here + {2} to keep free = {3}; {4} are free: {5} short".format(
        *(format_bytes(count) for count in (need, have, reserve, need - have + reserve, free, missing))
    )
    return fail(
        "there is not enough room for the weights",
        where=folder,
        why=arithmetic,
        hint="free some space, choose another folder or volume, or lower reserve_mib; nothing was fetched",
    )


def refuse_full_disk(folder: str, need: int, here: int, reserve: int) -> None:
    """Raise AnvilError where the rest of a running transfer does not fit any more. need: 0 where the size is not known.

    It is asked about once a second: others write to the disk too, and one without any room stops more than this transfer.
    """
    left = max(0, need - here) if need else None
    free = count_free_bytes(folder)
    short = find_shortage(left, free, reserve)
    if short:
        coming = "an unknown rest is" if left is None else format_bytes(left) + " are"
        text = "{0} are here, {1} still to come, {2} are free, {3} are to stay free: {4} short"
        why = text.format(format_bytes(here), coming, *(format_bytes(count) for count in (free, reserve, short)))
        raise build_fetch_error("space", folder, why)
