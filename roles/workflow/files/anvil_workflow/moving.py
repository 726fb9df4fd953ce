# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs go from one store to another, where a workflow is given replicas or loses them. No server may run meanwhile.

Page by page: stored there, and only then deleted here. Broken off anywhere and begun again, nothing is lost and nothing is
there twice. What ran is pending there, and goes on at its first unfinished node.
"""

from __future__ import annotations

from .jobs import Store

PAGE = 200


async def move_jobs(source: Store, target: Store) -> int:
    """How many jobs were moved. Both stores are open. Raises StoreError."""
    moved = 0
    while page := await source.list_jobs(None, None, PAGE):
        moved += await target.adopt(page)
        await source.forget([job.id for job in page])
    return moved
