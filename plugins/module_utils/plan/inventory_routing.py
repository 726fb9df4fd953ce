# SPDX-License-Identifier: GPL-3.0-or-later
"""Check how ``anvil_router`` chooses a tier: ``generation``, ``routes``, ``presets`` and the measured ``profile``."""

from __future__ import annotations

import datetime
import math
import re
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.router_versions import (
    SUPPORTED,
    generation_of,
    is_supported,
    version_of_image,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import ProfileEntry, TierPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_purposes import explain_other
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    UNREAD,
    InventoryCheck,
    Path,
    Section,
    describe_value,
    format_path,
    shorten,
    suggest_name,
)

GENERATIONS = ("profile", "gateway")
DECISIONS = ("allow", "allow-with-verify", "deny")
# The vocabulary of the profile router (anvil-serving 0.12 to 0.13.2).
PRESETS = ("planning", "quick-edit", "review", "chat", "chat-fast", "long-context")
OTHER_PRESETS = ("ocr", "vision")
WORK_CLASSES = (
    "chat",
    "chat-fast",
    "bounded-edit",
    "multi-file-refactor",
    "planning",
    "review",
    "long-context",
    "ocr",
    "vision",
)
PROFILE_KEYS = ("tier", "work_class", "decision", "quality_score", "sample_n", "last_measured", "fingerprint")
ROUTE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}")


def read_generation(section: Section, image: str) -> str:
    """The generation of the router: the given one, else by the version in its image's tag; ``profile`` if that is no version."""
    given = section.read_choice("generation", GENERATIONS)
    version = version_of_image(image)
    if given or version is None:
        return given or "profile"
    if not is_supported(version):
        # A tag proves nothing: the image itself says its version before anything is promoted (router/candidate_checks).
        section.add_note(
            "image",
            "anvil-serving {0}.{1} is not supported, and is refused when it is deployed: use {2}. "
            "If the tag is not the version of the router, set generation".format(*version, SUPPORTED),
        )
    return generation_of(version)


def _add_unknown_tier(check: InventoryCheck, path: Path, tier: str, ids: Sequence[str], others: Mapping[str, str]) -> None:
    other = explain_other(shorten(tier), others)
    check.add_problem(
        path, other or "unknown tier {0!r}".format(shorten(tier)), "remove it here" if other else suggest_name(tier, ids)
    )


def read_routes(section: Section, generation: str, ids: Optional[Sequence[str]], others: Mapping[str, str]) -> Dict[str, str]:
    """The model names that a gateway router accepts -> tier: the id of every tier, and the names in ``routes``."""
    check, example = section.check, "routes: {llm.primary: heavy}"
    foreign = {"profile": ("routes",), "gateway": ("presets", "profile")}[generation]
    for key in foreign:
        if section.has(key) and section.raw[key] not in ({}, []):
            does = "routes each name to one tier" if generation == "gateway" else "chooses tiers by presets and a profile"
            hint = "use {0}, or set generation if the tag of the image is not the version of the router".format(
                example if generation == "gateway" else "presets: {chat: [fast, heavy]}"
            )
            check.add_problem(section.path_of(key), "a {0} router has no {1}: it {2}".format(generation, key, does), hint)
    if generation != "gateway":
        return {}
    found = {tier: tier for tier in ids or ()}
    inner = check.read_mapping(section.path_of("routes"), section.raw.get("routes"), example)
    for name, tier in inner.raw.items() if inner else ():
        path = (*section.path_of("routes"), str(name))
        if not isinstance(tier, str):
            check.add_problem(path, "must be the id of a tier, not {0}".format(describe_value(tier)), "for example: " + example)
        elif ids is not None and tier not in ids:
            _add_unknown_tier(check, path, tier, ids, others)
        elif str(name).strip().lower() in {known.lower() for known in found}:
            check.add_problem(
                path, "the route {0} exists already".format(shorten(str(name))), "remove it: every tier has a route of its own id"
            )
        elif not ROUTE.fullmatch(str(name)):
            check.add_problem(
                path,
                "{0!r} is not a valid name for a route".format(shorten(str(name))),
                "use letters, digits and . _ : / -, starting with a letter or a digit",
            )
        else:
            found[str(name)] = str(tier)
    return found


def read_presets(section: Section, ids: Optional[Sequence[str]], others: Mapping[str, str]) -> Dict[str, Tuple[str, ...]]:
    check = section.check
    found: Dict[str, Tuple[str, ...]] = {preset: tuple(ids or ()) for preset in PRESETS}
    example = "presets: {chat: [fast, heavy]}"
    inner = check.read_mapping(section.path_of("presets"), section.raw.get("presets"), example)
    for name, value in inner.raw.items() if inner else ():
        path = (*section.path_of("presets"), str(name))
        if name not in PRESETS + OTHER_PRESETS:
            check.add_problem(
                path, "unknown preset {0!r}".format(shorten(str(name))), suggest_name(str(name), PRESETS + OTHER_PRESETS)
            )
            continue
        chosen: List[str] = []
        listed = check.read_list(path, value, example)
        for at, tier in listed or ():
            if not isinstance(tier, str):
                check.add_problem(at, "must be the id of a tier, not {0}".format(describe_value(tier)), "for example: " + example)
            elif ids is not None and tier not in ids:
                _add_unknown_tier(check, at, tier, ids, others)
            elif tier in chosen:
                check.add_problem(
                    at, "tier {0} is listed twice".format(shorten(tier)), "list each tier once, the preferred one first"
                )
            else:
                chosen.append(str(tier))
        if listed == [] and value == []:
            check.add_problem(path, "the preset has no tier", "list at least one, or remove the preset: then all tiers serve it")
        if chosen:
            found[str(name)] = tuple(chosen)
    return found


def drop_stopped_tiers(
    presets: Mapping[str, Tuple[str, ...]], tiers: Sequence[TierPlan], running: Sequence[TierPlan]
) -> Dict[str, Tuple[str, ...]]:
    """The presets without the tiers that do not run. A preset that has no tier left gets all running tiers."""
    stopped = {tier.id for tier in tiers} - {tier.id for tier in running}
    all_running = tuple(tier.id for tier in running)
    return {name: tuple(tier for tier in chosen if tier not in stopped) or all_running for name, chosen in presets.items()}


def _read_timestamp(section: Section, key: str) -> Optional[str]:
    value = section.raw.get(key)
    if isinstance(value, datetime.datetime):  # YAML reads an unquoted time as one
        if value.tzinfo is not None:
            value = value.astimezone(datetime.timezone.utc).replace(tzinfo=None)
        return value.replace(microsecond=0).isoformat() + "Z"
    if isinstance(value, datetime.date):
        return "{0}T00:00:00Z".format(value.isoformat())
    timestamp = re.compile(
        r"[0-9]{4}-[01][0-9]-[0-3][0-9](T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]+)?(Z|[+-][0-2][0-9]:[0-5][0-9]))?"
    )
    return section.read_text(key, "a time such as 2026-07-04T00:00:00Z", timestamp)


def _read_score(section: Section) -> float:
    value, rule = section.raw.get("quality_score"), "use a number from 0 to 1"
    if value is UNREAD:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        section.add_problem("quality_score", "must be a number, not {0}".format(describe_value(value)), rule)
    elif math.isnan(value) or not 0 <= value <= 1:
        section.add_problem("quality_score", "{0} is out of range".format(shorten(str(value))), rule)
    else:
        return float(value)
    return 0.0


def read_profile(section: Section, ids: Optional[Sequence[str]], others: Mapping[str, str]) -> Tuple[ProfileEntry, ...]:
    check, example = section.check, "profile: [{tier: heavy, work_class: planning, decision: allow, quality_score: 0.9}]"
    rows: List[ProfileEntry] = []
    seen: Dict[Tuple[str, str], Path] = {}
    for path, value in check.read_list(section.path_of("profile"), section.raw.get("profile"), example) or ():
        row = check.read_mapping(path, {} if value is None else value, example)
        if row is None:
            continue
        row.check_keys(PROFILE_KEYS)
        for key in ("tier", "work_class", "decision", "quality_score"):
            if not row.has(key) and key != "quality_score":
                check.add_problem(row.path_of(key), "the row has no {0}".format(key), "for example: " + example)
        tier = row.read_text("tier", "the id of a tier")
        work_class, decision = row.read_choice("work_class", WORK_CLASSES), row.read_choice("decision", DECISIONS)
        if tier and ids is not None and tier not in ids:
            _add_unknown_tier(check, row.path_of("tier"), tier, ids, others)
        if tier and work_class:
            first = seen.setdefault((tier, work_class), path)
            if first != path:
                what = "{0} already rates tier {1} for work class {2}".format(format_path(first), shorten(tier), work_class)
                check.add_problem(path, what, "keep one row for each tier and work class")
        rows.append(
            ProfileEntry(
                tier_id=tier or "",
                work_class=work_class or "",
                decision=decision or "",
                quality_score=_read_score(row),
                sample_n=row.read_integer("sample_n", 0, 10**9) or 0,
                last_measured=_read_timestamp(row, "last_measured"),
                fingerprint=row.read_text("fingerprint", "text"),
            )
        )
    return tuple(rows)
