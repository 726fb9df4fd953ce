# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads candidates with the loader of the router's own image, and reports what it found. It judges nothing.

One line of JSON in, one line of JSON out, until its input ends. In: ``config`` and ``profile`` (texts or null), with
``config_path`` and ``profile_path``. Out: the fields of ``candidate_checks.CandidateFacts``.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import re
import sys
from typing import Any, Callable, Dict, List, Sequence, Set, Tuple

Facts = Dict[str, Any]
# Values that loaders of both generations accept, to find out what else is wrong with a table: the one key that a loader stopped
# at gets such a value, and it is asked again.
SOUND: Dict[str, Sequence[Any]] = {
    "base_url": ["http://127.0.0.1:9/v1"],
    "model": ["m"],
    "dialect": ["openai"],
    "context_limit": [8192],
    "privacy": ["local"],
    "tool_support": [True],
    "auth_env": ["ANVIL_KEY"],
    "kind": ["embedding", "rerank"],
    "mapping_version": ["1"],
    "purpose": ["stt", "tts"],
}
MOST_ERRORS = 100


def attempt(facts: Facts, where: str, act: Callable[..., Any], *values: Any) -> Any:
    """The result of a call of the loader; None if it fails, with its message in ``errors``."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return act(*values)
    except (Exception, SystemExit) as exc:
        error = {"where": where, "why": "{0}: {1}".format(type(exc).__name__, exc)}
        if error not in facts["errors"]:
            facts["errors"].append(error)
    return None


def attempt_quietly(act: Callable[..., Any], *values: Any) -> None:
    """For facts that only sharpen the verification: their absence must not refuse a candidate."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            act(*values)
    except Exception as exc:
        sys.stderr.write("{0}: {1}\n".format(type(exc).__name__, exc))


def add_routes(facts: Facts, router: Any, store: Any) -> None:
    """A profile router's own decision for every name that a client may request, with every tier up."""
    from anvil_serving.router import intent, internal, policy

    for model in [*router.presets, *facts["tier_ids"]]:
        asked = internal.InternalRequest(model=model, messages=[], stream=False, dialect="route", raw={})
        decided = policy.route(intent.resolve(asked, router), router, store)
        facts["routes"].append([str(model), [str(tier) for tier in decided.tiers]])


def add_identity(facts: Facts, router: Any) -> None:
    """A gateway router's routes, and the hash that it will report of this config."""
    facts["routes"] = [[str(alias), [str(tier)]] for alias, tier in dict(router.model_routes).items()]
    from anvil_serving.router import model_metadata

    facts["config_sha256"] = model_metadata.build_router_status(router, started_at=0.0)["config_sha256"]


def load_document(load: Callable[[str], Any], path: str, document: Dict[str, Any]) -> str:
    """What a loader says about a parsed config, as if the file held it; empty if it accepts it."""
    reader: Any = importlib.import_module("tomllib")
    original = reader.load, reader.loads
    reader.load = reader.loads = lambda *_source, **_options: copy.deepcopy(document)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            load(path)
        return ""
    except (Exception, SystemExit) as exc:
        return "{0}: {1}".format(type(exc).__name__, exc)
    finally:
        reader.load, reader.loads = original


def words_of(said: str) -> Set[str]:
    return set(re.findall(r"\w+", said))


def repair(table: Dict[str, Any], said: str, ask: Callable[[Dict[str, Any]], str], spare: Sequence[str]) -> Dict[str, Any]:
    """The table with the one key changed that the loader stopped at; empty if no change of one key makes it say anything else.

    said: where it stopped. spare: keys that stay. A message about the changed key itself is no progress.
    """
    found: Dict[str, Any] = {}
    for key in [*table, *(name for name in SOUND if name not in table)]:
        for value in [*SOUND.get(key, ()), None]:
            changed = {**table, key: value}
            if value is None:
                del changed[key]
            if key in spare or changed == table:
                continue
            now = ask(changed)
            if not now:
                return changed
            if now != said and key not in words_of(now) and not found:
                found = changed
    return found


def repair_all(
    facts: Facts, table: Dict[str, Any], ask: Callable[[Dict[str, Any]], str], spare: Sequence[str] = ()
) -> Dict[str, Any]:
    """Note every error of a table: correct what the loader stopped at, and ask again. Returns what it accepts; else empty.

    A message without a new word is the rest of an earlier one: a list of unknown keys that became shorter.
    """
    heard: Set[str] = set()
    said = ask(table)
    while said:
        error = {"where": "config.toml", "why": said}
        if "unaddressable" not in said and error not in facts["errors"] and not words_of(said) <= heard:
            facts["errors"].append(error)
        heard |= words_of(said)
        table = repair(table, said, ask, spare)
        if not table or len(facts["errors"]) >= MOST_ERRORS:
            return {}
        said = ask(table)
    return table


def flatten(table: Dict[str, Any], start: str = "") -> Dict[str, Any]:
    """The values of nested tables by their dotted keys."""
    found: Dict[str, Any] = {}
    for key, value in table.items():
        found.update(flatten(value, start + key + ".") if isinstance(value, dict) else {start + key: value})
    return found


def add_further_errors(facts: Facts, loader: Any, path: str) -> None:
    """What the loader would say after its first error: about [server], each tier alone, each route alone, and the rest.

    Without the tiers that the file names, the mistakes of a profile would stay hidden too.
    """
    import tomllib

    with open(path, "rb") as stream:
        document = tomllib.load(stream)
    server = document.get("server")
    if isinstance(server, dict):
        sound = repair_all(facts, server, lambda each: load_document(loader.load_server_config, path, {"server": each}))
        document = {**document, "server": sound}
    router = document.get("router")
    tiers = router.get("tiers") if isinstance(router, dict) else None
    if not isinstance(router, dict) or not isinstance(tiers, list) or not all(isinstance(each, dict) for each in tiers):
        return
    add_router_errors(facts, router, tiers, lambda tested: load_document(loader.load, path, {**document, "router": tested}))


def add_router_errors(
    facts: Facts, router: Dict[str, Any], tiers: List[Dict[str, Any]], load: Callable[[Dict[str, Any]], str]
) -> None:
    """The errors of each tier alone, of each route alone, and of the rest of [router] without both."""
    unique: Dict[str, Any] = {}
    for tier in tiers:
        unique.setdefault(str(tier.get("id")), tier)
    facts["tier_ids"] = list(unique)
    facts["profile_path"] = router.get("profile_path")
    key = "model_routes" if "model_routes" in router or facts["generation"] == "gateway" else "presets"
    table = router.get(key)
    fixed = {"mapping_version": "1"} if key == "presets" else {}
    routes = flatten(table) if isinstance(table, dict) else {}

    def route_to(name: str) -> Dict[str, Any]:
        return {"llm.primary": name} if key == "model_routes" else {"chat": [name]}

    def ask(tested: Dict[str, Any]) -> None:
        why = load(tested)
        error = {"where": "config.toml", "why": why}
        if why and "unaddressable" not in why and error not in facts["errors"]:
            facts["errors"].append(error)

    sound: List[Dict[str, Any]] = []
    for name, tier in unique.items():
        routed = route_to(name)
        accepted = repair_all(facts, tier, lambda each, to=routed: load({**fixed, "tiers": [each], key: to}), ("id",))  # type: ignore[misc]
        if not accepted:
            continue
        sound.append(accepted)
        if sum(str(each.get("id")) == name for each in tiers) > 1:
            ask({**fixed, "tiers": [accepted, accepted], key: routed})
    known = {str(tier.get("id")) for tier in sound}
    right: Dict[str, Any] = {}
    for alias, goal in routes.items():
        goals = {str(each) for each in goal} if isinstance(goal, list) else {str(goal)}
        if not goals <= set(unique):
            if sound:
                ask({**fixed, "tiers": sound, key: {alias: goal}})
        elif goals <= known:
            right[alias] = goal
    if not sound or not (right or isinstance(table, dict)):
        return
    every = {"chat": sorted(known)} if key == "presets" else {"llm.a{0}".format(n): one for n, one in enumerate(sorted(known))}
    plain = {name: value for name, value in router.items() if not is_list_of_tables(value)}
    repair_all(facts, {**plain, "tiers": sound, key: right or every}, load, ("tiers", key))
    base = {**fixed, "tiers": sound, key: every}
    for name, items in router.items():
        for item in items if is_list_of_tables(items) and name != "tiers" else ():
            repair_all(facts, item, lambda each, name=name: load({**base, name: [each]}))  # type: ignore[misc]
    ask({**router, **base, key: right or every})


def is_list_of_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def add_tiers(facts: Facts, router: Any) -> None:
    facts["tier_ids"] = [str(tier.id) for tier in router.tiers]
    facts["profile_path"] = getattr(router, "profile_path", None)
    facts["tiers"] = [
        {
            "id": str(tier.id),
            "base_url": str(getattr(tier, "base_url", "") or ""),
            "steady": getattr(tier, "privacy", "") == "local" and not getattr(tier, "health_path", None),
        }
        for tier in router.tiers
    ]


def write_files(request: Dict[str, Any]) -> None:
    for name in ("config", "profile"):
        if request[name] is not None:
            with open(request[name + "_path"], "w", encoding="utf-8", newline="") as stream:
                stream.write(request[name])


def find_generation(facts: Facts) -> Tuple[Any, Any]:
    """The two modules that read a profile; None for a gateway router, which has none."""
    try:
        from anvil_serving.router import classify, profile_bootstrap, profile_store
    except ImportError:
        facts["generation"] = "gateway"
        return None, None
    facts["generation"] = "profile"
    facts["work_classes"] = [str(name) for name in classify.WORK_CLASSES]
    facts["decisions"] = [str(name) for name in profile_store.DECISIONS]
    return profile_bootstrap, profile_store


def examine(request: Dict[str, Any], facts: Facts) -> None:
    """Fill in the facts about one candidate."""
    try:
        from anvil_serving.router import config as loader
    except ImportError as exc:
        facts["errors"].append({"where": "image", "why": "ImportError: {0}".format(exc)})
        return
    profile_bootstrap, profile_store = find_generation(facts)
    import importlib.metadata

    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        facts["version"] = importlib.metadata.version("anvil-serving")
    write_files(request)
    router = server = store = None
    if request["config"] is not None:
        path = request["config_path"]
        router = attempt(facts, "config.toml", loader.load, path)
        server = attempt(facts, "config.toml", loader.load_server_config, path)
        if router is not None:
            add_tiers(facts, router)
        if server is not None:
            facts["token_variable"] = getattr(server, "auth_env", None)
        if router is None or server is None:
            attempt_quietly(add_further_errors, facts, loader, path)
    if request["profile"] is not None and profile_bootstrap is not None:
        document = attempt(facts, "profile.json", json.loads, request["profile"])
        if document is not None:
            store = attempt(facts, "profile.json", profile_bootstrap.store_from_profile, document)
    if router is not None and profile_bootstrap is not None:
        if request["profile"] is None:
            store = profile_store.default_profile()
        if store is not None:
            attempt_quietly(add_routes, facts, router, store)
    elif router is not None:
        attempt_quietly(add_identity, facts, router)


def new_facts() -> Facts:
    return {
        "generation": None,
        "version": None,
        "tier_ids": [],
        "work_classes": [],
        "decisions": [],
        "profile_path": None,
        "token_variable": None,
        "tiers": [],
        "routes": [],
        "config_sha256": None,
        "errors": [],
    }


def main() -> None:
    for line in sys.stdin.buffer:
        facts = new_facts()
        examine(json.loads(line.decode("utf-8")), facts)
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
