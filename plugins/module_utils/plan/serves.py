# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``anvil_serves``: each serve with every default decided, and whether their claims fit the cards."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.card_capabilities import find_capability, torch_environment
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import ENGINES, Engine, flag_of
from ansible_collections.anvil.serving.plugins.module_utils.docker.service import EVICTABLE, OFF, ON_DEMAND, RESIDENT, Mount
from ansible_collections.anvil.serving.plugins.module_utils.plan.engine_defaults import (
    SHARED_KEYS,
    Shared,
    launch_environment,
    launch_words,
    read_launch,
    read_shared,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.gpus import Gpus
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import Gpu, ServePlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    CONTAINER,
    CONTAINER_RULE,
    NAME,
    NAME_RULE,
    NO_SPACE,
    UNREAD,
    Check,
    Node,
    describe,
    is_loopback,
    read_address,
    shorten,
    suggest,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.secrets import Secrets

RESIDENCIES = (RESIDENT, EVICTABLE, ON_DEMAND)
SERVE_KEYS = (
    *SHARED_KEYS,
    "engine",
    "model",
    "served_name",
    "container",
    "gpus",
    "publish",
    "port",
    "vram_mib",
    "gpu_memory_utilization",
    "residency",
    "tags",
    "api_key",
    "part",
    "models",
    "models_max",
    "idle_unload",
)
MODEL_KEYS = ("model", "launch")
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,120}")
PARTS = ("chat", "tool")


@dataclass(frozen=True)
class HostSections:
    """What every serve is read against.

    max_wait, wait_interval: seconds, where a serve does not say. part_key: the secret that a serve with a part presents where
    it names none.
    """

    platform: str
    gpus: Gpus
    engines: Dict[str, Shared]
    unread_images: Set[str]
    secrets: Secrets
    max_wait: int = 300
    wait_interval: int = 5
    part_key: str = ""


def _read_engine(node: Node, name: str) -> Optional[str]:
    value = node.raw.get("engine")
    if value is UNREAD:
        return None
    if value is None:
        node.check.wrong(node.at("engine"), "serve {0} has no engine".format(name), "one of: " + ", ".join(ENGINES))
    else:
        return node.word("engine", tuple(ENGINES))
    return None


def _read_cards(node: Node, gpus: Gpus) -> Tuple[Tuple[str, ...], bool]:
    """The aliases a serve names, and whether all of them are cards without a mistake."""
    listed = node.check.items(node.at("gpus"), node.raw.get("gpus"), "gpus: [alias]")
    found: List[str] = []
    for path, alias in listed or ():
        if not isinstance(alias, str):
            node.check.wrong(path, "the alias of a GPU is wanted, not {0}".format(describe(alias)), "gpus: [alias]")
        elif alias in found:
            node.check.wrong(path, "GPU {0} is named twice".format(alias), "name each card once")
        elif gpus.aliases is not None and alias not in gpus.aliases:
            hint = suggest(alias, gpus.aliases, "anvil_gpus has no cards: add it there")
            node.check.wrong(path, "unknown GPU {0!r}".format(shorten(alias)), hint)
        else:
            found.append(str(alias))
    sound = (listed is not None or not node.has("gpus")) and all(alias in gpus.by_alias for alias in found)
    return tuple(found), sound and len(found) == len(listed or ())


def _pin(node: Node, pin: str, cards: Sequence[Gpu], platform: str) -> Tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES has to say; nothing: the device reservation alone pins the serve.

    WSL2 shows a container every card, so there the host's own indexes count. Elsewhere the container sees no cards
    but its own, and counts them from 0.
    """
    if pin == "uuid":
        return tuple(card.uuid for card in cards)
    if pin == "device_ids":
        if cards and platform == "wsl2":
            node.check.note(
                node.at("gpu_pin"), "WSL2 shows a container every card, whatever device_ids says; uuid or index pins it"
            )
        return ()
    for card in cards:
        if card.index is None:
            node.check.wrong(
                node.at("gpu_pin"),
                "GPU {0} has no index to pin by".format(card.alias),
                "give anvil_gpus.{0}.index, as nvidia-smi tells it, or pin by uuid".format(card.alias),
            )
    if platform == "wsl2":
        return tuple(str(card.index) for card in cards)
    return tuple(str(number) for number in range(len(cards)))


def _read_vram(node: Node, cards: Sequence[Gpu], listed: bool) -> int:
    """MiB claimed on each card. Without a claim a serve takes all that its smallest card has to give."""
    claim = node.whole("vram_mib", 1, 10**7, "MiB")
    if claim is not None and not listed and not node.has("gpus"):
        node.check.wrong(
            node.at("vram_mib"),
            "{0} MiB are claimed, but no GPU".format(claim),
            "say gpus: [alias], or leave vram_mib out",
        )
    if node.has("vram_mib") or not cards:
        return claim or 0
    budget = min(card.budget_mib for card in cards)
    node.check.note(
        node.path,
        "no vram_mib: it claims the whole budget of {0} ({1} MiB)".format(", ".join(card.alias for card in cards), budget),
    )
    return budget


def _read_share(node: Node, word: Optional[str], args: Sequence[str], need: int, cards: Sequence[Gpu]) -> Tuple[str, ...]:
    """The arguments for ``gpu_memory_utilization``: a share of *total* memory, ``derive`` takes it from the need.

    Rounded down to three decimals, so that it never comes to more than the need. Several cards share one flag: the
    largest of them decides, and the need is exceeded on none.
    """
    key, value = "gpu_memory_utilization", node.raw.get("gpu_memory_utilization")
    if value is None or value is UNREAD:
        return ()
    flag = ENGINES[word].share_flag if word else "?"
    if not flag:
        node.check.wrong(node.at(key), "an {0} serve has no such setting".format(word), "it is for engine: vllm")
        return ()
    if any(flag_of(arg) == flag for arg in args):
        node.check.wrong(node.at(key), "{0} is also in args".format(flag), "keep one of the two")
        return ()
    if value == "derive":
        if not node.has("gpus"):
            node.check.wrong(node.at(key), "there is no GPU to derive it from", "say gpus: [alias]")
        if not cards or not need:
            return ()
        value = need * 1000 // max(card.vram_mib for card in cards) / 1000
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        node.check.wrong(node.at(key), "derive or a number is wanted, not {0}".format(describe(value)), "derive, or 0.88")
        return ()
    if not 0 < value <= 1:  # not a number is no share either
        node.check.wrong(node.at(key), "{0} is no share of a card".format(describe(value)), "more than 0, at most 1")
        return ()
    return (flag, "{0:g}".format(value))


def _read_tags(node: Node) -> Tuple[str, ...]:
    listed = node.check.items(node.at("tags"), node.raw.get("tags"), "tags: [night]")
    words = [node.check.plain(path, value, NAME, NAME_RULE) for path, value in listed or ()]
    return tuple(dict.fromkeys(word for word in words if word))


def _read_key(node: Node, engine: Optional[str], secrets: Secrets, otherwise: str) -> str:
    name = secrets.name_at(node.at("api_key"), node.raw.get("api_key") or otherwise or None)
    if node.has("api_key") and engine and not ENGINES[engine].key_env:
        node.check.wrong(
            node.at("api_key"),
            "an {0} serve cannot take a key".format(engine),
            "leave it on 127.0.0.1 without a key; clients use the router, which has its token",
            "{0} takes its key on the command line only, where every user of the host can read it".format(engine),
        )
        return ""
    return name


def _check_publish(node: Node, bind: str, engine: Optional[str]) -> None:
    if is_loopback(bind) or node.has("api_key"):
        return
    can = engine is None or bool(ENGINES[engine].key_env)
    node.check.wrong(
        node.at("publish"),
        "{0} is published beyond loopback without a key".format(bind),
        "set api_key: <name in anvil_secrets>, or publish: 127.0.0.1" if can else "publish: 127.0.0.1",
        "anyone who reaches the port could use the GPU",
    )


def _check_model(node: Node, model: Optional[str], engine: Optional[Engine], mounts: Sequence[Mount]) -> None:
    if model is None or engine is None:
        return
    if engine.model_is_file and not model.startswith("/"):
        node.check.wrong(
            node.at("model"),
            "{0!r} is not a path in the container".format(shorten(model)),
            "llama_cpp serves a file: mount its folder with volumes and give /path/in/container/model.gguf",
        )
    elif model.startswith("/") and not any(
        model == mount.target or model.startswith(mount.target.rstrip("/") + "/") for mount in mounts
    ):
        node.check.note(node.at("model"), "no volume holds {0}: the image must".format(shorten(model)))


ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def _card_environment(node: Node, engine: Engine, shared: Shared, cards: Sequence[Gpu], platform: str) -> Dict[str, str]:
    """What the capability of all cards of a serve decides and the inventory does not say; told in a note."""
    versions = [card.compute_capability for card in cards if card.compute_capability]
    if not engine.torch or not versions:
        return {}
    if len(versions) < len(cards):
        node.check.note(node.at("gpus"), "not every card has a compute_capability in anvil_gpus: nothing is set for the others")
        return {}
    said = set(shared.environment) | set(shared.secrets)
    if said.intersection(ALLOCATOR):  # two names of one setting
        said.update(ALLOCATOR)
    # WSL2's driver has no virtual memory management for expandable segments.
    decided = torch_environment(versions, expandable=platform != "wsl2")
    found = {name: value for name, value in decided.items() if name not in said}
    if found:
        told = ", ".join("{0}={1}".format(name, value) for name, value in found.items())
        node.check.note(node.path, "by the compute capability of its cards: " + told)
    rows = [find_capability(version) for version in versions]
    if all(row and row.fp8 for row in rows) and not any(flag_of(word) in engine.kv_flags for word in shared.args):
        node.check.note(node.at("args"), "its cards can hold the KV cache in half the memory: {0} fp8".format(engine.kv_flags[0]))
    return found


def _environment(
    engine: Engine, shared: Shared, visible: Sequence[str], gpus: bool, platform: str, by_card: Mapping[str, str]
) -> Dict[str, str]:
    merged: Dict[str, str] = {**engine.gpu_environment, **by_card} if gpus else {}
    merged.update(launch_environment(shared.launch, engine))
    if platform == "wsl2":
        merged.update(engine.wsl2_environment)
    merged.update(shared.environment)
    if visible:
        merged["CUDA_VISIBLE_DEVICES"] = ",".join(visible)
    return {name: value for name, value in sorted(merged.items()) if name not in shared.secrets}


def _check_shared(node: Node, shared: Shared) -> None:
    for name in sorted(set(shared.environment) & set(shared.secrets)):
        node.check.wrong((*node.at("secrets"), name), "{0} is in environment and in secrets".format(name), "keep one of the two")
    if shared.ipc == "host" and shared.shm_size is not None:
        node.check.wrong(
            node.at("shm_size"),
            "shm_size {0} has no effect with ipc: host".format(shared.shm_size),
            "leave shm_size out, or say ipc: private",
        )


def _check_launch(node: Node, shared: Shared, engine: Engine) -> None:
    for key in shared.launch:
        flags = [flag_of(word) for word in shared.args if flag_of(word) in engine.launch.get(key, ())]
        if flags:
            node.check.wrong((*node.at("launch"), key), "{0} is also in args".format(flags[0]), "keep one of the two")


def _read_models(node: Node, engine: Engine, shared: Shared) -> Tuple[Dict[str, Dict[str, str]], Tuple[str, ...]]:
    """The models of a server of several, each with its options, and the arguments; those of one model are its ``launch``."""
    if not node.has("models"):
        for key in ("models_max", "idle_unload"):
            if node.has(key):
                node.check.wrong(node.at(key), "it is for a server of several models", "name them in models, or leave it out")
        return {}, launch_words(shared.launch, engine)
    inner = node.check.mapping(node.at("models"), node.raw["models"], "models: {fast: {model: /models/fast.gguf}}")
    if not engine.launch:
        node.check.wrong(node.at("models"), "this engine serves one model", "it is for engine: llama_cpp")
        return {}, ()
    if node.has("model"):
        node.check.wrong(node.at("model"), "the serve has models", "keep one of the two")
    if node.has("served_name"):
        node.check.wrong(node.at("served_name"), "each of its models has a name", "leave it out: clients ask for a model by name")
    models: Dict[str, Dict[str, str]] = {}
    for name, path, raw in inner.entries(MODEL_NAME, "letters, digits and . _ : / -") if inner else ():
        each = node.check.mapping(path, raw, "{model: /models/fast.gguf}")
        if each is None:
            continue
        each.known(MODEL_KEYS)
        model = each.text("model", "the path of the file in the container", NO_SPACE)
        if not each.has("model"):
            node.check.wrong(each.at("model"), "model {0} has no file".format(name), "{model: /models/fast.gguf}")
        _check_model(each, model, engine, shared.mounts)
        mine = read_launch(each, engine)
        for key in sorted(set(mine) & set(engine.switches)):
            node.check.wrong(
                (*each.at("launch"), key), "it is the same for all models of a server", "say it in launch of the serve"
            )
        launch = {**shared.launch, **mine}
        models[name] = {"model": model or "", **_preset_options(launch, engine)}
    if inner and not inner.raw:
        node.check.wrong(node.at("models"), "is empty", "{fast: {model: /models/fast.gguf}}")
    words: List[str] = []
    for key, flag in (("models_max", "--models-max"), ("idle_unload", "--sleep-idle-seconds")):
        number = node.whole(key, 1, 10**6)
        words += [] if number is None else [flag, str(number)]
    return models, tuple(words)


def _preset_options(launch: Mapping[str, str], engine: Engine) -> Dict[str, str]:
    """``launch`` as llama.cpp's preset file has it: flags without their dashes."""
    words = launch_words(launch, engine)
    return {flag.lstrip("-"): value for flag, value in zip(words[::2], words[1::2])}


def _own_name(model: str, engine: Engine) -> str:
    """What an engine that is told no name calls the model; empty where it is always told one."""
    if not engine.names_itself:
        return ""
    return model.rstrip("/").rpartition("/")[2] if model.startswith("/") else model


def _naming(served: Optional[str], engine: Engine) -> Tuple[str, ...]:
    """Only newer releases of such an engine take a name, so it is told one only where the inventory asks for it."""
    return (engine.names_itself, served) if engine.names_itself and served else ()


def _read_serve(node: Node, name: str, host: HostSections) -> ServePlan:
    """One serve. Where a mistake was reported an empty value stands in: the plan is thrown away then."""
    node.known(SERVE_KEYS)
    word = _read_engine(node, name)
    engine = ENGINES[word] if word else Engine()
    mine = read_shared(node, engine if word else None, host.secrets)
    shared = mine.over(host.engines.get(word or "", Shared()))
    _check_shared(node, shared)
    _check_launch(node, shared, engine)
    # Of an unknown engine it is only known that there is no image where no engine has one.
    images = {word: shared.image} if word else {known: below.image for known, below in host.engines.items()}
    if not node.has("image") and not any(images.values()) and not host.unread_images & {word or "", *images}:
        node.check.wrong(
            node.at("image"),
            "serve {0} has no image".format(name),
            "give it here or in anvil_engines.{0}.image".format(word or "ENGINE"),
        )
    if not node.has("model") and not node.has("models"):
        hint = "the Hugging Face repository, or the path of the weights in the container"
        node.check.wrong(node.at("model"), "serve {0} has no model".format(name), hint)
    if not node.has("port"):
        node.check.wrong(node.at("port"), "serve {0} has no port".format(name), "a free port of the host: 30002")
    model = node.text("model", "the Hugging Face repository, or the path in the container", NO_SPACE)
    _check_model(node, model, engine if word else None, shared.mounts)
    aliases, sound = _read_cards(node, host.gpus)
    cards = tuple(host.gpus.by_alias[alias] for alias in aliases) if sound else ()
    pin = shared.gpu_pin or ("uuid" if host.platform == "wsl2" else "device_ids")
    visible = _pin(node, pin, cards, host.platform)
    by_card = _card_environment(node, engine, shared, cards, host.platform)
    publish = node.text("publish", "an address of this host: 127.0.0.1")
    bind = read_address(node.check, node.at("publish"), publish) if publish else None
    if bind:
        _check_publish(node, bind, word)
    part = node.word("part", PARTS) or ""
    key = _read_key(node, word, host.secrets, host.part_key if part and engine.key_env else "")
    models, several = _read_models(node, engine, shared)
    served = node.text("served_name", "one word: the name clients ask for", NO_SPACE)
    secrets = dict(shared.secrets)
    if key and engine.key_env:
        secrets[engine.key_env] = key
    ipc = shared.ipc if shared.ipc is not None else ("" if shared.shm_size else engine.ipc)
    need = _read_vram(node, cards, bool(aliases))
    return ServePlan(
        name=name,
        container=node.text("container", CONTAINER_RULE, CONTAINER) or "anvil-" + name,
        engine=word or "",
        image=shared.image or "",
        model=model or "",
        served_name=served or next(iter(models), _own_name(model or "", engine) or name),
        port=node.whole("port", 1, 65535) or 0,
        bind=bind or "127.0.0.1",
        gpus=aliases,
        gpu_uuids=tuple(card.uuid for card in cards),
        cuda_visible=visible,
        args=several + _naming(served, engine) + shared.args + _read_share(node, word, shared.args, need, cards),
        environment=_environment(engine, shared, visible, bool(aliases), host.platform, by_card),
        secrets=dict(sorted(secrets.items())),
        mounts=shared.mounts,
        entrypoint=shared.entrypoint if shared.entrypoint is not None else engine.entrypoint,
        vram_mib=need,
        ipc=ipc,
        shm_size=shared.shm_size or ("" if ipc == "host" else engine.shm_size),
        restart=shared.restart or "unless-stopped",
        api_key=key,
        read_only=engine.read_only,
        cap_drop=engine.cap_drop,
        ready_timeout=shared.ready_timeout or host.max_wait,
        residency=node.word("residency", RESIDENCIES) or RESIDENT,
        tags=_read_tags(node),
        part=part,
        models=models,
        interval=shared.ready_interval or host.wait_interval,
        warmup=bool(shared.warmup),
    )


def read_serves(check: Check, value: Any, host: HostSections) -> Tuple[Optional[Tuple[str, ...]], List[ServePlan]]:
    """The names of all serves (None: could not be read), and the serves that are mappings at all."""
    example = "anvil_serves: {heavy: {engine: vllm, model: …, port: 30002}}"
    node = check.mapping(("anvil_serves",), value, example)
    if node is None:
        return (() if value is None else None), []
    names, serves = [], []
    for name, path, raw in node.entries(NAME, NAME_RULE):
        names.append(name)
        inner = check.mapping(path, {} if raw is None else raw, example)
        if inner:
            serves.append(_read_serve(inner, name, host))
    for serve in serves:
        for tag in sorted(set(serve.tags) & set(names)):
            check.wrong(
                ("anvil_serves", serve.name, "tags"), "tag {0} is also the name of a serve".format(tag), "choose another word"
            )
    return tuple(names), serves


def check_vram(check: Check, described: Sequence[ServePlan], gpus: Gpus) -> None:
    """What may run at the same time must fit: resident and evictable serves together; each one on demand beside the
    resident ones, because it evicts the others."""
    serves = [serve for serve in described if serve.residency != OFF]
    on_demand = [serve for serve in serves if serve.residency == ON_DEMAND]
    resident = [serve for serve in serves if serve.residency == RESIDENT]
    for alias, gpu in gpus.by_alias.items():
        _check_sum(check, [serve for serve in serves if serve.residency != ON_DEMAND], alias, gpu)
        for serve in on_demand:
            if alias in serve.gpus:
                _check_sum(check, [*resident, serve], alias, gpu)


def _check_sum(check: Check, serves: Sequence[ServePlan], alias: str, gpu: Gpu) -> None:
    claims = [serve for serve in serves if alias in serve.gpus and serve.vram_mib]
    total = sum(serve.vram_mib for serve in claims)
    if total <= gpu.budget_mib:
        return
    terms = " + ".join("serve {0} {1}".format(serve.name, serve.vram_mib) for serve in claims)
    budget = "{0} MiB".format(gpu.budget_mib)
    if gpu.reserve_mib:
        budget = "{0} - {1} = {2}".format(gpu.vram_mib, gpu.reserve_mib, budget)
    alone = len(claims) == 1
    check.wrong(
        ("anvil_serves", claims[0].name, "vram_mib") if alone else ("anvil_gpus", alias),
        "GPU {0} is over its budget: {1}{2} MiB > {3}".format(alias, terms, "" if alone else " = {0}".format(total), budget),
        "claim at most {0}".format(budget.rpartition("= ")[2])
        if alone
        else "give the serves a smaller vram_mib (one without it claims the whole budget), or another GPU",
    )
