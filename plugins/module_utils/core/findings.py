# SPDX-License-Identifier: GPL-3.0-or-later
"""Findings: what a judgement of an input says, with one of three verdicts. Pure.

impossible: certain, with its proof. doubtful: very likely wrong, with the arithmetic. unknown: not understood, so not judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem

IMPOSSIBLE, DOUBTFUL, UNKNOWN = "impossible", "doubtful", "unknown"
# Mode -> the verdicts that stop a run; what it does not stop for is told as a warning.
REFUSED: Dict[str, Tuple[str, ...]] = {
    "enforce": (IMPOSSIBLE,),
    "strict": (IMPOSSIBLE, DOUBTFUL),
    "warn": (),
    "off": (),
}


@dataclass(frozen=True)
class Finding:
    """One statement about an input. problem: what, where, why (the proof or the arithmetic) and what to do."""

    verdict: str
    problem: Problem

    def as_text(self) -> str:
        """Lines for the operator; what is unknown is one line, without a verdict."""
        problem = self.problem
        if self.verdict == UNKNOWN:
            return "{0}: {1}{2}".format(problem.where, problem.what, " ({0})".format(problem.why) if problem.why else "")
        return "{0}: {1}".format(self.verdict, problem.as_text())

    def as_dict(self) -> Dict[str, Any]:
        return {"verdict": self.verdict, **self.problem.as_dict()}


def impossible(what: str, where: str, why: str = "", hint: str = "") -> Finding:
    return Finding(IMPOSSIBLE, Problem(what, where, why, hint))


def doubtful(what: str, where: str, why: str = "", hint: str = "") -> Finding:
    return Finding(DOUBTFUL, Problem(what, where, why, hint))


def unknown(what: str, where: str, why: str = "") -> Finding:
    return Finding(UNKNOWN, Problem(what, where, why))


def select_refused(findings: Iterable[Finding], mode: str) -> List[Problem]:
    """The problems of the findings that stop a run in this mode: ``enforce``, ``strict``, ``warn`` or ``off``."""
    return [finding.problem for finding in findings if finding.verdict in REFUSED[mode]]


def tell_others(findings: Iterable[Finding], mode: str) -> List[str]:
    """The findings that do not stop a run in this mode, as texts for the operator."""
    return [finding.as_text() for finding in findings if finding.verdict not in REFUSED[mode]]
