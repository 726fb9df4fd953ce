# SPDX-License-Identifier: GPL-3.0-or-later
"""Decide which serves run: ``anvil_serves`` over ``anvil_discovered``, ``anvil_profile`` and ``anvil_deploy_mode``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import ENGINES
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import OFF
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import ServePlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_secrets import InventorySecrets
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    NAME,
    NAME_RULE,
    UNREAD,
    InventoryCheck,
    Section,
    describe_value,
    shorten,
    suggest_name,
)

DEPLOY_MODES: Mapping[str, Tuple[str, ...]] = {"chat": ("chat",), "tool": ("tool",), "both": ("chat", "tool")}
TEXT_KEY = "text_api_key"


def merge_serves(check: InventoryCheck, written: Any, discovered: Any) -> Any:
    """``anvil_serves`` over ``anvil_discovered``: for a serve in both, the keys of ``anvil_serves`` take precedence."""
    found = check.read_mapping(("anvil_discovered",), discovered, "the file that playbooks/discover.yml writes")
    if found is None or written is UNREAD or not (written is None or isinstance(written, Mapping)):
        return written
    merged: Dict[Any, Any] = dict(found.raw)
    for name, serve in (written or {}).items():
        below = merged.get(name)
        both = isinstance(below, Mapping) and isinstance(serve, Mapping)
        merged[name] = {**below, **serve} if both and below is not None else serve if serve is not None else below
    return merged


def read_deploy_mode(top: Section) -> str:
    return top.read_choice("anvil_deploy_mode", tuple(DEPLOY_MODES)) or ""


def list_deploy_flags(mode: str) -> Dict[str, str]:
    """``DEPLOY_CHAT`` and ``DEPLOY_TOOL``, which the start scripts of the stacks read; none without a deploy mode."""
    return {"DEPLOY_" + part.upper(): str(int(part in DEPLOY_MODES[mode])) for part in DEPLOY_MODES["both"]} if mode else {}


def find_text_key(mode: str, secrets: InventorySecrets) -> str:
    """In a deploy mode: the secret with the API key of serves that have a ``part`` and no ``api_key``. Else empty."""
    return TEXT_KEY if mode and TEXT_KEY in (secrets.names or ()) else ""


def _check_deploy_mode(check: InventoryCheck, mode: str, serves: Sequence[ServePlan], secrets: InventorySecrets) -> None:
    for part in DEPLOY_MODES[mode]:
        mine = [serve for serve in serves if serve.part == part]
        if not mine:
            check.add_problem(
                ("anvil_deploy_mode",),
                "deploy mode {0} has no {1} model".format(mode, part),
                "set part: {0} in one serve, or choose another mode ({1})".format(part, ", ".join(DEPLOY_MODES)),
            )
        for serve in mine:
            if serve.engine and not serve.api_key and not ENGINES[serve.engine].key_env:
                check.add_note(
                    ("anvil_serves", serve.name),
                    "{0} takes no API key: the serve stays on loopback, and clients reach it through the router".format(
                        serve.engine
                    ),
                )
            elif not serve.api_key and secrets.names is not None and serve.engine:
                check.add_problem(
                    ("anvil_serves", serve.name, "api_key"),
                    "the serve has a part and no API key",
                    "add {0} to anvil_secrets (the TEXT_API_KEY of the stacks), or set api_key: <name in anvil_secrets>".format(
                        TEXT_KEY
                    ),
                    "in a deploy mode every text endpoint needs a key",
                )


def _read_chosen_profile(top: Section, serves: Sequence[ServePlan]) -> Optional[List[str]]:
    """The names of the serves in the chosen profile; None: every serve runs."""
    check = top.check
    known = {word for serve in serves for word in (serve.name, *serve.tags)}
    profiles: Dict[str, List[str]] = {}
    section = check.read_mapping(("anvil_profiles",), top.raw.get("anvil_profiles"), "anvil_profiles: {fast-only: [fast]}")
    for name, path, value in section.read_entries(NAME, NAME_RULE) if section else ():
        profiles[name] = []
        for at, word in check.read_list(path, value, "fast-only: [fast]") or ():
            if not isinstance(word, str):
                check.add_problem(
                    at,
                    "must be the name of a serve or a tag, not {0}".format(describe_value(word)),
                    "for example: fast-only: [fast]",
                )
            elif word not in known:
                check.add_problem(at, "no serve or tag is named {0!r}".format(shorten(word)), suggest_name(word, sorted(known)))
            else:
                profiles[name].append(str(word))
    unread = UNREAD in (top.raw.get("anvil_profiles"), top.raw.get("anvil_profile"))
    chosen = top.read_text("anvil_profile", "the name of a profile", NAME)
    if chosen is None or unread:
        return None
    if chosen not in profiles:
        check.add_problem(
            ("anvil_profile",), "unknown profile {0!r}".format(chosen), suggest_name(chosen, profiles, "add it to anvil_profiles")
        )
        return None
    words = set(profiles[chosen])
    return [serve.name for serve in serves if words.intersection((serve.name, *serve.tags))]


def select_serves(
    check: InventoryCheck, top: Section, mode: str, serves: Sequence[ServePlan], secrets: InventorySecrets
) -> List[ServePlan]:
    """All serves; those that the profile or the deploy mode excludes get residency ``off``."""
    if mode:
        _check_deploy_mode(check, mode, serves, secrets)
    listed = _read_chosen_profile(top, serves)
    reasons: Dict[str, str] = {}
    for serve in serves:
        if mode and serve.part and serve.part not in DEPLOY_MODES[mode]:
            reasons[serve.name] = "anvil_deploy_mode is {0}".format(mode)
        elif listed is not None and serve.name not in listed:
            reasons[serve.name] = "profile {0} does not list it".format(top.raw.get("anvil_profile"))
    for name, why in reasons.items():
        check.add_note(("anvil_serves", name), "this serve does not run: " + why)
    return [replace(serve, residency=OFF) if serve.name in reasons else serve for serve in serves]
