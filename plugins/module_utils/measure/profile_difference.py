# SPDX-License-Identifier: GPL-3.0-or-later
"""What a measured profile says otherwise than the live one, per tier and work class; and what a profile remembers. Pure."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

# The key of a profile that says what ran behind each tier when it was measured. The router ignores it.
MEASURED = "measured"
LOCAL = "-local"
FIELDS = ("decision", "quality_score", "sample_n")


def parse_profile(text: str) -> Optional[Dict[str, Any]]:
    """A profile; None for a text that is none."""
    try:
        document = json.loads(text) if text else None
    except ValueError:
        return None
    return document if isinstance(document, dict) and isinstance(document.get("entries"), list) else None


def format_profile(profile: Mapping[str, Any], serves: Mapping[str, Any]) -> str:
    """The text of a profile that remembers what was measured. serves: tier -> ``MeasuredServe.as_dict``."""
    return json.dumps({**profile, MEASURED: dict(serves)}, indent=2, ensure_ascii=False) + "\n"


def fit_tiers(profile: Mapping[str, Any], tiers: Sequence[str]) -> Tuple[Dict[str, Any], List[str]]:
    """A profile of ``bootstrap`` with the tiers of this router, and the tiers whose rows are left out.

    The image's bootstrap knows the tiers ``cloud``, ``heavy-local`` and ``fast-local`` only: a router that has ``heavy`` instead
    of ``heavy-local`` gets its rows.
    """
    rows, left_out = [], []
    for row in profile["entries"]:
        tier = str(row.get("tier_id")) if isinstance(row, dict) else ""
        stem = tier[: -len(LOCAL)] if tier.endswith(LOCAL) else tier
        if tier in tiers or not tier:
            rows.append(row)
        elif stem in tiers:
            rows.append({**row, "tier_id": stem})
        elif tier not in left_out:
            left_out.append(tier)
    return {**profile, "entries": rows}, left_out


def list_rows(profile: Optional[Mapping[str, Any]]) -> Dict[Tuple[str, str], Mapping[str, Any]]:
    entries = (profile or {}).get("entries") or []
    return {(str(row.get("tier_id")), str(row.get("work_class"))): row for row in entries if isinstance(row, dict)}


def compare_profiles(live: Optional[Mapping[str, Any]], measured: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """A row for each tier and work class of either profile: ``change`` is added, removed, changed or none."""
    before, after = list_rows(live), list_rows(measured)
    rows = []
    for tier, work_class in sorted({*before, *after}):
        old, new = before.get((tier, work_class)), after.get((tier, work_class))
        pair = [None if row is None else {name: row.get(name) for name in FIELDS} for row in (old, new)]
        change = "added" if old is None else "removed" if new is None else "none" if pair[0] == pair[1] else "changed"
        rows.append({"tier": tier, "work_class": work_class, "change": change, "live": pair[0], "measured": pair[1]})
    return rows


def read_measured(profile: Optional[Mapping[str, Any]]) -> Dict[str, Mapping[str, Any]]:
    """Tier -> what ran when the profile was measured; empty for a profile that does not say."""
    found = (profile or {}).get(MEASURED)
    return {str(tier): one for tier, one in found.items() if isinstance(one, dict)} if isinstance(found, dict) else {}
