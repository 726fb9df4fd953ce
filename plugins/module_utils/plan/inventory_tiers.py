# SPDX-License-Identifier: GPL-3.0-or-later
"""Check ``anvil_router.tiers`` and decide every default of each tier."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import Settings, read_settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.endpoint import list_lora_names
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engine_options import CONTEXT, OPTIONS, SLOTS, TOOLS
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import CUSTOM, ENGINES
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import OFF
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import ExternalPlan, ServePlan, TierPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_backends import (
    FleetBackends,
    check_agreement,
    choose_model,
    read_backends,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_custom_engine import URL_PATH
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    ANYTHING,
    NAME_RULE,
    NO_SPACE,
    Path,
    Section,
    shorten,
    suggest_name,
)

TIER_KEYS = (
    "id",
    "serve",
    "model",
    "context_limit",
    "tool_support",
    "health_path",
    "model_identity",
    "max_concurrency",
    "sample_rate",
    "default",
    "backends",
    "queue",
    "slow_start",
)
SPREAD_KEYS = ("queue", "slow_start")
# What the edge of a gateway answers for a tier over hosts: 200 while a backend is up.
SPREAD_HEALTH = "/healthz"
AUTO = "auto"
TIER_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
DEFAULT_CONTEXT = 8192
TierBackend = Union[ServePlan, ExternalPlan]


def read_backend_settings(serve: TierBackend) -> Settings:
    return read_settings(serve.engine, serve.args, serve.environment if isinstance(serve, ServePlan) else {})


def read_context_limit(serve: TierBackend) -> Optional[int]:
    """The context of one request to this serve in tokens, if its settings limit it."""
    settings = read_backend_settings(serve)
    context = settings.tokens(CONTEXT)
    return context // (settings.tokens(SLOTS) or 1) if context else None


def _supports_tools(settings: Settings) -> bool:
    return TOOLS not in OPTIONS.get(settings.engine, {}) or settings.is_on(TOOLS)


def _list_models(serve: TierBackend, settings: Settings) -> List[str]:
    names = (list(serve.models), serve.more_names) if isinstance(serve, ServePlan) else ([], ())
    return [*(names[0] or [serve.served_name]), *names[1], *list_lora_names(settings, serve.served_name)]


def _read_tier_model(section: Section, serve: TierBackend, settings: Settings) -> str:
    """The model that a tier requests from its serve: one of several, or a LoRA module."""
    model = section.read_text("model", "the name of one of the models of the serve, without spaces", NO_SPACE)
    known = _list_models(serve, settings)
    if model and model not in known:
        section.add_problem(
            "model", "serve {0} has no model {1!r}".format(serve.name, shorten(model)), suggest_name(model, known)
        )
    return model or serve.served_name


def _default_health(backend: Optional[TierBackend]) -> Tuple[str, bool]:
    """How the router checks a serve that is managed here. Of any other server nothing is known."""
    if backend is None or backend.engine not in ENGINES:
        return "", False
    if isinstance(backend, ServePlan) and backend.engine == CUSTOM:
        # The router's check carries no key. Not every server has /v1/models.
        path = backend.ready_path or ("" if backend.api_key else "/v1/models")
        return path, bool(path) and not backend.ready_path
    return ENGINES[backend.engine].health_path, True


def _read_health(section: Section, backend: Optional[TierBackend]) -> Tuple[str, bool]:
    """The path by which the router checks the tier (empty: it does not), and whether it checks the model too."""
    path, known = _default_health(backend)
    if section.raw.get("health_path") is False:
        path = ""
    elif section.has("health_path"):
        path = section.read_text("health_path", "a path such as /health, or false for no check", URL_PATH) or path
    identity = section.read_boolean("model_identity")
    if identity and not path:
        section.add_problem("model_identity", "the tier has no health_path", "set health_path, such as /v1/models")
    return path, bool(known and path) if identity is None else identity


def _read_spread_tier(section: Section, given: FleetBackends) -> Optional[TierPlan]:
    """A tier over hosts. Its address is that of the edge, which is decided after the router."""
    tier = section.read_text("id", NAME_RULE, TIER_ID)
    if not section.has("id"):
        section.add_problem(
            "id", "a tier with backends has no id", "for example: {id: chat, backends: [{serve: fast, hosts: gpu}]}"
        )
    if section.has("serve"):
        section.add_problem("serve", "a tier has either a serve or backends", "name the serve in backends")
    limit, tools = section.read_integer("context_limit", 1, 10**8, "tokens"), section.read_boolean("tool_support")
    wanted = section.read_text("model", "the name of a model that every backend has, without spaces", NO_SPACE) or ""
    limited, rate = _read_concurrency(section), section.read_integer("sample_rate", 8000, 192000, "Hz")
    queue, slow = section.read_integer("queue", 0, 100000, "requests"), section.read_integer("slow_start", 0, 3600, "seconds")
    if limited == AUTO:
        why = "the router reads it from one engine, and here it reaches the edge"
        section.add_problem("max_concurrency", "auto is not for a tier with backends", "set max_requests in its backends", why)
    default, health = bool(section.read_boolean("default")), section.raw.get("health_path") is not False
    identity = section.read_boolean("model_identity")
    found = read_backends(section, given)
    if found is None or tier is None or not check_agreement(section, found):
        return None
    settings = {one.plan.name: read_backend_settings(one.serve) for one in found}
    model = choose_model(section, {one.plan.name: _list_models(one.serve, settings[one.plan.name]) for one in found}, wanted)
    contexts = [context for context in (read_context_limit(one.serve) for one in found) if context]
    if not limit and not contexts:
        what = "the context of tier {0} is not set anywhere, so {1} tokens are assumed: set context_limit"
        section.check.add_note(section.path, what.format(tier, DEFAULT_CONTEXT))
    first = found[0].serve
    defaults = TierPlan(tier, "", "", "", 0, False, "")
    return TierPlan(
        id=tier,
        serve="",
        base_url=first.api_prefix + "/v1",
        model=model,
        context_limit=limit or min(contexts, default=DEFAULT_CONTEXT),
        tool_support=all(_supports_tools(each) for each in settings.values()) if tools is None else tools,
        key_env=_key_env(tier),
        kind=first.kind,
        health_path=SPREAD_HEALTH if health else "",
        model_identity=health if identity is None else identity,
        max_concurrency=limited,
        sample_rate=rate or 0,
        default=default,
        backends=tuple(one.plan for one in found),
        backend_key=next((one.key for one in found if one.key), ""),
        queue=defaults.queue if queue is None else queue,
        slow_start=defaults.slow_start if slow is None else slow,
    )


def _read_tier(
    section: Section, names: Optional[Sequence[str]], serves: Mapping[str, TierBackend], given: FleetBackends
) -> Optional[TierPlan]:
    section.check_keys(TIER_KEYS)
    if section.has("backends"):
        return _read_spread_tier(section, given)
    for key in SPREAD_KEYS:
        if section.has(key):
            section.add_note(key, "it has no effect: the tier has no backends")
    tier = section.read_text("id", NAME_RULE, TIER_ID)
    name = section.read_text("serve", "the name of a serve", ANYTHING)
    limit, tools = section.read_integer("context_limit", 1, 10**8, "tokens"), section.read_boolean("tool_support")
    if not section.has("id") and not section.has("serve"):
        section.check.add_problem(section.path, "the tier has no serve", "for example: {id: heavy, serve: heavy}")
        return None
    serve_at = section.path_of("serve" if section.has("serve") else "id")
    if (section.has("id") and tier is None) or (section.has("serve") and name is None):
        return None
    name, tier = name or tier or "", tier or name or ""
    backend = serves.get(name)
    health_path, identity = _read_health(section, backend)
    limited, rate = _read_concurrency(section), section.read_integer("sample_rate", 8000, 192000, "Hz")
    default = bool(section.read_boolean("default"))
    if names is not None and name not in names:
        hint = suggest_name(name, names, "anvil_serves has no serve: add it there")
        section.check.add_problem(serve_at, "tier {0} has an unknown serve: {1!r}".format(shorten(tier), shorten(name)), hint)
        return None
    serve = serves.get(name)
    if serve is None:
        return TierPlan(tier, name, "", "", limit or DEFAULT_CONTEXT, bool(tools), _key_env(tier))
    settings = read_backend_settings(serve)
    context = read_context_limit(serve)
    model = _read_tier_model(section, serve, settings)
    if limit and context and limit > context and SLOTS not in OPTIONS.get(serve.engine, {}):
        section.add_problem(
            "context_limit",
            "{0} tokens are more than the context of serve {1} ({2})".format(limit, name, context),
            "lower context_limit, or raise {0} in anvil_serves.{1}.args".format(settings.spelling(CONTEXT), name),
        )
    if not limit and not context:
        section.check.add_note(
            section.path,
            "the context of tier {0} is not set anywhere, so {1} tokens are assumed: set context_limit".format(
                tier, DEFAULT_CONTEXT
            ),
        )
    return TierPlan(
        id=tier,
        serve=name,
        base_url=format_base_url(serve, *_find_server(serve)),
        model=model,
        context_limit=limit or context or DEFAULT_CONTEXT,
        tool_support=_supports_tools(settings) if tools is None else tools,
        key_env=_key_env(tier),
        key_secret=serve.api_key,
        kind=serve.kind,
        health_path=health_path,
        model_identity=identity,
        max_concurrency=limited,
        sample_rate=rate or 0,
        default=default,
    )


def _find_server(serve: TierBackend) -> Tuple[str, int]:
    """The name or address, and the port, by which the router's container reaches a serve."""
    if isinstance(serve, ServePlan):
        return serve.address or serve.container, serve.inner_port
    return serve.container, serve.port


def _read_concurrency(section: Section) -> Optional[Union[int, str]]:
    if section.raw.get("max_concurrency") == AUTO:
        return AUTO
    return section.read_integer("max_concurrency", 1, 100000, "requests")


def format_base_url(serve: TierBackend, host: str, port: int) -> str:
    """Where the OpenAI-compatible API of a serve begins."""
    tls, prefix = (serve.tls, serve.api_prefix) if isinstance(serve, ServePlan) else (serve.tls, "")
    return "{0}://{1}:{2}{3}/v1".format("https" if tls else "http", host, port, prefix)


def _key_env(tier: str) -> str:
    return "ANVIL_{0}_KEY".format(re.sub(r"[^A-Z0-9]", "_", tier.upper()))


def read_tiers(
    section: Section, names: Optional[Sequence[str]], serves: Mapping[str, TierBackend], given: FleetBackends
) -> Tuple[Optional[Tuple[str, ...]], Tuple[TierPlan, ...]]:
    """The ids of all tiers (None: they could not be read), and the tiers without a mistake."""
    check, path, example = section.check, section.path_of("tiers"), "tiers: [{id: heavy, serve: heavy}]"
    raw = section.raw.get("tiers")
    if raw is None:
        listed: Optional[List[Tuple[Path, Any]]] = [
            (("anvil_serves", name), {"serve": name}) for name in (names or ()) if name in serves
        ]
        unknown = names is None or len(serves) < len(names)
    else:
        listed = check.read_list(path, raw, example)
        unknown = listed is None or len(listed) < len(raw)
    if not listed and not unknown:
        check.add_problem(path, "the router has no tier", "add a serve to anvil_serves, or remove anvil_router")
    ids: List[str] = []
    tiers: Dict[str, TierPlan] = {}
    keys: Dict[str, str] = {}
    for at, value in listed or ():
        inner = check.read_mapping(at, {} if value is None else value, example)
        tier = _read_tier(inner, names, serves, given) if inner else None
        word = tier.id if tier else _intended_id(value)
        if word is None:
            unknown = True
        elif word in ids:
            check.add_problem((*at, "id"), "two tiers have the id {0}".format(shorten(word)), "give each tier its own id")
            continue
        else:
            ids.append(word)
        if tier:
            tiers[tier.id] = tier
            if keys.setdefault(tier.key_env, tier.id) != tier.id:
                check.add_problem(
                    (*at, "id"),
                    "tiers {0} and {1} would share the environment variable {2}".format(
                        keys[tier.key_env], tier.id, tier.key_env
                    ),
                    "choose ids that differ in more than punctuation",
                )
    return (None if unknown else tuple(ids)), tuple(tiers.values())


def _intended_id(value: Any) -> Optional[str]:
    """The id that a tier with a mistake was meant to have, so that references to it are not reported too."""
    for key in ("id", "serve"):
        word = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(word, str):
            return str(word)
    return None


def select_running_tiers(
    section: Section, tiers: Sequence[TierPlan], serves: Sequence[TierBackend], required: bool = True
) -> Tuple[TierPlan, ...]:
    """The tiers whose serve runs. A tier without a running serve is left out of the router, with a note.

    required: at least one must run.
    """
    off = {serve.name for serve in serves if isinstance(serve, ServePlan) and serve.residency == OFF}
    stopped = [tier for tier in tiers if tier.serve in off]
    for tier in stopped:
        section.add_note("tiers", "tier {0} is left out: serve {1} does not run".format(tier.id, tier.serve))
    if required and stopped and len(stopped) == len(tiers):
        section.add_problem(
            "tiers", "no serve of any tier runs", "change anvil_profile or anvil_deploy_mode so that a serve with a tier runs"
        )
    return tuple(tier for tier in tiers if tier.serve not in off)
