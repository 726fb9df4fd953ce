# SPDX-License-Identifier: GPL-3.0-or-later
"""Check ``anvil_clients``: who may use the router and the published serves of a host, with which keys and within which limits."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.plan.edge_plan import ClientPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import RouterPlan, ServePlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_secrets import InventorySecrets
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    NAME,
    NAME_RULE,
    UNREAD,
    InventoryCheck,
    Section,
    suggest_name,
)

CLIENT_KEYS = ("keys", "tiers", "requests_per_minute", "concurrent_requests")
# While a key is exchanged, the old one and the new one are valid; more than a few are forgotten keys.
KEY_LIMIT = 4
ALL, SOME = "all", "some"
ROUTER_FRONT = "router"
# A client that the inventory does not name: whoever holds a secret that a serve or the router has.
HOLDER = "secret:"


def name_front(serve: str) -> str:
    """The front end of a serve."""
    return "serve-" + serve


def has_clients(value: Any) -> bool:
    """Whether ``anvil_clients`` names any."""
    return value is UNREAD or bool(value)


def read_clients(
    check: InventoryCheck, value: Any, secrets: InventorySecrets, router: Optional[RouterPlan], serves: Sequence[ServePlan]
) -> Tuple[ClientPlan, ...]:
    """The named clients. serves: those that are published beyond loopback."""
    example = "anvil_clients: {alice: {keys: [alice_key], tiers: [chat]}}"
    section = check.read_mapping(("anvil_clients",), value, example)
    found: List[ClientPlan] = []
    owners: Dict[str, str] = {}
    for name, path, raw in section.read_entries(NAME, NAME_RULE) if section else ():
        inner = check.read_mapping(path, {} if raw is None else raw, example)
        if inner is None:
            continue
        inner.check_keys(CLIENT_KEYS)
        keys = _read_keys(inner, name, secrets)
        for key in keys:
            if owners.setdefault(key, name) != name:
                what = "secret {0} is also the key of {1}".format(key, owners[key])
                inner.add_problem("keys", what, "give each client keys of its own")
        tiers = _read_tiers(inner, router, serves)
        access, models = decide_access(tiers, router, serves)
        found.append(
            ClientPlan(
                name=name,
                keys=keys,
                requests_per_minute=inner.read_integer("requests_per_minute", 1, 1000000) or 0,
                concurrent_requests=inner.read_integer("concurrent_requests", 1, 10000) or 0,
                access=access,
                models=models,
            )
        )
    return tuple(found)


def _read_keys(section: Section, name: str, secrets: InventorySecrets) -> Tuple[str, ...]:
    example = "keys: [{0}_key]".format(name.replace("-", "_"))
    if not section.has("keys") and section.raw.get("keys") is not UNREAD:
        section.add_problem(
            "keys", "client {0} has no key".format(name), "set it to a list of names in anvil_secrets: " + example
        )
    listed = section.check.read_list(section.path_of("keys"), section.raw.get("keys"), example)
    if listed is not None and not 1 <= len(listed) <= KEY_LIMIT:
        rule = "list 1 to {0} names of anvil_secrets".format(KEY_LIMIT)
        section.add_problem("keys", "client {0} has {1} keys".format(name, len(listed)), rule)
    found = [secrets.read_secret_name(path, value) for path, value in listed or ()]
    return tuple(dict.fromkeys(key for key in found if key))


def _read_tiers(section: Section, router: Optional[RouterPlan], serves: Sequence[ServePlan]) -> Optional[Tuple[str, ...]]:
    """The tiers and published serves that the client may use; None: all."""
    if not section.has("tiers"):
        return None
    known = [tier.id for tier in _list_tiers(router)] + [serve.name for serve in serves]
    # A tier or a serve that is missing because of a mistake is told where the mistake is.
    complete = not any(problem.where.startswith(("anvil_router", "anvil_serves")) for problem in section.check.problems)
    found = []
    for path, value in section.check.read_list(section.path_of("tiers"), section.raw["tiers"], "tiers: [chat]") or ():
        word = section.check.match_text(path, value, NAME, NAME_RULE)
        if word and word not in known and complete:
            what = "{0} is neither a tier of the router nor a serve that is published beyond loopback".format(word)
            section.check.add_problem(path, what, suggest_name(word, known))
        elif word:
            found.append(word)
    return tuple(dict.fromkeys(found))


def _list_tiers(router: Optional[RouterPlan]) -> Tuple[Any, ...]:
    return (*router.tiers, *router.purposes, *router.audio) if router else ()


def decide_access(
    tiers: Optional[Sequence[str]], router: Optional[RouterPlan], serves: Sequence[ServePlan]
) -> Tuple[Dict[str, str], Tuple[str, ...]]:
    """Which front ends a client with these tiers may use, and with which names of models at the router."""
    if tiers is None:
        return {**({ROUTER_FRONT: ALL} if router else {}), **{name_front(serve.name): ALL for serve in serves}}, ()
    allowed = [tier for tier in _list_tiers(router) if tier.id in tiers]
    names = {*tiers, *(tier.serve for tier in allowed)}
    access = {name_front(serve.name): ALL for serve in serves if serve.name in names}
    if not router or not allowed:
        return access, ()
    models = {tier.id for tier in allowed if tier in router.tiers} | {tier.model for tier in allowed if tier not in router.tiers}
    ids = {tier.id for tier in allowed}
    models.update(name for name, tier in router.routes.items() if tier in ids)
    models.update(_list_presets(router.presets, ids) if router.generation == "profile" else ())
    return {ROUTER_FRONT: SOME, **access}, tuple(sorted(models))


def _list_presets(presets: Mapping[str, Sequence[str]], ids: Any) -> List[str]:
    return [name for name, tiers in presets.items() if tiers and set(tiers) <= set(ids)]


def add_holders(
    clients: Sequence[ClientPlan], router: Optional[RouterPlan], serves: Sequence[ServePlan]
) -> Tuple[ClientPlan, ...]:
    """The named clients, and the holders of secrets that open a front end although no client has that name.

    Without named clients, the token opens the router, and the key of a serve opens that serve. With them, only the router uses
    the key of a serve: for audio, which it requests through the edge.
    """
    opened: Dict[str, Dict[str, str]] = {}
    if not clients and router and router.token:
        opened.setdefault(router.token, {})[ROUTER_FRONT] = ALL
    audio = {tier.serve for tier in router.audio} if router else set()
    for serve in serves:
        if serve.api_key and (not clients or serve.name in audio):
            opened.setdefault(serve.api_key, {})[name_front(serve.name)] = ALL
    holders = [ClientPlan(HOLDER + secret, (secret,), access=access) for secret, access in opened.items()]
    return (*clients, *holders)
