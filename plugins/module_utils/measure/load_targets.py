# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the tiers of a router are measured: through the router, or at their serves. Pure."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.measure.load_plan import LoadTarget

# Options of the modules that measure tiers (doc fragment anvil.measured).
TARGET_OPTIONS: Dict[str, Any] = {
    "router": {"type": "dict", "required": True},
    "serves": {"type": "list", "elements": "dict", "default": []},
    "container": {"type": "str", "default": "anvil-router"},
    "via": {"type": "str", "choices": ["router", "tiers"], "default": "router"},
    "tiers": {"type": "list", "elements": "str", "default": []},
    "networks": {"type": "list", "elements": "str", "required": True},
    "secrets": {"type": "dict", "default": {}, "no_log": True},
    "progress": {"type": "str", "no_log": False},
}
# Where a router listens inside its container.
ROUTER_PORT = 8000


def list_targets(router: Mapping[str, Any], container: str, via: str, wanted: Sequence[str]) -> Tuple[LoadTarget, ...]:
    """The chat tiers of a router's plan. wanted: their names; empty: all. via: ``router`` or ``tiers``.

    The first tier comes last: a profile router prefers the tier that answered last in every preset.
    """
    tiers = {str(tier["id"]): tier for tier in router["tiers"] if tier.get("kind", "chat") == "chat"}
    unknown = [name for name in wanted if name not in tiers]
    if unknown:
        hint = "one of " + ", ".join(tiers)
        raise AnvilError(*(Problem("no such tier of the router", "tiers: " + name, hint=hint) for name in unknown))
    chosen = [tier for name, tier in tiers.items() if not wanted or name in wanted]
    made: List[LoadTarget] = []
    for tier in reversed(chosen):
        name, context = str(tier["id"]), int(tier.get("context_limit") or 0)
        if via == "router":
            url = "http://{0}:{1}".format(container, ROUTER_PORT)
            made.append(LoadTarget(name, url, _model_at_router(router, name), context))
        else:
            made.append(LoadTarget(name, _without_version(str(tier["base_url"])), str(tier["model"]), context))
    return tuple(made)


def _model_at_router(router: Mapping[str, Any], tier: str) -> str:
    """What a client requests to get this tier: a preset of its name, or a route of a gateway router."""
    routes = router.get("routes") or {}
    if routes.get(tier) == tier or tier in router.get("presets", ()):
        return tier
    return next((str(name) for name in sorted(routes) if routes[name] == tier), tier)


def _without_version(base_url: str) -> str:
    return base_url[: -len("/v1")] if base_url.rstrip("/").endswith("/v1") else base_url
