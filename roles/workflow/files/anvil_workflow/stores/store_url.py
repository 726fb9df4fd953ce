# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The store that a URL names: ``sqlite:////data/jobs.sqlite`` or ``postgresql://user@host/name``."""

from __future__ import annotations

from anvil_workflow.stores.jobs import Store


def open_store(url: str, password: str = "", lease: float = 15.0, sync: str = "full") -> Store:
    """The store at a URL, not connected yet. password, lease: of PostgreSQL. sync: of SQLite."""
    if url.startswith("sqlite:"):
        from anvil_workflow.stores.sqlite import SqliteStore

        return SqliteStore(url.removeprefix("sqlite:").removeprefix("///"), sync=sync)
    from anvil_workflow.stores.postgres import PostgresStore

    return PostgresStore(url, password=password, lease=lease)
