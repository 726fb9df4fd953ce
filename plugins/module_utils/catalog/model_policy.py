# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a policy allows a model to be fetched and served. Pure.

A policy is a list of exact origins: a repository at one commit, or one sha256. A branch can move, so it is not accepted.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")

# The module option for a policy.
ALLOWED_OPTION: Dict[str, Any] = {
    "type": "list",
    "elements": "dict",
    "options": {
        "repo": {"type": "str"},
        "revision": {"type": "str"},
        "sha256": {"type": "str"},
        "code": {"type": "bool", "default": False},
    },
    "required_together": [("repo", "revision")],
    "required_one_of": [("repo", "sha256")],
    "mutually_exclusive": [("repo", "sha256")],
}


@dataclass(frozen=True)
class Origin:
    """The origin of weights: ``repo`` of the hub at the commit ``revision``, or the ``sha256`` of their file or archive.

    code: of an entry of a policy, whether the Python code that comes with the weights may run. It makes no other origin.
    """

    repo: str = ""
    revision: str = ""
    sha256: str = ""
    code: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        if self.sha256:
            return "sha256 " + self.sha256
        return "{0} at {1}".format(self.repo, self.revision or "no revision")

    def as_dict(self) -> Dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value}


def read_allowed(entries: Optional[Sequence[Mapping[str, Any]]]) -> Optional[Tuple[Origin, ...]]:
    """The policy in a module's option or a plan. ``None`` allows every model, an empty list allows none."""
    if entries is None:
        return None
    return tuple(
        Origin(
            str(entry.get("repo") or ""),
            str(entry.get("revision") or ""),
            str(entry.get("sha256") or ""),
            entry.get("code") is True,
        )
        for entry in entries
    )


def judge_origin(where: str, origin: Optional[Origin], allowed: Optional[Sequence[Origin]]) -> Optional[Problem]:
    """Why weights may not be used; None if they may. origin: None where the origin is unknown."""
    if allowed is None or origin in allowed:
        return None
    hint = "add the exact repository and commit (or the sha256) to anvil_models_allowed, or choose a model that is in it"
    if origin is None or origin == Origin():
        return Problem("the origin of the weights is unknown, so they are not allowed", where, "", hint)
    commits = [entry.revision for entry in allowed if entry.repo and entry.repo == origin.repo]
    if commits:
        why = "{0} is allowed at {1}; this is {2}".format(origin.repo, " and ".join(commits), origin.revision or "no revision")
    else:
        why = "{0} is not in anvil_models_allowed".format(origin.repo or origin)
    return Problem("the model is not allowed", where, why, hint)
