# SPDX-License-Identifier: GPL-3.0-or-later
"""A container that was started by hand, as the serve of an inventory that would replace it. Secrets become names. Pure."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import find_flag, flag_of
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import ENGINES
from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import (
    SECRET_FLAG,
    is_secret_entry,
    mask_text,
)

SHELLS = ("sh", "bash", "dash", "ash", "zsh", "busybox")
SHELL_ENDS = ("&&", "||", ";", "|", "&", ">", ">>", "<", "2>&1", "2>", "1>")
# The words with which the command line of an engine begins -> the engine. A word is compared without its folder.
BEGINNINGS: Sequence[Tuple[Tuple[str, ...], str]] = (
    (("vllm", "serve"), "vllm"),
    (("vllm.entrypoints.openai.api_server",), "vllm"),
    (("sglang.launch_server",), "sglang"),
    (("sglang", "serve"), "sglang"),
    (("trtllm-serve", "serve"), "trtllm"),
    (("trtllm-serve",), "trtllm"),
    (("llama-server",), "llama_cpp"),
    (("llama_cpp.server",), "llama_cpp"),
)
IMAGE_WORDS = (("vllm", "vllm"), ("sglang", "sglang"), ("llama.cpp", "llama_cpp"), ("llama-server", "llama_cpp"))
PORTS = {"vllm": 8000, "sglang": 30000, "trtllm": 8000, "llama_cpp": 8080}
# Variables that the plan sets by itself, or that an image or the runtime brings.
DROPPED = re.compile(r"CUDA_VISIBLE_DEVICES|CUDA_DEVICE_ORDER|NVIDIA_.*|PATH|HOSTNAME|HOME|PWD|LD_LIBRARY_PATH|SHLVL|_")
SHM_BYTES = 64 << 20  # what the Docker Engine gives a container that asks for nothing
ANONYMOUS = re.compile(r"[0-9a-f]{64}")
UUID = re.compile(r"(GPU|MIG)-\S+")


@dataclass
class OfferedServe:
    """serve: an entry of ``anvil_serves``. gpus: alias -> entry of ``anvil_gpus``. secrets: name -> where its value stands now.

    notes: what the operator must know or decide. engine is missing in ``serve`` where the command is of none that is known.
    """

    name: str
    serve: Dict[str, Any] = field(default_factory=dict)
    gpus: Dict[str, Dict[str, Any]] = field(default_factory=dict)
    secrets: Dict[str, str] = field(default_factory=dict)
    notes: List[str] = field(default_factory=list)

    def as_dict(self) -> Dict[str, Any]:
        return {"serve": self.serve, "gpus": self.gpus, "secrets": self.secrets, "notes": self.notes}


def offer_serve(
    name: str,
    raw: Mapping[str, Any],
    image_environment: Sequence[str] = (),
    aliases: Optional[Mapping[str, str]] = None,
    cards: Optional[Mapping[str, int]] = None,
    uuids: Sequence[str] = (),
) -> OfferedServe:
    """raw: the Docker Engine's description of the container. image_environment: that of its image. aliases: UUID -> alias in the
    inventory. cards: UUID -> memory in MiB. uuids: the cards that the container holds.
    """
    offer = OfferedServe(name)
    config, host = raw.get("Config") or {}, raw.get("HostConfig") or {}
    lines = [str(line) for line in config.get("Env") or ()]
    environment = dict(line.split("=", 1) for line in lines if "=" in line)
    words = [str(word) for word in [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())]]
    image = str(config.get("Image") or "")
    engine, rest = find_command(unwrap_shell(words, environment), image)
    offer.serve.update({"engine": engine} if engine else {}, image=image, container=name_container(raw))
    if not engine:
        shown = mask_text(" ".join(words)) or "none"
        offer.notes.append("engine: the command is of no engine that is known, write engine, model and args by hand: " + shown)
        rest = []
    own_port = _read_arguments(offer, engine, rest)
    _read_port(offer, host, own_port or PORTS.get(engine, 0))
    inherited = set(image_environment)
    _read_environment(offer, engine, {key: value for key, value in environment.items() if key + "=" + value not in inherited})
    _read_mounts(offer, raw.get("Mounts") or ())
    _read_gpus(offer, uuids, aliases or {}, cards or {})
    _read_host_settings(offer, engine, host, config)
    return offer


def name_container(raw: Mapping[str, Any]) -> str:
    return str(raw.get("Name") or raw.get("Id") or "").lstrip("/")


def unwrap_shell(words: Sequence[str], environment: Mapping[str, str]) -> List[str]:
    """The words of a command line; those of the script if it is ``sh -c "…"``, with its plain variables filled in."""
    for number, word in enumerate(words[:-1]):
        if os.path.basename(word) in SHELLS and re.fullmatch(r"-[a-z]*c", words[number + 1]):
            script = words[number + 2] if number + 2 < len(words) else ""
            break
    else:
        return list(words)

    def fill(found: Any) -> str:
        name, default = found[1] or found[3], found[2] or ""
        return environment.get(name) or default or str(found[0])

    filled = re.sub(r"\$\{(\w+)(?::?-([^}]*))?\}|\$(\w+)", fill, script.replace("\\\n", " ").replace("\n", " ; "))
    try:
        return shlex.split(filled)
    except ValueError:
        return filled.split()


def find_command(words: Sequence[str], image: str) -> Tuple[str, List[str]]:
    """The engine of a command line and the words after its beginning; empty where it is of no known engine."""
    plain = [os.path.basename(word) for word in words]
    for beginning, engine in BEGINNINGS:
        for number in range(len(plain)):
            if tuple(plain[number : number + len(beginning)]) == beginning:
                rest = list(words[number + len(beginning) :])
                ends = [at for at, word in enumerate(rest) if word in SHELL_ENDS or word.endswith(";")]
                return engine, rest[: ends[0]] if ends else rest
    flags = next((number for number, word in enumerate(words) if flag_of(word)), None)
    for part, engine in IMAGE_WORDS:
        if part in image and flags is not None:
            return engine, list(words[flags:])
    return "", []


def _group_flags(words: Sequence[str]) -> List[List[str]]:
    """``[--port, 8000, -c, 5]`` as ``[[--port, 8000], [-c, 5]]``; words before the first flag are a group each."""
    groups: List[List[str]] = []
    for word in words:
        if flag_of(word) or not groups or not flag_of(groups[-1][0]):
            groups.append([word])
        else:
            groups[-1].append(word)
    return groups


def _read_arguments(offer: OfferedServe, engine: str, words: Sequence[str]) -> int:
    """Sort a command line into the keys of a serve and its args; returns the port of the server, 0 if it is not named."""
    known, port, args = ENGINES[engine].flags if engine else {}, 0, []
    abbreviates = bool(engine) and ENGINES[engine].abbreviates
    for group in _group_flags(words):
        flag = find_flag(group[0], known, abbreviates) or flag_of(group[0])
        head, given, inline = group[0].partition("=")
        values = ([inline] if given else []) + group[1:]
        key = known.get(flag, "")
        if not flag and "model" not in offer.serve:
            offer.serve["model"] = group[0]
        elif key == "port" and values and values[0].isdigit():
            port = int(values[0])
        elif key == "publish":
            continue
        elif key == "model" and key in offer.serve and values:
            offer.notes.append("model: left out, because the model is named already: " + mask_text(" ".join(group)))
        elif key in ("model", "served_name") and values:
            offer.serve[key] = values[0]
            if len(values) > 1:
                offer.notes.append("{0}: further values are left out: {1}".format(key, ", ".join(values[1:])))
        elif SECRET_FLAG.fullmatch(head) and values:
            _name_secret_flag(offer, engine, flag)
        elif mask_text(" ".join(group)) != " ".join(group):
            offer.notes.append("args: left out, because it holds a secret: " + mask_text(" ".join(group)))
        elif key and values:
            offer.notes.append("{0}: write it by hand, from {1}".format(key, " ".join(group)))
        elif flag:
            args.extend(group)
        else:
            offer.notes.append("args: not understood and left out: " + mask_text(group[0]))
    if args:
        offer.serve["args"] = args
    if engine and "model" not in offer.serve:
        offer.notes.append("model: the command names none; write the Hugging Face repository, or the path in the container")
    return port


def _name_secret_flag(offer: OfferedServe, engine: str, flag: str) -> None:
    if flag == "--api-key":
        if ENGINES[engine].key_env:
            offer.serve["api_key"] = _add_secret(offer, "api_key", "the value of --api-key")
        else:
            offer.notes.append("args: --api-key is left out, because {0} takes a key only on the command line".format(engine))
    elif flag in ("--hf-token", "-hft"):
        offer.serve.setdefault("secrets", {})["HF_TOKEN"] = _add_secret(offer, "hf_token", "the value of " + flag)
    else:
        offer.notes.append("args: {0} is left out, because it holds a secret: find the variable that replaces it".format(flag))


def _add_secret(offer: OfferedServe, word: str, place: str) -> str:
    name = "{0}_{1}".format(re.sub(r"\W", "_", offer.name), word.lower())
    offer.secrets[name] = "{0} of container {1}".format(place, offer.serve.get("container") or offer.name)
    return name


def _read_port(offer: OfferedServe, host: Mapping[str, Any], inner: int) -> None:
    """The port on the host: published from the server's own, or the server's own in the network of the host."""
    bindings = host.get("PortBindings") or {}
    published = [
        (str(item.get("HostIp") or "0.0.0.0"), int(item["HostPort"]), target)
        for target, items in bindings.items()
        for item in items or ()
        if str(item.get("HostPort") or "").isdigit() and str(target).endswith("/tcp")
    ]
    own = [one for one in published if one[2] == "{0}/tcp".format(inner)] or published
    bind, port = (own[0][0], own[0][1]) if own else ("0.0.0.0" if host.get("NetworkMode") == "host" else "", inner)
    if not port:
        offer.notes.append("port: the container publishes none; choose a free port of the host")
        return
    offer.serve["port"] = port
    if not own and host.get("NetworkMode") != "host":
        offer.notes.append("port: the container publishes none; {0} is the port of the server in it".format(port))
    elif bind and not bind.startswith("127.") and bind != "::1":
        text = "publish: it was reachable on {0}; the serve is published on 127.0.0.1, behind the router"
        offer.notes.append(text.format(bind))


def _read_environment(offer: OfferedServe, engine: str, environment: Mapping[str, str]) -> None:
    plain: Dict[str, str] = {}
    for name, value in sorted(environment.items()):
        if DROPPED.fullmatch(name):
            continue
        if engine and name == ENGINES[engine].key_env:
            offer.serve["api_key"] = _add_secret(offer, "api_key", "the variable " + name)
        elif is_secret_entry(name, value):
            offer.serve.setdefault("secrets", {})[name] = _add_secret(offer, name, "the variable " + name)
        else:
            plain[name] = value
    if plain:
        offer.serve["environment"] = plain


def _read_mounts(offer: OfferedServe, mounts: Sequence[Mapping[str, Any]]) -> None:
    found = []
    for mount in mounts:
        kind, target = str(mount.get("Type")), str(mount.get("Destination"))
        source = str(mount.get("Name") if kind == "volume" else mount.get("Source"))
        if kind == "volume" and ANONYMOUS.fullmatch(source):
            offer.notes.append("volumes: the anonymous volume at {0} is left out: {1}".format(target, source[:12]))
        elif kind in ("bind", "volume"):
            found.append("{0}:{1}{2}".format(source, target, "" if mount.get("RW", True) else ":ro"))
        elif kind != "tmpfs":
            offer.notes.append("volumes: the {0} mount at {1} is left out".format(kind, target))
    if found:
        offer.serve["volumes"] = sorted(found)


def _read_gpus(offer: OfferedServe, uuids: Sequence[str], aliases: Mapping[str, str], cards: Mapping[str, int]) -> None:
    chosen = []
    for number, uuid in enumerate(uuids):
        if not UUID.fullmatch(uuid):
            offer.notes.append("gpus: {0} is no card that the driver knows now".format(uuid))
            continue
        alias = aliases.get(uuid)
        if alias is None:
            alias = "gpu{0}".format(number)
            while alias in aliases.values():
                alias += "x"
            offer.gpus[alias] = {"uuid": uuid, **({"vram_mib": cards[uuid]} if uuid in cards else {})}
            if uuid not in cards:
                offer.notes.append("gpus: write vram_mib of {0}, as nvidia-smi prints it".format(uuid))
        chosen.append(alias)
    if chosen:
        offer.serve["gpus"] = chosen
        offer.notes.append("vram_mib: without it the serve claims the whole budget of its cards")


def _read_host_settings(offer: OfferedServe, engine: str, host: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    defaults = ENGINES[engine] if engine else None
    ipc, shm = str(host.get("IpcMode") or ""), int(host.get("ShmSize") or 0)
    if ipc == "host" and (defaults is None or defaults.ipc != "host"):
        offer.serve["ipc"] = "host"
    elif ipc != "host" and shm > SHM_BYTES:
        offer.serve["shm_size"] = "{0}m".format(shm >> 20)
    restart = str((host.get("RestartPolicy") or {}).get("Name") or "no")
    if restart in ("always", "on-failure"):
        offer.serve["restart"] = restart
    left = [
        word
        for word, there in (
            ("privileged", host.get("Privileged")),
            ("cap_add", host.get("CapAdd")),
            ("devices", [one for one in host.get("Devices") or () if "nvidia" not in str(one)]),
            ("pid: host", host.get("PidMode") == "host"),
            ("ulimits", host.get("Ulimits")),
            ("extra_hosts", host.get("ExtraHosts")),
            ("user " + mask_text(str(config.get("User") or "")), config.get("User")),
            ("mem_limit", host.get("Memory")),
        )
        if there
    ]
    if left:
        offer.notes.append("left out, because a serve has no such key: " + ", ".join(left))
