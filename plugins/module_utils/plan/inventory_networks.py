# SPDX-License-Identifier: GPL-3.0-or-later
"""Decide the network of each serve, whether it may reach other machines, and what it gets to download weights by itself."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog import model_sources as sources
from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import flag_of, is_on
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import CUSTOM, ENGINES
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import EXPERIMENT_NETWORK, Mount
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan, RouterPlan, ServePlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import Section

# Flags of engines that talk to other machines: several hosts, caches, traces.
REMOTE_FLAGS = (
    *("--nnodes", "-n", "--master-addr", "--dist-init-addr", "--data-parallel-address", "--headless", "--rpc", "--encoder-urls"),
    *("--otlp-traces-endpoint", "--kv-transfer-config", "--ec-transfer-config", "--kv-events-config", "--disagg-cluster-uri"),
    *("--allowed-media-domains", "--encoder-register-urls", "--metadata-server-config-file", "--weight-transfer-config"),
)
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")
OFFLINE = "HF_HUB_OFFLINE"
HUB_ENGINES = ("vllm", "sglang", "trtllm")
# gpt-oss: the engine fetches the vocabulary of its format (harmony) when it starts.
FETCHES_VOCABULARY = re.compile(r"gpt.?oss|openai_gptoss", re.IGNORECASE)
VOCABULARY = ("TIKTOKEN_ENCODINGS_BASE", "TIKTOKEN_RS_CACHE_DIR")
# A container on a closed network asks itself for names outside; the names of containers are answered by the Docker Engine.
NO_DNS = ("127.0.0.1",)


def names_repository(engine: str, args: Sequence[str]) -> str:
    """The first setting that names a repository, which the engine fetches; empty for none."""
    for one in sources.read_command_line(engine, args):
        fetched = one.role in (sources.UNPINNED, sources.DOWNLOAD) or bool(sources.URL.match(one.value))
        named = one.role in (sources.WEIGHTS, sources.ADAPTERS, sources.NAMED) and sources.REPOSITORY.fullmatch(one.value)
        if fetched or named or one.role == sources.CONFIG:
            return one.spelling
    return ""


def _lies_below(model: str, mounts: Sequence[Mount]) -> bool:
    return any(model == mount.target or model.startswith(mount.target.rstrip("/") + "/") for mount in mounts)


def find_reason_for_egress(serve: ServePlan, own_entrypoint: bool) -> str:
    """Why a serve may need other machines; empty where all that it loads is mounted."""
    models = [options["model"] for options in serve.models.values()] or [serve.model]
    if serve.engine == CUSTOM or serve.engine not in ENGINES:
        return "nothing is known of what the server fetches"
    outside = [model for model in models if not model.startswith("/") or not _lies_below(model, serve.mounts)]
    if outside:
        return "{0} lies in no volume of the serve".format(outside[0] or "the model")
    if own_entrypoint:
        return "its entrypoint may fetch something"
    named = names_repository(serve.engine, serve.args)
    if named:
        return "{0} may name something to fetch".format(named)
    remote = [flag_of(word) for word in serve.args if flag_of(word).partition(".")[0] in REMOTE_FLAGS]
    if remote:
        return "{0} names other machines".format(remote[0])
    addressed = [name for name, value in serve.environment.items() if sources.URL.search(value) or is_proxy(name)]
    if addressed:
        return "{0} names an address".format(addressed[0])
    text = " ".join((*models, serve.served_name, *serve.args))
    if serve.engine != "llama_cpp" and FETCHES_VOCABULARY.search(text) and not set(VOCABULARY) & set(serve.environment):
        return "an engine fetches the vocabulary of gpt-oss when it starts; {0} names one on the host".format(VOCABULARY[0])
    return ""


def find_code(serve: ServePlan) -> str:
    """The switch that runs the code of a model; that code may be in another repository."""
    switches = [one for one in sources.read_command_line(serve.engine, serve.args) if one.role == sources.CODE]
    return "{0} may fetch code".format(switches[-1].spelling) if switches and is_on(switches[-1].value) else ""


def is_proxy(name: str) -> bool:
    return name.lower() in ("http_proxy", "https_proxy", "all_proxy")


@dataclass(frozen=True)
class NetworkSettings:
    """egress: as written; None: not written. network: the one of the inventory. pinned: a policy fixes the models and their
    code, so code that comes with weights on the host fetches nothing."""

    egress: Optional[bool]
    network: str
    pinned: bool


def close_serve(section: Section, serve: ServePlan, given: NetworkSettings, own_entrypoint: bool) -> ServePlan:
    """The serve with its network, and without what only a download needs."""
    reason = find_reason_for_egress(serve, own_entrypoint) or ("" if given.pinned else find_code(serve))
    open_ = bool(reason) if given.egress is None else given.egress
    environment, secrets = _give_hub(section, serve, given.pinned)
    if given.network == EXPERIMENT_NETWORK:
        return replace(serve, environment=environment, secrets=secrets)
    if given.egress is None and reason and serve.engine != CUSTOM and serve.model.startswith("/"):
        section.add_note("egress", "the serve may reach other machines: {0}. egress: false closes its network".format(reason))
    return replace(
        serve,
        environment=environment,
        secrets=secrets,
        network="{0}-{1}-{2}".format(given.network, "open" if open_ else "serve", serve.name),
        closed=not open_,
        dns=() if open_ else NO_DNS,
    )


def _give_hub(section: Section, serve: ServePlan, pinned: bool) -> Tuple[Dict[str, str], Dict[str, str]]:
    """Its variables and secrets: offline and without the token of the hub, if all that it loads is mounted."""
    environment, secrets = dict(serve.environment), dict(serve.secrets)
    tokens = [name for name in TOKENS if name in secrets]
    if serve.engine not in HUB_ENGINES:
        return environment, secrets
    if not serve.model.startswith("/") or names_repository(serve.engine, serve.args) or (find_code(serve) and not pinned):
        for name in tokens:
            section.add_note(
                "secrets",
                "the serve gets {0}, because it downloads weights by itself; a model that anvil_model brings into a volume needs"
                " none".format(name),
            )
        return environment, secrets
    for name in tokens:
        del secrets[name]
        section.add_note(
            "secrets", "{0} is not given to the serve: its weights are mounted, so it downloads nothing".format(name)
        )
    if OFFLINE not in environment and "TRANSFORMERS_OFFLINE" not in environment:
        environment[OFFLINE] = "1"
    return dict(sorted(environment.items())), secrets


def connect_router(router: Optional[RouterPlan], serves: Sequence[ServePlan]) -> Optional[RouterPlan]:
    """The router on the network of each serve that one of its tiers names."""
    if router is None:
        return None
    tiers = {tier.serve for tier in (*router.tiers, *router.purposes, *router.audio)}
    networks: List[str] = sorted(
        {serve.network for serve in serves if serve.network and not serve.host_network and serve.name in tiers}
    )
    return replace(router, serve_networks=tuple(networks))


def list_peers(plan: HostPlan, serve: ServePlan) -> Mapping[str, str]:
    """The containers of router and edge that must reach a serve: container -> the name of its service."""
    router, edge = plan.router, plan.edge
    found: Dict[str, str] = {}
    if router is not None and serve.network in router.serve_networks:
        replicas = edge.replicas if edge is not None else ()
        found.update({one.container: one.service for one in replicas} or {router.container: "router"})
    if edge is not None and serve.container in edge.fronted:
        found[edge.container] = "edge"
    return found
