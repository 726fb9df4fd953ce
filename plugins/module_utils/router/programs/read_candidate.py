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
import sys
from typing import Any, Callable, Dict, Set, Tuple

Facts = Dict[str, Any]


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


def load_document(loader: Any, path: str, document: Dict[str, Any]) -> str:
    """The loader's message about a parsed config, as if the file held it; empty if it accepts it."""
    reader: Any = importlib.import_module("tomllib")
    original = reader.load, reader.loads
    reader.load = reader.loads = lambda *_source, **_options: copy.deepcopy(document)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            loader.load(path)
        return ""
    except (Exception, SystemExit) as exc:
        return "{0}: {1}".format(type(exc).__name__, exc)
    finally:
        reader.load, reader.loads = original


def flatten(table: Dict[str, Any], start: str = "") -> Dict[str, Any]:
    """The values of nested tables by their dotted keys."""
    found: Dict[str, Any] = {}
    for key, value in table.items():
        found.update(flatten(value, start + key + ".") if isinstance(value, dict) else {start + key: value})
    return found


def add_further_errors(facts: Facts, loader: Any, path: str) -> None:
    """What the loader would say after its first error: about each tier alone, each route alone, and the rest without both.

    Without the tiers that the file names, the mistakes of a profile would stay hidden too.
    """
    import tomllib

    with open(path, "rb") as stream:
        document = tomllib.load(stream)
    router = document.get("router")
    tiers = router.get("tiers") if isinstance(router, dict) else None
    if not isinstance(router, dict) or not isinstance(tiers, list) or not all(isinstance(each, dict) for each in tiers):
        return
    unique: Dict[str, Any] = {}
    for tier in tiers:
        unique.setdefault(str(tier.get("id")), tier)
    facts["tier_ids"] = list(unique)
    facts["profile_path"] = router.get("profile_path")
    key = "model_routes" if "model_routes" in router else "presets"
    table = router.get(key)
    routes = flatten(table) if isinstance(table, dict) else {}
    plain = {name: value for name, value in router.items() if not isinstance(value, (dict, list))}
    wrong_routes: Set[str] = set()
    wrong_tiers: Set[str] = set()

    def ask(tested: Dict[str, Any]) -> bool:
        why = load_document(loader, path, {**document, "router": tested})
        error = {"where": "config.toml", "why": why}
        if why and "unaddressable" not in why and error not in facts["errors"]:
            facts["errors"].append(error)
        return not why

    for name, tier in unique.items():
        route: Dict[str, Any] = {"llm.primary": name} if key == "model_routes" else {"chat": [name]}
        if not ask({**plain, "tiers": [tier], key: route}):
            wrong_tiers.add(name)
        elif sum(str(each.get("id")) == name for each in tiers) > 1:
            ask({**plain, "tiers": [tier, tier], key: route})
    sound = [tier for name, tier in unique.items() if name not in wrong_tiers]
    known = {str(tier.get("id")) for tier in sound}
    for alias, goal in routes.items():
        goals = {str(each) for each in goal} if isinstance(goal, list) else {str(goal)}
        if not goals <= set(unique):
            wrong_routes.add(alias)
            if sound:
                ask({**plain, "tiers": sound, key: {alias: goal}})
        elif not goals <= known:
            wrong_routes.add(alias)
    left = {alias: goal for alias, goal in routes.items() if alias not in wrong_routes}
    if sound and left:
        ask({**router, "tiers": sound, key: left})


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
        if router is None:
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
