# SPDX-License-Identifier: GPL-3.0-or-later
"""The one error type of this collection: what failed, where, why, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Tuple


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, in words that an operator can act on.

    what: the action that failed or the fact that is wrong ("serve heavy cannot start").
    where: the path of the key, the serve, the container or the file.
    why: the cause as far as it is known, with the message of the other program.
    hint: what to do, as a command to type where there is one.
    log: the last lines of the container's log, if there is one.
    """

    what: str
    where: str = ""
    why: str = ""
    hint: str = ""
    log: Tuple[str, ...] = ()

    def as_text(self) -> str:
        head = "{0}: {1}".format(self.where, self.what) if self.where else self.what
        lines = [head]
        if self.why:
            lines.append("    why:  " + self.why.replace("\n", "\n          "))
        if self.hint:
            lines.append("    do:   " + self.hint.replace("\n", "\n          "))
        if self.log:
            lines.append("    log:")
            lines.extend("      | " + line for line in self.log)
        return "\n".join(lines)

    def as_dict(self) -> Dict[str, Any]:
        return {"what": self.what, "where": self.where, "why": self.why, "hint": self.hint, "log": list(self.log)}


class AnvilError(Exception):
    """A failure that is reported to the operator: all problems of one stage at once, never only the first."""

    def __init__(self, *problems: Problem) -> None:
        if not problems:
            raise ValueError("an AnvilError needs at least one problem")
        self.problems: Tuple[Problem, ...] = problems
        super().__init__(self.as_text())

    def as_text(self) -> str:
        return "\n".join(problem.as_text() for problem in self.problems)


def fail(what: str, where: str = "", why: str = "", hint: str = "", log: Iterable[str] = ()) -> AnvilError:
    """Build the error of a single problem: ``raise fail("...", where=..., why=..., hint=...)``."""
    return AnvilError(Problem(what=what, where=where, why=why, hint=hint, log=tuple(log)))


def problems_as_dicts(problems: Iterable[Problem]) -> List[Dict[str, Any]]:
    return [problem.as_dict() for problem in problems]
