# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``anvil_router``: the router with its tiers, presets, profile, replicas and edge."""

from __future__ import annotations

import datetime
import ipaddress
import math
import re
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import ENGINES, Engine, flag_of, read_token_flag
from ansible_collections.anvil.serving.plugins.module_utils.docker.service import HOST_GATEWAY, OFF
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import (
    EdgePlan,
    ExternalPlan,
    ProfileEntry,
    ReplicaPlan,
    RouterPlan,
    ServePlan,
    TierPlan,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    ABSOLUTE,
    ANYTHING,
    CONTAINER,
    CONTAINER_RULE,
    LONGEST_WAIT_SECONDS,
    NAME_RULE,
    NO_SPACE,
    UNREAD,
    Check,
    Node,
    Path,
    describe,
    is_loopback,
    path_text,
    read_address,
    read_image,
    shorten,
    suggest,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.secrets import Secrets

EDGE_HEALTH = ("process", "tiers")
GENERATIONS = ("profile", "gateway")
# Of a version in an image's tag; 0.13.2 is the last profile router, and 0.14 to 0.34 are of neither kind that we know.
TAGGED = re.compile(r".*:v?([0-9]{1,4})\.([0-9]{1,4})(\..*)?")
FIRST_GATEWAY = (0, 14)
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
DEFAULT_CONTEXT = 8192
DEFAULT_PUBLISH = "127.0.0.1:8000"
DEFAULT_SUBNET = "10.87.213.0/28"
DEFAULT_EDGE_IMAGE = "anvil.local/edge:1"
MOST_REPLICAS = 4
ROUTER_KEYS = (
    "image",
    "container",
    "volume",
    "publish",
    "token",
    "tiers",
    "presets",
    "profile",
    "ready_timeout",
    "request_timeout",
    "replicas",
    "edge",
    "generation",
    "routes",
)
EDGE_KEYS = ("image", "container", "subnet", "certificates", "health")
TIER_KEYS = ("id", "serve", "model", "context_limit", "tool_support")
PROFILE_KEYS = ("tier", "work_class", "decision", "quality_score", "sample_n", "last_measured", "fingerprint")
ROUTE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}")
TIER_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


Backend = Union[ServePlan, ExternalPlan]


def serve_context(serve: Backend) -> Optional[int]:
    """How many tokens one request to this serve may have, if its arguments tell."""
    engine = ENGINES.get(serve.engine, Engine())
    context = read_token_flag(serve.args, *engine.context_flags)
    slots = read_token_flag(serve.args, *engine.slot_flags) or 1
    return context // slots if context else None


def _supports_tools(serve: Backend) -> bool:
    flags = ENGINES.get(serve.engine, Engine()).tool_flags
    return not flags or any(flag_of(word) in flags for word in serve.args)


def _read_model(node: Node, serve: Backend) -> str:
    """The model that a tier asks its serve for: a server of several has one for each tier."""
    model = node.text("model", "the name of one of the serve's models", NO_SPACE)
    several = serve.models if isinstance(serve, ServePlan) else {}
    known = list(several) or [serve.served_name]
    if model and model not in known:
        node.check.wrong(
            node.at("model"), "serve {0} has no model {1!r}".format(serve.name, shorten(model)), suggest(model, known)
        )
    return model or serve.served_name


def _read_tier(node: Node, names: Optional[Sequence[str]], serves: Mapping[str, Backend]) -> Optional[TierPlan]:
    node.known(TIER_KEYS)
    tier = node.text("id", NAME_RULE, TIER_ID)
    name = node.text("serve", "the name of a serve", ANYTHING)
    limit, tools = node.whole("context_limit", 1, 10**8, "tokens"), node.boolean("tool_support")
    if not node.has("id") and not node.has("serve"):
        node.check.wrong(node.path, "the tier names no serve", "{id: heavy, serve: heavy}")
        return None
    serve_at = node.at("serve" if node.has("serve") else "id")
    if (node.has("id") and tier is None) or (node.has("serve") and name is None):
        return None
    name, tier = name or tier or "", tier or name or ""
    if names is not None and name not in names:
        hint = suggest(name, names, "anvil_serves has none: add it there")
        node.check.wrong(serve_at, "tier {0} has no serve: {1!r} is unknown".format(shorten(tier), shorten(name)), hint)
        return None
    serve = serves.get(name)
    if serve is None:
        return TierPlan(tier, name, "", "", limit or DEFAULT_CONTEXT, bool(tools), _key_env(tier))
    told = serve_context(serve)
    model = _read_model(node, serve)
    if limit and told and limit > told and not ENGINES.get(serve.engine, Engine()).slot_flags:
        node.check.wrong(
            node.at("context_limit"),
            "{0} tokens are more than serve {1} takes ({2})".format(limit, name, told),
            "lower context_limit, or raise {0} in anvil_serves.{1}.args".format(ENGINES[serve.engine].context_flags[0], name),
        )
    if not limit and not told:
        node.check.note(node.path, "tier {0}: nothing tells its context, so {1} tokens".format(tier, DEFAULT_CONTEXT))
    return TierPlan(
        id=tier,
        serve=name,
        base_url="http://{0}:{1}/v1".format(serve.container, serve.port),
        model=model,
        context_limit=limit or told or DEFAULT_CONTEXT,
        tool_support=_supports_tools(serve) if tools is None else tools,
        key_env=_key_env(tier),
        key_secret=serve.api_key,
    )


def _key_env(tier: str) -> str:
    return "ANVIL_{0}_KEY".format(re.sub(r"[^A-Z0-9]", "_", tier.upper()))


def _read_tiers(
    node: Node, names: Optional[Sequence[str]], serves: Mapping[str, Backend]
) -> Tuple[Optional[Tuple[str, ...]], Tuple[TierPlan, ...]]:
    """The ids of all tiers (None: could not be read), and the tiers without a mistake."""
    check, path, example = node.check, node.at("tiers"), "tiers: [{id: heavy, serve: heavy}]"
    raw = node.raw.get("tiers")
    if raw is None:
        listed: Optional[List[Tuple[Path, Any]]] = [
            (("anvil_serves", name), {"serve": name}) for name in (names or ()) if name in serves
        ]
        unknown = names is None or len(serves) < len(names)
    else:
        listed = check.items(path, raw, example)
        unknown = listed is None or len(listed) < len(raw)
    if not listed and not unknown:
        check.wrong(path, "the router has no tier", "describe a serve in anvil_serves, or leave anvil_router out")
    ids: List[str] = []
    tiers: Dict[str, TierPlan] = {}
    keys: Dict[str, str] = {}
    for at, value in listed or ():
        inner = check.mapping(at, {} if value is None else value, example)
        tier = _read_tier(inner, names, serves) if inner else None
        word = tier.id if tier else _claimed_id(value)
        if word is None:
            unknown = True
        elif word in ids:
            check.wrong((*at, "id"), "two tiers are named {0}".format(shorten(word)), "give each tier a name of its own")
            continue
        else:
            ids.append(word)
        if tier:
            tiers[tier.id] = tier
            if keys.setdefault(tier.key_env, tier.id) != tier.id:
                check.wrong(
                    (*at, "id"),
                    "{0} and {1} would share the variable {2}".format(keys[tier.key_env], tier.id, tier.key_env),
                    "let the names differ in more than punctuation",
                )
    return (None if unknown else tuple(ids)), tuple(tiers.values())


def _claimed_id(value: Any) -> Optional[str]:
    """The id a broken tier meant to have, so that what refers to it is not reported too."""
    for key in ("id", "serve"):
        word = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(word, str):
            return str(word)
    return None


def guess_generation(image: str) -> str:
    """The generation of a router by the version in its image's tag; ``profile`` where the tag is none."""
    found = TAGGED.fullmatch(image.partition("@")[0])
    return "gateway" if found and (int(found.group(1)), int(found.group(2))) >= FIRST_GATEWAY else "profile"


def _read_routes(node: Node, generation: str, ids: Optional[Sequence[str]]) -> Dict[str, str]:
    """What a client may ask a gateway router for: every tier by its own name, and the names of ``routes``."""
    check, example = node.check, "routes: {llm.primary: heavy}"
    theirs = {"profile": ("routes",), "gateway": ("presets", "profile")}[generation]
    for key in theirs:
        if node.has(key) and node.raw[key] not in ({}, []):
            does = "routes each name to one tier" if generation == "gateway" else "chooses tiers by presets and a profile"
            hint = "{0}, or set generation if the image's tag does not tell it".format(
                example if generation == "gateway" else "presets: {chat: [fast, heavy]}"
            )
            check.wrong(node.at(key), "a {0} router has no {1}: it {2}".format(generation, key, does), hint)
    if generation != "gateway":
        return {}
    found = {tier: tier for tier in ids or ()}
    inner = check.mapping(node.at("routes"), node.raw.get("routes"), example)
    for name, tier in inner.raw.items() if inner else ():
        path = (*node.at("routes"), str(name))
        if not isinstance(tier, str):
            check.wrong(path, "the name of a tier is wanted, not {0}".format(describe(tier)), example)
        elif ids is not None and tier not in ids:
            check.wrong(path, "unknown tier {0!r}".format(shorten(tier)), suggest(tier, ids))
        elif str(name).strip().lower() in {known.lower() for known in found}:
            check.wrong(path, "{0} is named already".format(shorten(str(name))), "every tier has a route of its own name")
        elif not ROUTE.fullmatch(str(name)):
            check.wrong(
                path, "{0!r} is no name for a route".format(shorten(str(name))), "letters, digits, dot, dash, slash, colon"
            )
        else:
            found[str(name)] = str(tier)
    return found


def _read_presets(node: Node, ids: Optional[Sequence[str]]) -> Dict[str, Tuple[str, ...]]:
    check = node.check
    found: Dict[str, Tuple[str, ...]] = {preset: tuple(ids or ()) for preset in PRESETS}
    example = "presets: {chat: [fast, heavy]}"
    inner = check.mapping(node.at("presets"), node.raw.get("presets"), example)
    for name, value in inner.raw.items() if inner else ():
        path = (*node.at("presets"), str(name))
        if name not in PRESETS + OTHER_PRESETS:
            check.wrong(path, "unknown preset {0!r}".format(shorten(str(name))), suggest(str(name), PRESETS + OTHER_PRESETS))
            continue
        chosen: List[str] = []
        listed = check.items(path, value, example)
        for at, tier in listed or ():
            if not isinstance(tier, str):
                check.wrong(at, "the name of a tier is wanted, not {0}".format(describe(tier)), example)
            elif ids is not None and tier not in ids:
                check.wrong(at, "unknown tier {0!r}".format(shorten(tier)), suggest(tier, ids))
            elif tier in chosen:
                check.wrong(at, "tier {0} is named twice".format(shorten(tier)), "name each tier once, the preferred one first")
            else:
                chosen.append(str(tier))
        if listed == [] and value == []:
            check.wrong(path, "the preset names no tier", "name at least one, or leave the preset out: then all tiers serve it")
        if chosen:
            found[str(name)] = tuple(chosen)
    return found


def _read_moment(node: Node, key: str) -> Optional[str]:
    value = node.raw.get(key)
    if isinstance(value, datetime.datetime):  # YAML reads an unquoted moment as one
        if value.tzinfo is not None:
            value = value.astimezone(datetime.timezone.utc).replace(tzinfo=None)
        return value.replace(microsecond=0).isoformat() + "Z"
    if isinstance(value, datetime.date):
        return "{0}T00:00:00Z".format(value.isoformat())
    moment = re.compile(
        r"[0-9]{4}-[01][0-9]-[0-3][0-9](T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]+)?(Z|[+-][0-2][0-9]:[0-5][0-9]))?"
    )
    return node.text(key, "a moment like 2026-07-04T00:00:00Z", moment)


def _read_score(node: Node) -> float:
    value, rule = node.raw.get("quality_score"), "a number from 0 to 1"
    if value is UNREAD:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        node.check.wrong(node.at("quality_score"), "a number is wanted, not {0}".format(describe(value)), rule)
    elif math.isnan(value) or not 0 <= value <= 1:
        node.check.wrong(node.at("quality_score"), "{0} is out of range".format(shorten(str(value))), rule)
    else:
        return float(value)
    return 0.0


def _read_profile(node: Node, ids: Optional[Sequence[str]]) -> Tuple[ProfileEntry, ...]:
    check, example = node.check, "profile: [{tier: heavy, work_class: planning, decision: allow, quality_score: 0.9}]"
    rows: List[ProfileEntry] = []
    seen: Dict[Tuple[str, str], Path] = {}
    for path, value in check.items(node.at("profile"), node.raw.get("profile"), example) or ():
        row = check.mapping(path, {} if value is None else value, example)
        if row is None:
            continue
        row.known(PROFILE_KEYS)
        for key in ("tier", "work_class", "decision", "quality_score"):
            if not row.has(key) and key != "quality_score":
                check.wrong(row.at(key), "the row has no {0}".format(key), example)
        tier = row.text("tier", "the id of a tier")
        work_class, decision = row.word("work_class", WORK_CLASSES), row.word("decision", DECISIONS)
        if tier and ids is not None and tier not in ids:
            check.wrong(row.at("tier"), "unknown tier {0!r}".format(shorten(tier)), suggest(tier, ids))
        if tier and work_class:
            first = seen.setdefault((tier, work_class), path)
            if first != path:
                what = "{0} already says how {1} does {2}".format(path_text(first), shorten(tier), work_class)
                check.wrong(path, what, "keep one row for each tier and work class")
        rows.append(
            ProfileEntry(
                tier_id=tier or "",
                work_class=work_class or "",
                decision=decision or "",
                quality_score=_read_score(row),
                sample_n=row.whole("sample_n", 0, 10**9) or 0,
                last_measured=_read_moment(row, "last_measured"),
                fingerprint=row.text("fingerprint", "text"),
            )
        )
    return tuple(rows)


def _read_publish(node: Node) -> Optional[Tuple[str, int]]:
    """Where clients reach the router: (address, port)."""
    value = node.raw.get("publish", DEFAULT_PUBLISH)
    value = DEFAULT_PUBLISH if value is None else value
    path, rule = node.at("publish"), "address:port, like " + DEFAULT_PUBLISH
    if value is UNREAD:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        node.check.wrong(path, "text is wanted, not {0}".format(describe(value)), rule)
        return None
    head, _colon, tail = str(value).rpartition(":")
    if not head or not re.fullmatch(r"[0-9]{1,7}", tail) or (":" in head and not re.fullmatch(r"\[.*\]", head)):
        node.check.wrong(path, "{0!r} is not an address and a port".format(shorten(str(value))), rule)
        return None
    bind = read_address(node.check, path, head)
    if not 1 <= int(tail) <= 65535:
        node.check.wrong(path, "port {0} is out of range".format(tail), "a port from 1 to 65535")
        return None
    return (bind, int(tail)) if bind else None


def _read_edge(router: Node, container: str, generation: str) -> Optional[EdgePlan]:
    """The edge and the replicas behind it; None where the router is one container."""
    count = router.whole("replicas", 1, MOST_REPLICAS) or 1
    check, path = router.check, router.at("edge")
    if count == 1:
        if router.has("edge") and router.raw["edge"] is not UNREAD and not router.has("replicas"):
            check.wrong(path, "one replica has no edge", "set replicas: 2, or leave edge out")
        return None
    node = check.mapping(path, router.raw.get("edge"), "edge: {image: anvil.local/edge:1}") or Node(check, path, {})
    node.known(EDGE_KEYS)
    subnet = _read_subnet(node, count)
    name = node.text("container", CONTAINER_RULE, CONTAINER) or container + "-edge"
    return EdgePlan(
        image=(read_image(node) if node.has("image") else DEFAULT_EDGE_IMAGE) or "",
        container=name,
        volume=name + "-cfg",
        network=container + "-edge",
        subnet=str(subnet),
        address=str(subnet.network_address + 2),
        certificates=(node.text("certificates", "an absolute path on the host: /etc/anvil-tls", ABSOLUTE) or "").rstrip("/"),
        # A gateway router answers 503 until it has looked at its tiers; this check makes it look.
        check_tiers=(node.word("health", EDGE_HEALTH) or ("tiers" if generation == "gateway" else "process")) == "tiers",
        replicas=tuple(
            ReplicaPlan(
                service="router-{0}".format(number),
                container="{0}-{1}".format(container, number),
                address=str(subnet.network_address + 2 + number),
            )
            for number in range(1, count + 1)
        ),
    )


def _read_subnet(node: Node, replicas: int) -> ipaddress.IPv4Network:
    """The network of the edge and the replicas. The first address is the bridge's, the last one broadcast."""
    text = node.text("subnet", "an IPv4 network of private addresses: " + DEFAULT_SUBNET, NO_SPACE) or DEFAULT_SUBNET
    path, rule = node.at("subnet"), "a private network that nothing else on the host uses: " + DEFAULT_SUBNET
    try:
        subnet = ipaddress.IPv4Network(text)
    except ValueError as exc:
        node.check.wrong(path, "{0!r} is no IPv4 network".format(shorten(text)), rule, str(exc))
        return ipaddress.IPv4Network(DEFAULT_SUBNET)
    if not subnet.is_private:
        node.check.wrong(path, "{0} is no network of private addresses".format(subnet), rule)
    elif subnet.num_addresses < replicas + 4:
        node.check.wrong(path, "{0} has too few addresses".format(subnet), rule)
    else:
        return subnet
    return ipaddress.IPv4Network(DEFAULT_SUBNET)


def _running_tiers(node: Node, tiers: Sequence[TierPlan], serves: Sequence[Backend]) -> Tuple[TierPlan, ...]:
    """The tiers without those whose serve does not run: the router would ask nobody."""
    off = {serve.name for serve in serves if isinstance(serve, ServePlan) and serve.residency == OFF}
    resting = [tier for tier in tiers if tier.serve in off]
    for tier in resting:
        node.check.note(node.at("tiers"), "tier {0} is left out: serve {1} does not run".format(tier.id, tier.serve))
    if resting and len(resting) == len(tiers):
        node.check.wrong(node.at("tiers"), "no tier is left", "let the profile or the deploy mode name a serve with a tier")
    return tuple(tier for tier in tiers if tier.serve not in off)


def _keep_running(
    presets: Mapping[str, Tuple[str, ...]], tiers: Sequence[TierPlan], running: Sequence[TierPlan]
) -> Dict[str, Tuple[str, ...]]:
    """The presets without tiers that are left out; one that had no other gets all that run."""
    gone = {tier.id for tier in tiers} - {tier.id for tier in running}
    everyone = tuple(tier.id for tier in running)
    return {name: tuple(tier for tier in chosen if tier not in gone) or everyone for name, chosen in presets.items()}


def _extra_hosts(tiers: Sequence[TierPlan], serves: Sequence[Backend]) -> Tuple[str, ...]:
    """What the router's container must know to reach the host itself."""
    hosts = {serve.name: serve.container for serve in serves if isinstance(serve, ExternalPlan)}
    return (HOST_GATEWAY + ":host-gateway",) if any(hosts.get(tier.serve) == HOST_GATEWAY for tier in tiers) else ()


def read_router(
    check: Check, value: Any, named: Optional[Sequence[str]], serves: Sequence[Backend], secrets: Secrets
) -> Optional[RouterPlan]:
    node = check.mapping(("anvil_router",), value, "anvil_router: {image: …, token: router_token}")
    if node is None:
        return None
    node.known(ROUTER_KEYS)
    image = read_image(node)
    if not node.has("image"):
        check.wrong(node.at("image"), "the router has no image", "repository/name:tag or repository/name@sha256:…")
    address = _read_publish(node)
    token = node.raw.get("token")
    if token is None and "router_token" in (secrets.names or ()):
        token = "router_token"
    name = secrets.name_at(node.at("token"), token)
    if address and not is_loopback(address[0]) and token is None and secrets.names is not None:
        check.wrong(
            node.at("publish"),
            "{0} is published beyond loopback without a token".format(address[0]),
            "set token: <name in anvil_secrets>, or publish on 127.0.0.1",
            "anyone who reaches the port could use every serve",
        )
    elif token is None and secrets.names is not None:
        check.note(node.path, "no token: whoever is on the host can use every serve")
    externals = {serve.name for serve in serves if isinstance(serve, ExternalPlan)}
    names = None if named is None else [*named, *externals]
    ids, tiers = _read_tiers(node, names, {serve.name: serve for serve in serves})
    running = _running_tiers(node, tiers, serves)
    container = node.text("container", CONTAINER_RULE, CONTAINER) or "anvil-router"
    generation = node.word("generation", GENERATIONS) or guess_generation(image or "")
    routes = _read_routes(node, generation, ids)
    return RouterPlan(
        image=image or "",
        container=container,
        volume=node.text("volume", "the name of a volume: " + CONTAINER_RULE, CONTAINER) or "anvil-router-cfg",
        bind=address[0] if address else "127.0.0.1",
        port=address[1] if address else 0,
        token=name,
        tiers=running,
        presets=_keep_running(_read_presets(node, ids), tiers, running),
        profile=tuple(row for row in _read_profile(node, ids) if row.tier_id in {tier.id for tier in running} or not tiers),
        ready_timeout=node.whole("ready_timeout", 1, LONGEST_WAIT_SECONDS, "seconds") or 60,
        request_timeout=node.whole("request_timeout", 1, LONGEST_WAIT_SECONDS, "seconds") or 300,
        edge=_read_edge(node, container, generation),
        extra_hosts=_extra_hosts(running, serves),
        generation=generation,
        routes={name: tier for name, tier in routes.items() if tier in {tier.id for tier in running} or not tiers},
    )
