# SPDX-License-Identifier: GPL-3.0-or-later
"""The result of a promotion as the modules return it, with the diff of its files."""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict
from typing import Any, Dict, Optional

from ansible_collections.anvil.serving.plugins.module_utils.promotion.file_sources import KeptFile
from ansible_collections.anvil.serving.plugins.module_utils.promotion.journal import shorten_revision
from ansible_collections.anvil.serving.plugins.module_utils.promotion.result import PromotionResult
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import PRIVATE
from ansible_collections.anvil.serving.plugins.module_utils.router.candidate_checks import PROFILE_FILE


def format_for_diff(name: str, content: Optional[bytes], secret: str = "") -> str:
    """A file as the diff shows it: a profile as one sorted line per tier and work class, so that a changed route stands out.

    secret: stands for the content of a private file.
    """
    if name.startswith(PRIVATE):
        return secret + ", not shown: it holds secrets\n" if content is not None else ""
    text = (content or b"").decode("utf-8", "replace")
    if name != PROFILE_FILE or not text:
        return text
    try:
        profile = json.loads(text)
        lines = []
        for entry in profile["entries"]:
            keys = [key for key in sorted(entry) if key not in ("tier_id", "work_class", "decision")]
            rest = ", ".join("{0}={1}".format(key, json.dumps(entry[key])) for key in keys)
            lines.append("{0} / {1}: {2} ({3})".format(entry["tier_id"], entry["work_class"], entry["decision"], rest))
        head = ["{0}: {1}".format(key, json.dumps(profile[key])) for key in sorted(profile) if key != "entries"]
    except (ValueError, KeyError, TypeError):
        return text
    return "\n".join([*head, *sorted(lines)]) + "\n"


def has_entries(profile: bytes) -> bool:
    """Whether a profile holds measurements."""
    try:
        return bool(json.loads(profile.decode("utf-8"))["entries"])
    except (ValueError, KeyError, TypeError):
        return True


def describe_kept(kept: KeptFile, with_diff: bool) -> str:
    """``profile: promoted 2026-07-04 10:00 UTC by jo, kept``, and whether the inventory would have another one."""
    name = kept.name.partition(".")[0]
    live, wanted = (format_for_diff(kept.name, content) for content in (kept.live, kept.wanted))
    if kept.was_rolled_back:
        text = "{0}: the inventory's was {1}, and stays out; playbooks/promote.yml promotes it again".format(name, kept.reason)
    else:
        text = "{0}: {1}, kept".format(name, kept.reason)
        if kept.name == PROFILE_FILE and not has_entries(kept.wanted):
            return text
        text += "; the inventory has another one: playbooks/promote.yml -e {0}_from=inventory makes it live".format(name)
    if with_diff:
        lines = difflib.unified_diff(
            live.splitlines(), wanted.splitlines(), name + " (live)", name + " (inventory)", lineterm="", n=1
        )
        text += "\n" + "\n".join(lines)
    return text


def format_result(result: PromotionResult, with_diff: bool) -> Dict[str, Any]:
    """The return values. Files name only the variables of secrets, so a diff may show them; private ones it only names."""
    values: Dict[str, Any] = {
        "changed": result.changed,
        "revision": {"old": result.old, "new": result.new},
        "actions": list(result.actions),
        "reloaded": result.reloaded,
        "verified": None if result.proof is None else asdict(result.proof),
        "history": list(result.history),
        "warnings": list(result.warnings),
        "kept": [{"file": each.name, "text": describe_kept(each, with_diff)} for each in result.kept],
    }
    if with_diff:
        values["diff"] = [
            {
                "before_header": "{0} ({1})".format(name, shorten_revision(result.old)),
                "after_header": "{0} ({1})".format(name, shorten_revision(result.new)),
                "before": format_for_diff(name, result.before.get(name), "an earlier content"),
                "after": format_for_diff(name, result.after.get(name), "a new content"),
            }
            for name in sorted({*result.before, *result.after})
            if result.before.get(name) != result.after.get(name)
        ]
    return values
