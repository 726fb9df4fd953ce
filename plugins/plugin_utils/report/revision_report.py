# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run in waves left on every host: the revision before, the live one, and the outcome of the host's turn. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.core.printable import make_printable

UNKNOWN, NO_FILE = "unknown", "no file"
UNTOUCHED, FAILED, LOST, NO_ROUTER = "untouched", "failed", "did not answer in its turn", "no router"
UNDONE, NOT_UNDONE = "rolled back", "not rolled back"
SHOWN_DIGITS = 12


@dataclass(frozen=True)
class HostTurn:
    """The outcome of one host. old, live: revisions by sha256, or a word. trouble: why the host counts as failed, or empty."""

    host: str
    old: str
    live: str
    outcome: str
    trouble: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def _name_revision(revision: Any) -> str:
    return str(revision) if revision else NO_FILE


def _has_run(result: Mapping[str, Any]) -> bool:
    return bool(result) and not result.get("skipped")


def _has_failed(result: Mapping[str, Any]) -> bool:
    return bool(result.get("failed") or result.get("unreachable"))


def describe_turn(
    host: str,
    verb: str,
    turn: Mapping[str, Any],
    failure: str,
    undone: Mapping[str, Any],
    look: Mapping[str, Any],
) -> HostTurn:
    """What one host runs now, and how it came to that.

    verb: the word for a turn that succeeded, such as ``promoted``. turn, undone: results of the task that changed the host, and
    of its roll back; empty if they did not run. failure: why the turn failed. look: the result of anvil_router_info, read last.
    """
    revisions = turn.get("revision") or {}
    succeeded = _has_run(turn) and not failure and not _has_failed(turn)
    unread = str(look.get("trouble") or look.get("msg") or "it gave no reason") if _has_run(look) and "router" not in look else ""
    if _has_run(look) and not unread:
        live = _name_revision(look["router"]["revision"])
    else:
        live = _name_revision(revisions.get("new")) if succeeded and revisions and not unread else UNKNOWN
    trouble = failure
    if turn.get("unreachable"):
        old, outcome = UNKNOWN, LOST
    elif failure:
        old, outcome = live, FAILED
    elif _has_run(undone):
        old = _name_revision(revisions.get("old"))
        outcome = NOT_UNDONE if _has_failed(undone) else UNDONE
        trouble = f"the host was {verb}, and could not be rolled back: {undone.get('msg')}" if _has_failed(undone) else ""
    elif succeeded:
        old = _name_revision(revisions["old"]) if revisions else live
        outcome = verb if turn.get("changed") else "unchanged"
    elif turn.get("skipped") or look.get("skipped"):
        old, live, outcome = "-", "-", NO_ROUTER
    else:
        old, outcome = live, UNTOUCHED
    if unread and not trouble:
        trouble = f"the live revision of the host is unknown ({outcome}): {unread}"
    if look.get("router", {}).get("in_flight"):
        outcome += f"; interrupted at {look['router']['in_flight']}, the next promotion finishes it or undoes it"
    return HostTurn(host, old, live, outcome, make_printable(trouble))


def lay_out_turns(turns: Sequence[HostTurn]) -> str:
    """A table with one line for each host."""
    cells = [("HOST", "BEFORE", "LIVE", "OUTCOME")]
    cells += [(turn.host, turn.old[:SHOWN_DIGITS], turn.live[:SHOWN_DIGITS], turn.outcome) for turn in turns]
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    return "\n".join(
        "  " + "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]) for row in cells
    )
