# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Move jobs from one store to another, for a workflow whose number of replicas changes. No server may run meanwhile.

Each page is stored in the target before it is deleted in the source. A move that is interrupted anywhere and started again loses
no job and doubles none. Running jobs become pending, and continue at their first unfinished node.
"""

from __future__ import annotations

from anvil_workflow.stores.jobs import Store

# A job may be as large as several requests.
PAGE = 20


async def move_jobs(source: Store, target: Store) -> int:
    """Move every job between two open stores; returns how many. Raises StoreError."""
    moved = 0
    while page := await source.list_whole_jobs(PAGE):
        moved += await target.adopt(page)
        await source.forget([job.id for job in page])
    return moved
