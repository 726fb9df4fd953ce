# SPDX-License-Identifier: GPL-3.0-or-later
"""Check ``anvil_serves`` and decide every default of each serve."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import Settings, flag_of, read_settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.endpoint import Endpoint, read_endpoint
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engine_options import NO_HTTP, SHARE, SOCKET
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import CUSTOM, ENGINES, Engine
from ansible_collections.anvil.serving.plugins.module_utils.catalog.served_kinds import KINDS, derive_kind
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import EVICTABLE, ON_DEMAND, RESIDENT
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import SERVE_PIDS, ServePlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_custom_engine import (
    CUSTOM_KEYS,
    read_engine_of_serve,
    read_ready_path,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_engines import (
    SHARED_KEYS,
    SharedSettings,
    read_shared_settings,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_gpus import InventoryGpus
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_host_parts import (
    choose_own_gpus,
    decide_host,
    place_part,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_hosts import (
    HOST_KEYS,
    HostPart,
    is_elsewhere,
    read_hosts,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_idle import read_idle
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_launch import launch_environment
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_networks import NetworkSettings, close_serve
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_publish import PUBLISH_KEYS, read_serve_publish
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_secrets import InventorySecrets
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_security import (
    decide_confinement,
    decide_shared_memory,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_serve_gpus import (
    decide_card_environment,
    decide_parallel_arguments,
    decide_visible_devices,
    describe_cards,
    read_gpu_aliases,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_serve_models import (
    check_model,
    check_served_name,
    default_served_name,
    name_arguments,
    read_models,
    read_served_names,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    CONTAINER,
    CONTAINER_RULE,
    NAME,
    NAME_RULE,
    NO_SPACE,
    UNREAD,
    InventoryCheck,
    Section,
    shorten,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_vram_claims import (
    KEY,
    read_memory_share,
    read_share,
    read_vram_claims,
)

RESIDENCIES = (RESIDENT, EVICTABLE, ON_DEMAND)
PARTS = ("chat", "tool")
SERVE_KEYS = (
    *SHARED_KEYS,
    *CUSTOM_KEYS,
    "engine",
    "model",
    "served_name",
    "container",
    "gpus",
    *HOST_KEYS,
    *PUBLISH_KEYS,
    "port",
    "container_port",
    "vram_mib",
    "gpu_memory_utilization",
    "residency",
    "tags",
    "api_key",
    "part",
    "models",
    "models_max",
    "idle_unload",
    "idle",
    "kind",
)


@dataclass(frozen=True)
class HostSettings:
    """What the rest of the inventory says about every serve of the host.

    engines: engine -> its defaults. engines_with_unread_image: their image is set but could not be read. max_wait, wait_interval:
    seconds, for a serve that sets none. default_part_key: the secret with the API key of a serve that has a ``part`` and no
    ``api_key``. deploy_flags: the environment of a serve that has a ``part``. has_clients: ``anvil_clients`` names clients.
    has_policy: the inventory lists the models that are allowed. host: its name in the inventory.
    """

    platform: str
    gpus: InventoryGpus
    engines: Dict[str, SharedSettings]
    engines_with_unread_image: Set[str]
    secrets: InventorySecrets
    max_wait: int = 300
    wait_interval: int = 5
    default_part_key: str = ""
    deploy_flags: Mapping[str, str] = field(default_factory=dict)
    has_clients: bool = False
    network: str = "anvil"
    has_policy: bool = False
    host: str = ""


def _read_engine(section: Section, name: str) -> Optional[str]:
    value = section.raw.get("engine")
    if value is UNREAD:
        return None
    if value is None:
        section.add_problem("engine", "serve {0} has no engine".format(name), "set it to one of: " + ", ".join(ENGINES))
    else:
        return section.read_choice("engine", tuple(ENGINES))
    return None


def _read_tags(section: Section) -> Tuple[str, ...]:
    listed = section.check.read_list(section.path_of("tags"), section.raw.get("tags"), "tags: [night]")
    words = [section.check.match_text(path, value, NAME, NAME_RULE) for path, value in listed or ()]
    return tuple(dict.fromkeys(word for word in words if word))


def _read_api_key(section: Section, name: Optional[str], engine: Engine, secrets: InventorySecrets, default: str) -> str:
    secret = secrets.read_secret_name(section.path_of("api_key"), section.raw.get("api_key") or default or None)
    if section.has("api_key") and name == CUSTOM and not engine.key_env:
        section.add_problem(
            "api_key",
            "it is not known from which variable the server reads its API key",
            "set key_env to the name of that environment variable, such as API_KEY",
        )
        return ""
    if section.has("api_key") and name and not engine.key_env:
        section.add_problem(
            "api_key",
            "engine {0} cannot take an API key".format(name),
            "remove api_key, and name clients in anvil_clients, or keep publish: 127.0.0.1; the router has a token",
            "{0} accepts a key on the command line only, and every user of the host can read a command line".format(name),
        )
        return ""
    return secret


def _advise_key(name: Optional[str], engine: Engine) -> str:
    """How a serve that is published beyond loopback gets clients that the edge can tell apart."""
    takes_key = name in (None, CUSTOM) or bool(engine.key_env)
    named = "anvil_clients: {alice: {keys: [<name in anvil_secrets>]}}"
    return "set {0}{1}, or publish: 127.0.0.1".format("api_key: <name in anvil_secrets>, or " if takes_key else "", named)


def _merge_environment(
    engine: Engine, shared: SharedSettings, visible: Sequence[str], gpus: bool, platform: str, derived: Mapping[str, str]
) -> Dict[str, str]:
    merged: Dict[str, str] = {**(engine.gpu_environment if gpus else {}), **derived}
    merged.update(launch_environment(shared.launch, engine))
    if platform == "wsl2":
        merged.update(engine.wsl2_environment)
    merged.update(shared.environment)
    if visible:
        merged["CUDA_VISIBLE_DEVICES"] = ",".join(visible)
    return {name: value for name, value in sorted(merged.items()) if name not in shared.secrets}


def _check_shared(section: Section, shared: SharedSettings) -> None:
    for name in sorted(set(shared.environment) & set(shared.secrets)):
        section.check.add_problem(
            (*section.path_of("secrets"), name), "{0} is set in environment and in secrets".format(name), "keep one of the two"
        )
    if shared.ipc == "host" and shared.shm_size is not None:
        section.add_problem(
            "shm_size",
            "shm_size {0} has no effect with ipc: host".format(shared.shm_size),
            "remove shm_size, or set ipc: private",
        )


def _check_launch(section: Section, shared: SharedSettings, engine: Engine) -> None:
    for key in shared.launch:
        flags = [flag_of(word) for word in shared.args if flag_of(word) in engine.launch.get(key, ())]
        if flags:
            section.check.add_problem(
                (*section.path_of("launch"), key), "{0} is also in args".format(flags[0]), "keep one of the two"
            )


def _read_settings(section: Section, engine: str, shared: SharedSettings) -> Settings:
    settings = read_settings(engine, shared.args, shared.environment)
    for note in settings.notes:
        section.add_note("args", note)
    return settings


def _read_names(section: Section, engine: Engine) -> Tuple[str, ...]:
    names = tuple(read_served_names(section, engine))
    for name in names:
        check_served_name(section, name, engine)
    return names


def _read_endpoint(section: Section, settings: Settings) -> Endpoint:
    """Where the serve answers. Readiness and tiers follow TLS and a prefix; nothing reaches a socket in the container."""
    endpoint = read_endpoint(settings)
    if endpoint.socket:
        flag = settings.spelling(SOCKET)
        section.add_problem(
            "args",
            "the serve would answer on the socket {0} only".format(shorten(endpoint.socket)),
            "remove {0}: readiness, router and clients reach a serve by its port".format(flag),
        )
    if settings.is_on(NO_HTTP):
        section.add_problem(
            "args",
            "the serve would not answer HTTP requests",
            "remove {0}: readiness, router and clients speak HTTP".format(settings.spelling(NO_HTTP)),
        )
    if endpoint.tls:
        section.add_note("args", "the engine speaks TLS, so a router must trust the certificate for the container's name")
    return endpoint


def _read_serve(section: Section, name: str, host: HostSettings) -> ServePlan:
    """One serve. After a reported mistake an empty value takes the place of the wrong one, because the plan is discarded."""
    section.check_keys(SERVE_KEYS)
    word = _read_engine(section, name)
    engine = read_engine_of_serve(section, word or "")
    mine = read_shared_settings(section, engine if word else None, host.secrets)
    shared = mine.merge_over(host.engines.get(word or "", SharedSettings()))
    _check_shared(section, shared)
    _check_launch(section, shared, engine)
    # With an unknown engine, only one thing is certain: if no engine has a default image, this serve has none.
    images = {word: shared.image} if word else {known: below.image for known, below in host.engines.items()}
    if not section.has("image") and not any(images.values()) and not host.engines_with_unread_image & {word or "", *images}:
        section.add_problem(
            "image",
            "serve {0} has no image".format(name),
            "set image here, or anvil_engines.{0}.image".format(word or "ENGINE"),
        )
    if not section.has("model") and not section.has("models") and word != CUSTOM:
        hint = "set it to a Hugging Face repository, or to the path of the weights in the container"
        section.add_problem("model", "serve {0} has no model".format(name), hint)
    if not section.has("port"):
        section.add_problem("port", "serve {0} has no port".format(name), "set it to a free port of the host, such as 30002")
    model = section.read_text("model", "a Hugging Face repository, or a path in the container, without spaces", NO_SPACE)
    check_model(section, model, engine if word else None, shared.mounts)
    hosts = read_hosts(section, host.host, word or "")
    section = choose_own_gpus(section, host.host)
    aliases, sound = read_gpu_aliases(section, host.gpus)
    cards = tuple(host.gpus.by_alias[alias] for alias in aliases) if sound else ()
    pin = shared.gpu_pin or ("uuid" if host.platform == "wsl2" else "device_ids")
    visible = decide_visible_devices(section, pin, cards, host.platform)
    settings = _read_settings(section, word or "", shared)
    endpoint = _read_endpoint(section, settings)
    confinement = decide_confinement(shared.security, engine, shared.entrypoint is not None)
    derived = {**confinement.environment, **describe_cards(cards)}
    derived.update(decide_card_environment(section, engine, shared, settings, cards, host.platform))
    port = section.read_integer("port", 1, 65535) or 0
    can_be_asked = section.has("api_key") or host.has_clients
    bind, published = read_serve_publish(section, port, can_be_asked, _advise_key(word, engine))
    part = section.read_choice("part", PARTS) or ""
    derived.update(host.deploy_flags if part else {})
    key = _read_api_key(section, word, engine, host.secrets, host.default_part_key if part and engine.key_env else "")
    models, several = read_models(section, engine, shared)
    names = _read_names(section, engine)
    served = names[0] if names else None
    secrets = {**shared.secrets, **({engine.key_env: key} if key and engine.key_env else {})}
    ipc, shm_size = decide_shared_memory(section, shared.ipc, shared.shm_size, shared.args, engine)
    share_key = KEY if section.has(KEY) else settings.spelling(SHARE)
    claims = read_vram_claims(section, aliases, cards, read_share(section, engine, settings), share_key)
    need = max(claims.values(), default=0)
    part_here = HostPart(decide_parallel_arguments(section, engine, settings, model, len(aliases)) if hosts is None else ())
    if hosts is not None:
        part_here = decide_host(section, hosts, settings, shared, {"model": model, "served_name": names, "port": port})
    derived.update(part_here.environment)
    planned = ServePlan(
        name=name,
        container=section.read_text("container", CONTAINER_RULE, CONTAINER) or "anvil-" + name,
        engine=word or "",
        image=shared.image or "",
        model=model or "",
        served_name=served or next(iter(models), default_served_name(model or "", engine) or name),
        port=port,
        bind=bind,
        gpus=aliases,
        gpu_uuids=tuple(card.uuid for card in cards),
        cuda_visible=visible,
        args=several
        + name_arguments(served, engine)
        + shared.args
        + part_here.args
        + read_memory_share(section, word or "", engine, settings, claims, cards),
        environment=_merge_environment(engine, shared, visible, bool(aliases), host.platform, derived),
        secrets=dict(sorted(secrets.items())),
        mounts=shared.mounts,
        entrypoint=shared.entrypoint if shared.entrypoint is not None else engine.entrypoint,
        vram_mib=need,
        ipc=ipc,
        shm_size=shm_size,
        restart=shared.restart or "unless-stopped",
        api_key=key,
        read_only=confinement.read_only,
        tmpfs=confinement.tmpfs,
        user=confinement.user,
        cap_drop=confinement.cap_drop,
        cap_add=confinement.cap_add,
        security_opt=confinement.security_opt,
        ready_timeout=shared.ready_timeout or host.max_wait,
        residency=section.read_choice("residency", RESIDENCIES) or RESIDENT,
        idle=read_idle(section),
        tags=_read_tags(section),
        part=part,
        models=models,
        interval=shared.ready_interval or host.wait_interval,
        warmup=bool(shared.warmup),
        on_failure=shared.on_failure or "",
        kind=section.read_choice("kind", KINDS) or derive_kind(settings, model or ""),
        mem_limit=shared.mem_limit or "",
        pids_limit=shared.pids_limit or SERVE_PIDS,
        tls=endpoint.tls,
        api_prefix=endpoint.prefix,
        more_names=names[1:],
        vram_by_card=claims if len(set(claims.values())) > 1 else {},
        container_port=section.read_integer("container_port", 1, 65535) or 0,
        ready_path=read_ready_path(section, word or ""),
        published=published,
        common=dict(part_here.common),
    )
    networks = NetworkSettings(shared.egress, host.network, host.has_policy)
    if hosts is not None:
        return place_part(section, planned, hosts, shared, networks)
    return close_serve(section, planned, networks, shared.entrypoint not in (None, engine.entrypoint))


def read_serves(check: InventoryCheck, value: Any, host: HostSettings) -> Tuple[Optional[Tuple[str, ...]], List[ServePlan]]:
    """The names of all serves (None: ``anvil_serves`` could not be read), and the serves that are mappings."""
    example = "anvil_serves: {heavy: {engine: vllm, model: …, port: 30002}}"
    section = check.read_mapping(("anvil_serves",), value, example)
    if section is None:
        return (() if value is None else None), []
    names, serves = [], []
    for name, path, raw in section.read_entries(NAME, NAME_RULE):
        inner = check.read_mapping(path, {} if raw is None else raw, example)
        if inner and is_elsewhere(inner, host.host):
            check.add_note(path, "serve {0} runs on {1}, not on this host".format(name, ", ".join(inner.raw["hosts"])))
            continue
        names.append(name)
        if inner:
            serves.append(_read_serve(inner, name, host))
    for serve in serves:
        for tag in sorted(set(serve.tags) & set(names)):
            check.add_problem(
                ("anvil_serves", serve.name, "tags"), "tag {0} is also the name of a serve".format(tag), "choose another tag"
            )
    return tuple(names), serves
