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
    is_secret_entry,
    is_secret_flag,
    mask_text,
)
from ansible_collections.anvil.serving.plugins.module_utils.docker import documents
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import list_bindings, read_environment

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
    (("tools.sh", "--server"), "llama_cpp"),
)
# Words between what a line for a shell does first and the arguments of the server.
STARTERS = frozenset(("exec", "-m", "--", *(word for beginning, _engine in BEGINNINGS for word in beginning)))
# What only starts the rest of a command line, or is a part of its own image.
INITS = frozenset(("tini", "dumb-init", "catatonit", "docker-init", "nvidia_entrypoint.sh"))
ASSIGNED = re.compile(r"[A-Za-z_]\w*=")
# Programs that run anything: without the beginning of an engine behind it, their command is of no engine.
RUNNERS = re.compile(r"python[\d.]*|node|busybox|[bdaz]*sh")
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
    document = documents.read_container(raw)
    config, host, image = document["Config"], document["HostConfig"], document["Config"]["Image"]
    environment = read_environment(config["Env"])
    words = [*config["Entrypoint"], *config["Cmd"]]
    script = unwrap_shell(words, environment)
    engine, rest = find_command(script, image)
    offer.serve.update({"engine": engine} if engine else {}, image=image, container=document["Name"].lstrip("/"))
    if not engine:
        shown = mask_text(" ".join(words)) or "none"
        offer.notes.append("engine: the command is of no engine that is known, write engine, model and args by hand: " + shown)
        rest = []
    else:
        environment.update(_read_wrapper(offer, script, rest))
    inherited = set(image_environment)
    own = {key: value for key, value in environment.items() if key + "=" + value not in inherited}
    own_port = _read_arguments(offer, engine, [*_flags_of_variables(engine, own, rest), *rest])
    _read_port(offer, document, own_port or PORTS.get(engine, 0))
    _read_environment(offer, engine, own)
    _read_mounts(offer, document["Mounts"])
    _read_gpus(offer, uuids, aliases or {}, cards or {})
    _read_host_settings(offer, engine, host, config)
    return offer


def _read_wrapper(offer: OfferedServe, script: Sequence[str], rest: Sequence[str]) -> Dict[str, str]:
    """The variables that a command line sets before its server (``env NAME=VALUE``).

    What else it does is a note: the serve starts the server alone.
    """
    starts = [at for at in range(len(script) - len(rest) + 1) if list(script[at : at + len(rest)]) == list(rest)]
    at = starts[-1] if rest and starts else len(script)
    before, after = list(script[:at]), list(script[at + len(rest) :])
    while before and (os.path.basename(before[-1]) in STARTERS or RUNNERS.fullmatch(os.path.basename(before[-1]))):
        before.pop()
    while before and (os.path.basename(before[0]) in INITS or before[0].startswith("-")):
        before.pop(0)
    assigned: Dict[str, str] = {}
    if before and os.path.basename(before[0]) == "env" and all(ASSIGNED.match(word) for word in before[1:]):
        assigned = dict(word.partition("=")[::2] for word in before[1:])
    elif before:
        text = mask_text(" ".join(before))
        offer.notes.append("args: left out of the command, write environment or an image for it: " + text)
    if find_command(after, "")[0]:
        offer.notes.append("the command starts another server too, which needs a serve of its own: " + mask_text(" ".join(after)))
    return assigned


def _flags_of_variables(engine: str, environment: Mapping[str, str], rest: Sequence[str] = ()) -> List[str]:
    """The variables that set keys of a serve, such as LLAMA_ARG_PORT, as the flags of the same settings. rest: flags, which count
    before them."""
    known = ENGINES[engine] if engine else None
    flags = {key: flag for flag, key in reversed(list(known.flags.items()))} if known else {}
    given = {known.flags.get(flag_of(word)) for word in rest} if known else set()
    keys = [(known.variables.get(name, "") if known else "", value) for name, value in environment.items()]
    chosen = [pair for pair in keys if pair[0] in ("model", "port", "publish", "served_name") and pair[0] not in given]
    return [word for key, value in chosen for word in (flags[key], value)]


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
        if part in image and flags is not None and not (plain and RUNNERS.fullmatch(plain[0])):
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
        if not flag and "model" not in offer.serve and mask_text(group[0]) == group[0]:
            offer.serve["model"] = group[0]
        elif key == "port" and values and values[0].isdigit():
            port = int(values[0])
            if len(values) > 1 and not given:
                offer.serve.setdefault("model", values[1])
        elif key == "publish":
            continue
        elif key == "model" and key in offer.serve and values:
            offer.notes.append("model: left out, because the model is named already: " + mask_text(" ".join(group)))
        elif key in ("model", "served_name") and values and mask_text(values[0]) == values[0]:
            offer.serve[key] = values[0]
            if len(values) > 1:
                offer.notes.append("{0}: further values are left out: {1}".format(key, ", ".join(values[1:])))
        elif is_secret_flag(head) and values:
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
    if engine == "llama_cpp" and any("_" in word.partition("=")[0] for word in args if word.startswith("--")):
        text = "args: flags with _ are those of llama_cpp.server (Python), and llama-server has others: use engine custom"
        offer.notes.append(text)
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
    name = "{0}_{1}".format(re.sub(r"\W", "_", offer.name), re.sub(r"\W", "_", word.lower()))
    while name in offer.secrets:  # another secret: API_KEY beside --api-key
        name += "_2"
    offer.secrets[name] = "{0} of container {1}".format(place, offer.serve.get("container") or offer.name)
    return name


def _read_port(offer: OfferedServe, document: Mapping[str, Any], inner: int) -> None:
    """The port on the host: published from the server's own, or the server's own in the network of the host."""
    host, published = document["HostConfig"], [one for one in list_bindings(document) if one[1] and one[2].endswith("/tcp")]
    own = [one for one in published if one[2] == "{0}/tcp".format(inner)] or published
    bind, port = (own[0][0], own[0][1]) if own else ("0.0.0.0" if host["NetworkMode"] == "host" else "", inner)
    if not port:
        offer.notes.append("port: the container publishes none; choose a free port of the host")
        return
    offer.serve["port"] = port
    if not own and host["NetworkMode"] != "host":
        offer.notes.append("port: the container publishes none; {0} is the port of the server in it".format(port))
    elif bind and not bind.startswith("127.") and bind != "::1":
        text = "publish: it was reachable on {0}; the serve is published on 127.0.0.1, behind the router"
        offer.notes.append(text.format(bind))


def _read_environment(offer: OfferedServe, engine: str, environment: Mapping[str, str]) -> None:
    plain: Dict[str, str] = {}
    for name, value in sorted(environment.items()):
        if DROPPED.fullmatch(name) or _flags_of_variables(engine, {name: value}):
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


def _read_security(offer: OfferedServe, engine: str, host: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """A user and capabilities that somebody gave to the container. What it has by default is not given."""
    found: Dict[str, Any] = {}
    if config["User"]:
        found["user"] = mask_text(config["User"])
    added = [str(word).replace("CAP_", "") for word in host["CapAdd"]]
    if added:
        found["cap_add"] = sorted({*(ENGINES[engine].cap_add if engine else ()), *added})
    if found:
        offer.serve["security"] = found


def _read_host_settings(offer: OfferedServe, engine: str, host: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    ipc, shm = host["IpcMode"], host["ShmSize"]
    if ipc == "host":
        offer.serve["ipc"] = "host"
    elif ipc != "host" and shm > SHM_BYTES:
        offer.serve["shm_size"] = "{0}m".format(shm >> 20)
    _read_security(offer, engine, host, config)
    if host["RestartPolicy"]["Name"] in ("always", "on-failure"):
        offer.serve["restart"] = host["RestartPolicy"]["Name"]
    if host["Memory"] >= 6 << 20:
        offer.serve["mem_limit"] = "{0}m".format(host["Memory"] >> 20)
    pids = documents.read_number(host.get("PidsLimit"))
    if pids >= 64:
        offer.serve["pids_limit"] = pids
    left = [
        word
        for word, there in (
            ("privileged", host["Privileged"]),
            ("devices", [one for one in host["Devices"] if "nvidia" not in one["PathOnHost"]]),
            ("pid: host", host.get("PidMode") == "host"),
            ("ulimits", host.get("Ulimits")),
            ("extra_hosts", host["ExtraHosts"]),
            ("the network of another container", host["NetworkMode"].startswith("container:")),
        )
        if there
    ]
    if left:
        offer.notes.append("left out, because a serve has no such key: " + ", ".join(left))
