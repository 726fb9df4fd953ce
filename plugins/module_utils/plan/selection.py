# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of the described serves run: what a scan found beside what is written, profiles, and the deploy mode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import ENGINES
from ansible_collections.anvil.serving.plugins.module_utils.docker.service import HOST_GATEWAY, OFF
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import ExternalPlan, ServePlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    CONTAINER,
    NAME,
    NAME_RULE,
    NO_SPACE,
    UNREAD,
    Check,
    Node,
    describe,
    shorten,
    suggest,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.secrets import Secrets

DEPLOY_MODES: Mapping[str, Tuple[str, ...]] = {"chat": ("chat",), "tool": ("tool",), "both": ("chat", "tool")}
TEXT_KEY = "text_api_key"
EXTERNAL_KEYS = ("port", "served_name", "api_key", "host")


def merge_serves(check: Check, written: Any, discovered: Any) -> Any:
    """``anvil_serves`` over ``anvil_discovered``: a serve in both is the found one with the written keys on top."""
    found = check.mapping(("anvil_discovered",), discovered, "playbooks/discover.yml writes it")
    if found is None or written is UNREAD or not (written is None or isinstance(written, Mapping)):
        return written
    merged: Dict[Any, Any] = dict(found.raw)
    for name, serve in (written or {}).items():
        below = merged.get(name)
        both = isinstance(below, Mapping) and isinstance(serve, Mapping)
        merged[name] = {**below, **serve} if both and below is not None else serve if serve is not None else below
    return merged


def read_deploy_mode(top: Node) -> str:
    return top.word("anvil_deploy_mode", tuple(DEPLOY_MODES)) or ""


def text_key(mode: str, secrets: Secrets) -> str:
    """The secret that serves with a part present where they name none, in a deploy mode."""
    return TEXT_KEY if mode and TEXT_KEY in (secrets.names or ()) else ""


def _check_mode(check: Check, mode: str, serves: Sequence[ServePlan], secrets: Secrets) -> None:
    for part in DEPLOY_MODES[mode]:
        mine = [serve for serve in serves if serve.part == part]
        if not mine:
            check.wrong(
                ("anvil_deploy_mode",),
                "deploy mode {0} has no {1} model".format(mode, part),
                "say part: {0} of the serve that is it, or choose another mode ({1})".format(part, ", ".join(DEPLOY_MODES)),
            )
        for serve in mine:
            if serve.engine and not ENGINES[serve.engine].key_env:
                check.note(
                    ("anvil_serves", serve.name),
                    "{0} takes no key: it stays on loopback, and clients reach it through the router".format(serve.engine),
                )
            elif not serve.api_key and secrets.names is not None and serve.engine:
                check.wrong(
                    ("anvil_serves", serve.name, "api_key"),
                    "it answers text and has no key",
                    "put {0} into anvil_secrets (TEXT_API_KEY of the stacks), or name another secret with api_key".format(
                        TEXT_KEY
                    ),
                    "in a deploy mode every text endpoint needs one",
                )


def _read_profile(top: Node, serves: Sequence[ServePlan]) -> Optional[List[str]]:
    """The names of the serves in the chosen profile; None: every serve runs."""
    check = top.check
    known = {word for serve in serves for word in (serve.name, *serve.tags)}
    profiles: Dict[str, List[str]] = {}
    node = check.mapping(("anvil_profiles",), top.raw.get("anvil_profiles"), "anvil_profiles: {fast-only: [fast]}")
    for name, path, value in node.entries(NAME, NAME_RULE) if node else ():
        profiles[name] = []
        for at, word in check.items(path, value, "fast-only: [fast]") or ():
            if not isinstance(word, str):
                check.wrong(at, "a serve or a tag is wanted, not {0}".format(describe(word)), "fast-only: [fast]")
            elif word not in known:
                check.wrong(at, "no serve and no tag is named {0!r}".format(shorten(word)), suggest(word, sorted(known)))
            else:
                profiles[name].append(str(word))
    unread = UNREAD in (top.raw.get("anvil_profiles"), top.raw.get("anvil_profile"))
    chosen = top.text("anvil_profile", "the name of a profile", NAME)
    if chosen is None or unread:
        return None
    if chosen not in profiles:
        check.wrong(
            ("anvil_profile",), "unknown profile {0!r}".format(chosen), suggest(chosen, profiles, "add it to anvil_profiles")
        )
        return None
    words = set(profiles[chosen])
    return [serve.name for serve in serves if words.intersection((serve.name, *serve.tags))]


def choose_serves(check: Check, top: Node, mode: str, serves: Sequence[ServePlan], secrets: Secrets) -> List[ServePlan]:
    """The serves with those that do not run marked ``off``; what is wrong with profile and mode is told."""
    if mode:
        _check_mode(check, mode, serves, secrets)
    listed = _read_profile(top, serves)
    reasons: Dict[str, str] = {}
    for serve in serves:
        if mode and serve.part and serve.part not in DEPLOY_MODES[mode]:
            reasons[serve.name] = "anvil_deploy_mode is {0}".format(mode)
        elif listed is not None and serve.name not in listed:
            reasons[serve.name] = "profile {0} does not name it".format(top.raw.get("anvil_profile"))
    for name, why in reasons.items():
        check.note(("anvil_serves", name), "does not run: " + why)
    return [replace(serve, residency=OFF) if serve.name in reasons else serve for serve in serves]


def read_externals(check: Check, value: Any, names: Sequence[str], secrets: Secrets) -> Tuple[ExternalPlan, ...]:
    """``anvil_external``: servers that somebody else runs, on the host or elsewhere."""
    example = "anvil_external: {mac: {port: 8081}}"
    node = check.mapping(("anvil_external",), value, example)
    found = []
    for name, path, raw in node.entries(NAME, NAME_RULE) if node else ():
        inner = check.mapping(path, {} if raw is None else raw, example)
        if inner is None:
            continue
        inner.known(EXTERNAL_KEYS)
        port = inner.whole("port", 1, 65535)
        if not inner.has("port"):
            check.wrong(inner.at("port"), "external serve {0} has no port".format(name), "the port it listens on: 8081")
        if name in names:
            check.wrong(path, "{0} is also the name of a serve".format(name), "choose another name")
            continue
        host = inner.text("host", "a host name or address: " + HOST_GATEWAY, CONTAINER) or HOST_GATEWAY
        found.append(
            ExternalPlan(
                name=name,
                container=host,
                port=port or 0,
                served_name=inner.text("served_name", "one word: the name it serves", NO_SPACE) or name,
                api_key=secrets.name_at(inner.at("api_key"), inner.raw.get("api_key")),
            )
        )
        check.note(path, "is not managed: whoever started it stops, restarts and watches it; it is only asked")
    return tuple(found)
