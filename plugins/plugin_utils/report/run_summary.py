# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of a run: for each host what changed and what failed, and the command to type next. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.anvil.serving.plugins.plugin_utils.report.typed_command import ELISION, TypedCommand

GOOD, CHANGED, FAILED, UNREACHABLE = "good", "changed", "failed", "unreachable"
MOST_SUBJECTS = 8
# So many hosts with the same outcome have a line each.
MOST_HOSTS = 10
LONGEST_REASON = 100


@dataclass
class HostRecord:
    """The outcome of one host. changes: the names of what changed. reason: the first line of what failed last.

    stopped: the run ended for it because another host failed. silent: it was unreachable, and that was ignored.
    """

    changes: list[str] = field(default_factory=list)
    reason: str = ""
    warned: list[str] = field(default_factory=list)
    failed: bool = False
    unreachable: bool = False
    stopped: bool = False
    silent: bool = False
    rescued: int = 0
    ignored: int = 0
    next: list[str] = field(default_factory=list, compare=False)
    lines: list[str] = field(default_factory=list, compare=False)
    failures: list[str] = field(default_factory=list, compare=False)
    messages: list[Any] = field(default_factory=list, compare=False)
    answers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, compare=False)
    endpoint: str = field(default="", compare=False)
    reach: str | None = field(default=None, compare=False)
    token_file: str = field(default="", compare=False)

    @property
    def outcome(self) -> str:
        if self.unreachable:
            return UNREACHABLE
        if self.failed:
            return FAILED
        return CHANGED if self.changes else GOOD

    @property
    def is_calm(self) -> bool:
        """Whether there is nothing to report."""
        return self == HostRecord()


def settle_records(
    records: dict[str, HostRecord],
    counts: Mapping[str, Mapping[str, int]],
    unreachable: Collection[tuple[str, bool]],
    fatal: Sequence[tuple[str, Collection[str]]],
) -> bool:
    """Complete the records at the end of a run; whether it ended before every host had its turn.

    counts: Ansible's own, by host. unreachable: a host, and whether that was ignored. fatal: a host that failed for all of these.
    """
    for host, count in counts.items():
        record = records.setdefault(host, HostRecord())
        record.failed, record.unreachable = count["failures"] > 0, count["unreachable"] > 0
        record.silent = (host, True) in unreachable and not record.unreachable
        record.rescued, record.ignored = count["rescued"], 0 if record.silent else count["ignored"]
        if not record.failed:
            record.reason = ""
    broken_off = False
    for host, stopped in fatal:
        if records[host].failed or records[host].unreachable:
            broken_off = True
            for other in set(stopped) & set(counts):
                records[other].stopped = not (records[other].failed or records[other].unreachable)
    return broken_off


def count_of(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def list_subjects(subjects: Sequence[str]) -> str:
    names = list(dict.fromkeys(subjects))
    more = len(names) - MOST_SUBJECTS
    return ", ".join(names) if more <= 1 else ", ".join(names[:MOST_SUBJECTS]) + f" and {more} more"


def summarise_host(record: HostRecord, check: bool) -> str:
    """``changed heavy, fast; 1 warning``."""
    reason = record.reason if len(record.reason) <= LONGEST_REASON else record.reason[: LONGEST_REASON - 3] + "..."
    changed = f"{'would change' if check else 'changed'} {list_subjects(record.changes)}" if record.changes else ""
    if record.unreachable:
        parts = ["unreachable", changed]
    elif record.failed:
        parts = [f"failed: {reason}", f"before that {changed}" if changed else ""]
    elif record.silent:
        parts = ["unreachable, ignored", changed]
    elif record.stopped:
        parts = ["stopped, because another host failed", changed]
    else:
        parts = [changed or ("nothing would change" if check else "nothing to do")]
    parts += [f"{count_of(record.ignored, 'failure')} ignored"] if record.ignored else []
    parts += [f"{count_of(record.rescued, 'failure')} rescued"] if record.rescued else []
    parts += [count_of(len(record.warned), "warning")] if record.warned else []
    return "; ".join(part for part in parts if part)


def summarise_hosts(records: Mapping[str, HostRecord], check: bool) -> list[tuple[str, str, str]]:
    """Rows of the summary: host, text, outcome.

    More than ``MOST_HOSTS`` hosts with the same text have one row, and hosts that failed are named one by one, at the end.
    """
    rows = [(host, summarise_host(record, check), record.outcome) for host, record in records.items()]
    shared = Counter((text, outcome) for _host, text, outcome in rows if outcome not in (FAILED, UNREACHABLE))
    grouped = {key: number for key, number in shared.items() if number > MOST_HOSTS}
    if not grouped:
        return rows
    single = [row for row in rows if row[1:] not in grouped]
    single.sort(key=lambda row: row[2] in (FAILED, UNREACHABLE))
    return [*((f"{number} hosts", *key) for key, number in grouped.items()), *single]


def next_steps(command: TypedCommand | None, records: Mapping[str, HostRecord], check: bool, broken_off: bool) -> list[str]:
    """The lines that say what to type next. broken_off: the run ended before every host had its turn."""
    given = list(dict.fromkeys(line for record in records.values() for line in record.next))
    if command is None:
        return []
    failed = [host for host, record in records.items() if record.failed or record.unreachable]
    if failed:
        whole = broken_off or len(failed) == len(records) or any(record.stopped for record in records.values())
        return _as_lines("To try again:", command if whole else command.limited_to(failed))
    if check:
        changes = any(record.changes for record in records.values())
        return _as_lines("To do it:", command.for_real()) if changes else []
    if given:
        return ["Next:", *("  " + line for line in given)]
    status = command.status()
    return _as_lines("To see what runs:", status) if status else []


def _as_lines(purpose: str, command: TypedCommand) -> list[str]:
    text = command.as_text()
    note = [f"  ({ELISION} stands for a value that you typed; it may be secret, and is not shown)"] if ELISION in text else []
    return [purpose, "  " + text, *note]
