# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``anvil_engines``, and the keys that a serve shares with these defaults."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import ENGINES, Engine, flag_of
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_file import parse_bytes
from ansible_collections.anvil.serving.plugins.module_utils.docker.service import Mount
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    ABSOLUTE,
    CONTAINER,
    CONTAINER_RULE,
    LONGEST_WAIT_SECONDS,
    NO_SECRETS,
    SECRET_SHAPE,
    SECRET_WORDS,
    SIZE,
    UNREAD,
    VARIABLE,
    Check,
    Node,
    Path,
    describe,
    kind_of,
    looks_secret,
    read_image,
    shorten,
    suggest,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.secrets import Secrets

GPU_PINS = ("device_ids", "uuid", "index")
RESTARTS = ("unless-stopped", "always", "on-failure", "no")
IPC_MODES = ("host", "private")
SHARED_KEYS = (
    "image",
    "environment",
    "volumes",
    "secrets",
    "entrypoint",
    "args",
    "ipc",
    "shm_size",
    "restart",
    "ready_timeout",
    "gpu_pin",
    "launch",
    "ready_interval",
    "warmup",
)
FLASH_ATTENTION = ("on", "off", "auto")


@dataclass(frozen=True)
class Shared:
    """Keys that a serve and ``anvil_engines`` share. None: not said there."""

    image: Optional[str] = None
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    mounts: Tuple[Mount, ...] = ()
    entrypoint: Optional[Tuple[str, ...]] = None
    args: Tuple[str, ...] = ()
    ipc: Optional[str] = None
    shm_size: Optional[str] = None
    restart: Optional[str] = None
    ready_timeout: Optional[int] = None
    gpu_pin: Optional[str] = None
    launch: Mapping[str, str] = field(default_factory=dict)
    ready_interval: Optional[int] = None
    warmup: Optional[bool] = None

    def over(self, below: Shared) -> Shared:
        """This said on top of those defaults: mappings are merged, lists follow one another, all else replaces."""

        def said(mine: Any, theirs: Any) -> Any:
            return theirs if mine is None else mine

        targets = {mount.target for mount in self.mounts}
        return Shared(
            image=said(self.image, below.image),
            environment={**below.environment, **self.environment},
            secrets={**below.secrets, **self.secrets},
            mounts=tuple(mount for mount in below.mounts if mount.target not in targets) + self.mounts,
            entrypoint=said(self.entrypoint, below.entrypoint),
            args=below.args + self.args,
            ipc=said(self.ipc, below.ipc),
            shm_size=said(self.shm_size, below.shm_size),
            restart=said(self.restart, below.restart),
            ready_timeout=said(self.ready_timeout, below.ready_timeout),
            gpu_pin=said(self.gpu_pin, below.gpu_pin),
            launch={**below.launch, **self.launch},
            ready_interval=said(self.ready_interval, below.ready_interval),
            warmup=said(self.warmup, below.warmup),
        )


PLAN_SETS = {
    "CUDA_VISIBLE_DEVICES": "the plan sets it: say gpus, and gpu_pin: uuid or index",
    "NVIDIA_VISIBLE_DEVICES": "the plan pins the cards: say gpus",
}


def _read_environment(node: Node, engine: Optional[Engine]) -> Dict[str, str]:
    check, found = node.check, {}
    inner = check.mapping(node.at("environment"), node.raw.get("environment"), "environment: {NAME: value}")
    rule = "letters, digits and _, not starting with a digit"
    for name, path, value in inner.entries(VARIABLE, rule) if inner else ():
        if value is UNREAD:
            continue
        if name in PLAN_SETS:
            check.wrong(path, "{0} is not the inventory's to set".format(name), PLAN_SETS[name])
        elif isinstance(value, bool):
            check.wrong(
                path,
                "{0} is {1}; programs differ in how they write that".format(name, describe(value)),
                'put what the program should read in quotes: "{0}" or "{1}"'.format(str(value).lower(), int(value)),
            )
        elif not isinstance(value, (str, int, float)):
            check.wrong(path, "text or a number is wanted, not {0}".format(kind_of(value)), 'NAME: "value"')
        elif (looks_secret(name) and str(value) not in NO_SECRETS) or SECRET_SHAPE.search(str(value)):
            key = "api_key: <name in anvil_secrets>" if engine and name == engine.key_env else ""
            check.wrong(
                path,
                "{0} looks like a secret, and environment goes in clear into the compose file".format(name),
                "use {0}".format(key or "secrets: {{{0}: <name in anvil_secrets>}}".format(name)),
            )
        elif "\0" in str(value):
            check.wrong(path, "the value holds a NUL character", "no program can read that from its environment")
        else:
            found[name] = str(value)
    return found


def _read_secret_variables(node: Node, secrets: Secrets, engine: Optional[Engine]) -> Dict[str, str]:
    found = {}
    inner = node.check.mapping(node.at("secrets"), node.raw.get("secrets"), "secrets: {HF_TOKEN: hf_token}")
    for name, path, value in inner.entries(VARIABLE, "the name of an environment variable") if inner else ():
        if engine and engine.key_env == name:
            node.check.wrong(path, "{0} is the key clients must present".format(name), "say api_key: <name in anvil_secrets>")
        elif name in PLAN_SETS:
            node.check.wrong(path, "{0} is not the inventory's to set".format(name), PLAN_SETS[name])
        elif value is None:
            node.check.wrong(path, "names no secret", "an entry of anvil_secrets")
        else:
            secret = secrets.name_at(path, value)
            if secret:
                found[name] = secret
    return found


def _read_mount(check: Check, path: Path, value: Any) -> Optional[Mount]:
    rule = 'write "volume:/path/in/container" or "/path/on/host:/path/in/container:ro"'
    text = check.plain(path, value, re.compile(r"[^\0\n]+"), rule)
    if text is None:
        return None
    parts = text.split(":")
    if re.match(r"[A-Za-z]:[\\/]", text):
        hint = "write the path as the Linux side sees it: /mnt/{0}/…".format(text[0].lower())
        check.wrong(path, "{0!r} is a Windows path".format(shorten(text)), hint)
    elif len(parts) not in (2, 3) or not all(parts):
        check.wrong(path, "{0!r} is not a volume".format(shorten(text)), rule)
    elif not ABSOLUTE.fullmatch(parts[1]):
        check.wrong(path, "the path in the container, {0!r}, is not absolute".format(shorten(parts[1])), rule)
    elif len(parts) == 3 and parts[2] not in ("ro", "rw"):
        check.wrong(path, "unknown option {0!r}".format(shorten(parts[2])), "known: ro, rw")
    elif ABSOLUTE.fullmatch(parts[0]):
        return Mount("bind", parts[0], parts[1], parts[2:] == ["ro"])
    elif CONTAINER.fullmatch(parts[0]):
        return Mount("volume", parts[0], parts[1], parts[2:] == ["ro"])
    else:
        check.wrong(
            path,
            "{0!r} is neither an absolute path nor the name of a volume".format(shorten(parts[0])),
            "give the path from / on, or a volume name: " + CONTAINER_RULE,
        )
    return None


def _read_mounts(node: Node) -> Tuple[Mount, ...]:
    found: Dict[str, Mount] = {}
    listed = node.check.items(node.at("volumes"), node.raw.get("volumes"), 'volumes: ["models:/models:ro"]')
    for path, value in listed or ():
        mount = _read_mount(node.check, path, value)
        if mount and mount.target in found:
            node.check.wrong(
                path, "{0} is mounted twice".format(shorten(mount.target)), "one volume for each path in the container"
            )
        elif mount:
            found[mount.target] = mount
    return tuple(found.values())


def _read_words(node: Node, key: str) -> Optional[Tuple[str, ...]]:
    """A list of words as a command line has them; numbers will do."""
    value, words = node.raw.get(key), []
    example = "write {0}: [--flag, value]".format(key)
    if isinstance(value, str):
        example = "write it word by word: {0}: [{1}]".format(
            key, "…" if SECRET_SHAPE.search(value) or "key" in value else shorten(", ".join(value.split()), 120)
        )
        node.check.wrong(node.at(key), "a list is wanted, not one piece of text", example)
        return None
    listed = node.check.items(node.at(key), value, example)
    for path, word in listed or ():
        if isinstance(word, bool) or not isinstance(word, (str, int, float)):
            node.check.wrong(path, "a word is wanted, not {0}".format(describe(word)), 'put it in quotes: "true"')
        elif "\0" in str(word):
            node.check.wrong(path, "the word holds a NUL character", "no command line can carry that")
        else:
            words.append(str(word))
    return None if listed is None else tuple(words)


def _check_args(node: Node, engine: Optional[Engine]) -> None:
    value = node.raw.get("args")
    for number, word in enumerate(value if isinstance(value, (list, tuple)) else ()):
        if not isinstance(word, str):
            continue
        path, flag = (*node.at("args"), number), flag_of(word)
        bare = flag.split()[0] if flag else ""
        if engine and bare and bare == engine.more_keys_flag:
            if not node.has("api_key"):
                why = "the router and the wait until it is ready must present a key, and do not read that file"
                hint = "say it in the args of a serve that has an api_key: <name in anvil_secrets>"
                node.check.wrong(path, "{0} without an api_key".format(bare), hint, why)
        elif bare in ("--api-key", "--api-key-file"):
            node.check.wrong(path, "{0} would put the key on a command line".format(bare), "use api_key: <name in anvil_secrets>")
        elif (bare.startswith("--") and bare.upper().rpartition("-")[2] in SECRET_WORDS) or bare == "-hft":
            variable = "HF_TOKEN" if bare in ("-hft", "--hf-token") else "NAME"
            node.check.wrong(
                path,
                "{0} would put a secret on a command line".format(shorten(bare)),
                "use secrets: {{{0}: <name in anvil_secrets>}}".format(variable),
            )
        elif SECRET_SHAPE.search(word):
            node.check.wrong(path, "the word looks like a secret", "use secrets: {NAME: <name in anvil_secrets>}")
        elif engine and bare in engine.flags:
            key = engine.flags[bare]
            node.check.wrong(path, "the plan sets {0} itself".format(bare), "say it with the key {0}".format(key))
        elif re.match(r"--?[A-Za-z][\w-]*\s", word):
            parts = ", ".join(word.split(None, 1))
            node.check.wrong(
                path,
                "{0!r} is one word with a space in it".format(shorten(word)),
                "write two: {0}".format(shorten(parts)),
            )


def read_launch(node: Node, engine: Optional[Engine]) -> Dict[str, str]:
    """``launch``: how llama.cpp is started, option -> value as its command line has it."""
    known = engine.launch if engine else ENGINES["llama_cpp"].launch
    inner = node.check.mapping(node.at("launch"), node.raw.get("launch"), "launch: {context: 32768, gpu_layers: 99}")
    if inner is None:
        return {}
    if not known:
        node.check.wrong(node.at("launch"), "this engine has no such settings", "say them word by word in args")
        return {}
    inner.known(tuple(known))
    found: Dict[str, Optional[str]] = {"flash_attn": _read_switch(inner, "flash_attn")}
    for key, lowest in (("context", 0), ("gpu_layers", 0), ("threads", 1), ("batch", 1), ("ubatch", 1)):
        number = inner.whole(key, lowest, 10**8)
        found[key] = None if number is None else str(number)
    mmap = inner.boolean("mmap")
    found["mmap"] = None if mmap is None else str(mmap).lower()
    batch, ubatch = found["batch"], found["ubatch"]
    if batch and ubatch and int(ubatch) > int(batch):
        inner.check.wrong(inner.at("ubatch"), "{0} is more than the batch of {1}".format(ubatch, batch), "at most batch")
    return {key: value for key, value in found.items() if value is not None}


def _read_switch(node: Node, key: str) -> Optional[str]:
    if isinstance(node.raw.get(key), bool):  # YAML reads a bare on as true
        return "on" if node.raw[key] else "off"
    return node.word(key, FLASH_ATTENTION)


def launch_words(launch: Mapping[str, str], engine: Engine) -> Tuple[str, ...]:
    """``launch`` as arguments, in one order; without what goes into the environment."""
    words: List[str] = []
    for key, flags in engine.launch.items():
        if key in launch and key not in engine.switches:
            words += [flags[0], launch[key]]
    return tuple(words)


def launch_environment(launch: Mapping[str, str], engine: Engine) -> Dict[str, str]:
    """What of ``launch`` goes into the environment."""
    return {name: value for key, said in launch.items() for name, value in engine.switches.get(key, {}).get(said, {}).items()}


def _read_restart(node: Node) -> Optional[str]:
    if node.raw.get("restart") is False:  # YAML reads a bare no as false
        return "no"
    return node.word("restart", RESTARTS)


def _read_size(node: Node) -> Optional[str]:
    value = node.raw.get("shm_size")
    if value is None or value is UNREAD:
        return None
    rule = "a size as Docker writes it: 16g, 512m"
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not SIZE.fullmatch(str(value)):
        node.check.wrong(node.at("shm_size"), "{0} is not a size".format(describe(value)), rule)
        return None
    if parse_bytes(value) <= 0:
        node.check.wrong(node.at("shm_size"), "is zero", rule)
        return None
    return str(value)


def read_shared(node: Node, engine: Optional[Engine], secrets: Secrets) -> Shared:
    _check_args(node, engine)
    return Shared(
        image=read_image(node),
        environment=_read_environment(node, engine),
        secrets=_read_secret_variables(node, secrets, engine),
        mounts=_read_mounts(node),
        entrypoint=_read_words(node, "entrypoint"),
        args=_read_words(node, "args") or (),
        ipc=node.word("ipc", IPC_MODES),
        shm_size=_read_size(node),
        restart=_read_restart(node),
        ready_timeout=node.whole("ready_timeout", 1, LONGEST_WAIT_SECONDS, "seconds"),
        gpu_pin=node.word("gpu_pin", GPU_PINS),
        launch=read_launch(node, engine),
        ready_interval=node.whole("ready_interval", 1, LONGEST_WAIT_SECONDS, "seconds"),
        warmup=node.boolean("warmup"),
    )


def read_engines(check: Check, value: Any) -> Dict[str, Node]:
    """The defaults of each engine; they are read here once, so that a mistake in them is reported once."""
    nodes = {}
    node = check.mapping(("anvil_engines",), value, "anvil_engines: {vllm: {image: …}}")
    for name, raw in node.raw.items() if node else ():
        path: Path = ("anvil_engines", str(name))
        if name not in ENGINES:
            check.wrong(path, "unknown engine {0!r}".format(shorten(str(name))), suggest(str(name), ENGINES))
            continue
        inner = check.mapping(path, raw, "anvil_engines: {vllm: {image: …}}")
        if inner:
            inner.known(SHARED_KEYS)
            nodes[str(name)] = inner
    return nodes
