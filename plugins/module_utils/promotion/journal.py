# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal of a config volume: the last promotion, as data and as the bytes of ``.anvil/journal``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail

SWITCHING, GOING_BACK, WRITTEN, DONE = "switching", "going back", "written", "done"


@dataclass(frozen=True)
class VerifiedRevision:
    """A revision that was verified live. at: when, in seconds since the epoch by the Docker host's clock."""

    revision: str
    at: float


@dataclass(frozen=True)
class LeftRevision:
    """A revision that a roll back left: ``previous`` never goes back to it, and an inventory does not bring it back.

    at: when (seconds since the epoch). by: who rolled back; empty: it failed and was taken back, or was never loaded.
    """

    revision: str
    at: float
    by: str = ""


@dataclass(frozen=True)
class Journal:
    """The last promotion on the volume and what was live before it.

    state: ``switching`` and ``going back`` are in flight; ``written`` is live but not loaded by any container; ``done`` is
    verified. old, new: revisions, ``None`` for no file. at: when the first pointer moved, or was about to (Docker host's
    clock). owner: the process that promotes. moved: replica -> when its own pointer moved. signalled: replica -> start time
    of the process that was reloaded by a signal, without a restart. were_up: the replicas that ran when the promotion began;
    the next run starts one of them that is down since. were_unhealthy: those whose health check failed then. left: the
    revisions that were rolled back since they were last promoted.
    """

    state: str
    old: Optional[str]
    new: Optional[str]
    at: float
    owner: str = ""
    history: Tuple[VerifiedRevision, ...] = ()
    moved: Mapping[str, float] = field(default_factory=dict)
    signalled: Mapping[str, float] = field(default_factory=dict)
    were_up: Tuple[str, ...] = ()
    were_unhealthy: Tuple[str, ...] = ()
    left: Tuple[LeftRevision, ...] = ()

    def moved_at(self, replica: str) -> float:
        return self.moved.get(replica, self.at)

    @property
    def in_flight(self) -> bool:
        return self.state in (SWITCHING, GOING_BACK)

    def find_left(self, revision: Optional[str]) -> Optional[LeftRevision]:
        """How a revision was left by a roll back; ``None`` if it was not."""
        return next((each for each in self.left if each.revision == revision), None)

    def as_bytes(self) -> bytes:
        return json.dumps(
            {
                "schema": 1,
                "state": self.state,
                "old": self.old,
                "new": self.new,
                "at": self.at,
                "owner": self.owner,
                "history": [[verified.revision, verified.at] for verified in self.history],
                "moved": dict(self.moved),
                "told": dict(self.signalled),
                "ran": list(self.were_up),
                "unhealthy": list(self.were_unhealthy),
                "left": [[each.revision, each.at, each.by] for each in self.left],
            },
            indent=1,
        ).encode("utf-8")


def parse_journal(content: Optional[bytes], where: str, discard: bool = False) -> Optional[Journal]:
    """The journal as read from the volume; an unreadable one is an ``AnvilError``, never "nothing in flight".

    discard: the operator has decided that an unreadable one is as good as none.
    """
    if content is None:
        return None
    try:
        read = json.loads(content.decode("utf-8"))
        if read["schema"] != 1 or read["state"] not in (SWITCHING, GOING_BACK, WRITTEN, DONE):
            raise ValueError("schema {0}, state {1}".format(read["schema"], read["state"]))
        return Journal(
            state=read["state"],
            old=read["old"],
            new=read["new"],
            at=float(read["at"]),
            owner=str(read["owner"]),
            history=tuple(VerifiedRevision(str(revision), float(at)) for revision, at in read["history"]),
            moved={str(replica): float(at) for replica, at in read.get("moved", {}).items()},
            signalled={str(replica): float(at) for replica, at in read.get("told", {}).items()},
            were_up=tuple(str(replica) for replica in read.get("ran", ())),
            were_unhealthy=tuple(str(replica) for replica in read.get("unhealthy", ())),
            left=tuple(LeftRevision(str(revision), float(at), str(by)) for revision, at, by in read.get("left", ())),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        if discard:
            return None
        raise fail(
            "the promotion journal in the volume cannot be read",
            where=where,
            why="{0}: {1}".format(type(exc).__name__, exc),
            hint="ansible-playbook playbooks/history.yml shows which revision is live; ansible-playbook playbooks/rollback.yml "
            "-e revision=SHA -e discard_journal=true makes a revision live, and writes a new journal",
        ) from exc


def shorten_revision(revision: Optional[str]) -> str:
    """A revision as messages show it: 12 digits, or "no file"."""
    return "no file" if revision is None else revision[:12]
