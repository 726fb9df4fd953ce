# SPDX-License-Identifier: GPL-3.0-or-later
"""The revisions that a volume holds: their history, which one a roll back goes to, and which ones are pruned. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Dict, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.promotion.file_sources import parse_sources
from ansible_collections.anvil.serving.plugins.module_utils.promotion.journal import WRITTEN, Journal, shorten_revision
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import Snapshot, hash_revision


def find_previous(snapshot: Snapshot, journal: Optional[Journal]) -> Optional[str]:
    """The revision that was verified before the live one and is still held, if any."""
    # A revision in flight was never verified: the base is what it replaced, and previous is what was live before that.
    base = journal.old if journal is not None and journal.in_flight else snapshot.live
    # What was rolled back is not gone back to: a second roll back leads further back, never forward again.
    verified = [each.revision for each in reversed(journal.history if journal else ())]
    for revision in [*verified, *([journal.old] if journal is not None and journal.old else [])]:
        if revision != base and revision in snapshot.revisions and (journal is None or journal.find_left(revision) is None):
            return revision
    return None


def find_way_back(snapshot: Snapshot, journal: Optional[Journal], image: str) -> Optional[str]:
    """The previous revision, if it is intact and was validated by the image that runs; else ``None``."""
    revision = find_previous(snapshot, journal)
    if revision is None or snapshot.meta_of(revision).get("image") != image:
        return None
    return revision if hash_revision(snapshot.files_of(revision)) == revision else None


def resolve_revision(name: str, snapshot: Snapshot, journal: Optional[Journal]) -> str:
    """The revision that ``previous`` or a prefix names; ``AnvilError`` with the revisions held if none or several."""
    known = snapshot.revisions
    where = "volume " + snapshot.place.volume
    held = "revisions in the volume: " + (", ".join(shorten_revision(each) for each in known) or "none")
    hint = "ansible-playbook playbooks/history.yml lists the revisions"
    if name == "previous":
        revision = find_previous(snapshot, journal)
        if revision is not None:
            return revision
        raise fail("there is no previous revision to roll back to", where=where, why=held, hint=hint)
    matches = [each for each in known if each.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    what = "several revisions begin with {0!r}" if matches else "no revision begins with {0!r}"
    raise fail(what.format(name), where=where, why=held, hint=hint)


def list_history(snapshot: Snapshot, journal: Optional[Journal]) -> Tuple[Dict[str, Any], ...]:
    """Every revision held: the live one, then the most recently verified. verified_at: when it last was, or ``None``."""
    last = {verified.revision: verified.at for verified in (journal.history if journal else ())}
    rows = []
    for name in snapshot.revisions:
        meta = snapshot.meta_of(name)
        rows.append(
            {
                "revision": name,
                "live": name == snapshot.live,
                "verified_at": last.get(name),
                "created_at": meta.get("created_at"),
                "origin": meta.get("origin", "unknown"),
                "sources": {key: asdict(source) for key, source in sorted(parse_sources(meta).items())},
                "rolled_back": journal is not None and journal.find_left(name) is not None,
                "files": sorted(snapshot.files_of(name)),
                # False for a live revision that no process has read yet.
                "loaded": not (name == snapshot.live and journal is not None and journal.state == WRITTEN),
            }
        )
    rows.sort(key=lambda row: (row["live"], row["verified_at"] or 0.0, row["created_at"] or 0.0), reverse=True)
    return tuple(rows)


def choose_pruned(snapshot: Snapshot, journal: Journal, keep: int) -> Tuple[str, ...]:
    """The revisions to remove so that ``keep`` stay: never the live one, nor the one a roll back goes to."""
    needed = {snapshot.live, journal.old, journal.new}
    rows = list_history(snapshot, journal)
    spare = max(0, keep - len([row for row in rows if row["revision"] in needed]))
    others = [str(row["revision"]) for row in rows if row["revision"] not in needed]
    return tuple(others[spare:])
