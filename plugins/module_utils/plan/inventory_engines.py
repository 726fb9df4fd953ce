# SPDX-License-Identifier: GPL-3.0-or-later
"""Check ``anvil_engines``: defaults for all serves of an engine, and the keys that a serve shares with them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import find_flag, flag_of
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import ENGINES, Engine
from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import (
    SECRET_SHAPE,
    holds_secret,
    is_secret_flag,
)
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_file import parse_bytes
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Mount
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_launch import read_launch
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_secrets import InventorySecrets
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_security import (
    NOT_WRITTEN,
    SecuritySettings,
    read_security,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    ABSOLUTE,
    CONTAINER,
    CONTAINER_RULE,
    LONGEST_WAIT_SECONDS,
    SIZE,
    UNREAD,
    VARIABLE,
    InventoryCheck,
    Path,
    Section,
    describe_type,
    describe_value,
    read_image,
    shorten,
    suggest_name,
)

GPU_PINS = ("device_ids", "uuid", "index")
RESTARTS = ("unless-stopped", "always", "on-failure", "no")
LEAST_MEMORY, MOST_PIDS = 6 * 1024**2, 4194304
IPC_MODES = ("host", "private")
ON_FAILURE = ("roll_back", "keep")
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
    "on_failure",
    "mem_limit",
    "pids_limit",
    "security",
    "egress",
)
SET_BY_PLAN = {
    "CUDA_VISIBLE_DEVICES": "set gpus, and gpu_pin: uuid or gpu_pin: index, instead",
    "NVIDIA_VISIBLE_DEVICES": "set gpus instead",
}


@dataclass(frozen=True)
class SharedSettings:
    """The keys that a serve and its engine in ``anvil_engines`` share. None: the key is not set."""

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
    on_failure: Optional[str] = None
    mem_limit: Optional[str] = None
    pids_limit: Optional[int] = None
    security: SecuritySettings = NOT_WRITTEN
    egress: Optional[bool] = None

    def merge_over(self, below: SharedSettings) -> SharedSettings:
        """These settings over ``below``: mappings are merged, ``args`` are appended, every other key replaces."""

        def choose(mine: Any, default: Any) -> Any:
            return default if mine is None else mine

        targets = {mount.target for mount in self.mounts}
        return SharedSettings(
            image=choose(self.image, below.image),
            environment={**below.environment, **self.environment},
            secrets={**below.secrets, **self.secrets},
            mounts=tuple(mount for mount in below.mounts if mount.target not in targets) + self.mounts,
            entrypoint=choose(self.entrypoint, below.entrypoint),
            args=below.args + self.args,
            ipc=choose(self.ipc, below.ipc),
            shm_size=choose(self.shm_size, below.shm_size),
            restart=choose(self.restart, below.restart),
            ready_timeout=choose(self.ready_timeout, below.ready_timeout),
            gpu_pin=choose(self.gpu_pin, below.gpu_pin),
            launch={**below.launch, **self.launch},
            ready_interval=choose(self.ready_interval, below.ready_interval),
            warmup=choose(self.warmup, below.warmup),
            on_failure=choose(self.on_failure, below.on_failure),
            mem_limit=choose(self.mem_limit, below.mem_limit),
            pids_limit=choose(self.pids_limit, below.pids_limit),
            security=self.security.merge_over(below.security),
            egress=choose(self.egress, below.egress),
        )


def _read_environment(section: Section, engine: Optional[Engine]) -> Dict[str, str]:
    check, found = section.check, {}
    inner = check.read_mapping(section.path_of("environment"), section.raw.get("environment"), "environment: {NAME: value}")
    rule = "letters, digits and _, not starting with a digit"
    for name, path, value in inner.read_entries(VARIABLE, rule) if inner else ():
        if value is UNREAD:
            continue
        if name in SET_BY_PLAN:
            check.add_problem(path, "the plan sets {0} itself".format(name), SET_BY_PLAN[name])
        elif isinstance(value, bool):
            check.add_problem(
                path,
                "{0} is {1}, and programs write booleans in different ways".format(name, describe_value(value)),
                'put the text that the program expects in quotes: "{0}" or "{1}"'.format(str(value).lower(), int(value)),
            )
        elif not isinstance(value, (str, int, float)):
            check.add_problem(
                path, "must be text or a number, not {0}".format(describe_type(value)), 'for example: NAME: "value"'
            )
        elif holds_secret(name, str(value)) or re.search(SECRET_SHAPE, str(value)):
            key = "api_key: <name in anvil_secrets>" if engine and name == engine.key_env else ""
            check.add_problem(
                path,
                "{0} looks like a secret, and the compose file holds environment in clear text".format(name),
                "use {0}".format(key or "secrets: {{{0}: <name in anvil_secrets>}}".format(name)),
            )
        elif "\0" in str(value):
            check.add_problem(path, "the value contains a NUL character", "remove it: an environment variable cannot contain it")
        else:
            found[name] = str(value)
            if engine and name in engine.variables:
                check.add_note(path, "{0} has no effect, because the plan sets {1}".format(name, engine.variables[name]))
            elif engine and name in engine.other_models:
                why = "the engine would fetch the model that it names, and not load the one of the key model"
                check.add_problem(path, "{0} names another model".format(name), "remove it", why)
    return found


def _read_secret_variables(section: Section, secrets: InventorySecrets, engine: Optional[Engine]) -> Dict[str, str]:
    found = {}
    inner = section.check.read_mapping(section.path_of("secrets"), section.raw.get("secrets"), "secrets: {HF_TOKEN: hf_token}")
    for name, path, value in inner.read_entries(VARIABLE, "the name of an environment variable") if inner else ():
        if engine and engine.key_env == name:
            section.check.add_problem(
                path, "{0} is the API key that clients must present".format(name), "use api_key: <name in anvil_secrets> instead"
            )
        elif name in SET_BY_PLAN:
            section.check.add_problem(path, "the plan sets {0} itself".format(name), SET_BY_PLAN[name])
        elif value is None:
            section.check.add_problem(path, "must be the name of a secret", "use the name of an entry of anvil_secrets")
        else:
            secret = secrets.read_secret_name(path, value)
            if secret:
                found[name] = secret
    return found


def _read_mount(check: InventoryCheck, path: Path, value: Any) -> Optional[Mount]:
    rule = '"volume:/path/in/container" or "/path/on/host:/path/in/container:ro"'
    text = check.match_text(path, value, re.compile(r"[^\0\n]+"), rule)
    if text is None:
        return None
    parts = text.split(":")
    if re.match(r"[A-Za-z]:[\\/]", text):
        hint = "use the path that Linux sees: /mnt/{0}/…".format(text[0].lower())
        check.add_problem(path, "{0!r} is a Windows path".format(shorten(text)), hint)
    elif len(parts) not in (2, 3) or not all(parts):
        check.add_problem(path, "{0!r} is not a volume".format(shorten(text)), "use " + rule)
    elif not ABSOLUTE.fullmatch(parts[1]):
        check.add_problem(path, "the path in the container, {0!r}, is not absolute".format(shorten(parts[1])), "use " + rule)
    elif len(parts) == 3 and parts[2] not in ("ro", "rw"):
        check.add_problem(path, "unknown option {0!r}".format(shorten(parts[2])), "use one of: ro, rw")
    elif ABSOLUTE.fullmatch(parts[0]):
        return Mount("bind", parts[0], parts[1], parts[2:] == ["ro"])
    elif CONTAINER.fullmatch(parts[0]):
        return Mount("volume", parts[0], parts[1], parts[2:] == ["ro"])
    else:
        check.add_problem(
            path,
            "{0!r} is neither an absolute path nor the name of a volume".format(shorten(parts[0])),
            "use an absolute path from / on, or the name of a volume: " + CONTAINER_RULE,
        )
    return None


def _read_mounts(section: Section) -> Tuple[Mount, ...]:
    found: Dict[str, Mount] = {}
    listed = section.check.read_list(section.path_of("volumes"), section.raw.get("volumes"), 'volumes: ["models:/models:ro"]')
    for path, value in listed or ():
        mount = _read_mount(section.check, path, value)
        if mount and mount.target in found:
            section.check.add_problem(
                path, "{0} is mounted twice".format(shorten(mount.target)), "keep one volume for each path in the container"
            )
        elif mount:
            found[mount.target] = mount
    return tuple(found.values())


def _read_word_list(section: Section, key: str) -> Optional[Tuple[str, ...]]:
    """A list of the words of a command line. Numbers are accepted."""
    value, words = section.raw.get(key), []
    example = "{0}: [--flag, value]".format(key)
    if isinstance(value, str):
        example = "write each word as an item of a list: {0}: [{1}]".format(
            key, "…" if re.search(SECRET_SHAPE, value) or "key" in value else shorten(", ".join(value.split()), 120)
        )
        section.add_problem(key, "must be a list, not one piece of text", example)
        return None
    listed = section.check.read_list(section.path_of(key), value, example)
    for path, word in listed or ():
        if isinstance(word, bool) or not isinstance(word, (str, int, float)):
            section.check.add_problem(
                path, "must be text or a number, not {0}".format(describe_value(word)), 'put it in quotes: "true"'
            )
        elif "\0" in str(word):
            section.check.add_problem(
                path, "the argument contains a NUL character", "remove it: a command line cannot contain it"
            )
        else:
            words.append(str(word))
    return None if listed is None else tuple(words)


def read_arguments(section: Section, key: str, engine: Optional[Engine]) -> Tuple[str, ...]:
    """A command line, or the part of it that the inventory adds to what the plan sets for an engine."""
    _check_args(section, engine, key)
    return _read_word_list(section, key) or ()


def _check_args(section: Section, engine: Optional[Engine], key: str = "args") -> None:
    value = section.raw.get(key)
    for number, word in enumerate(value if isinstance(value, (list, tuple)) else ()):
        if not isinstance(word, str):
            continue
        path, flag = (*section.path_of(key), number), flag_of(word)
        bare = flag.split()[0] if flag else ""
        if engine and bare and bare == engine.more_keys_flag:
            if not section.has("api_key"):
                why = "the router and the readiness check must present a key, and they do not read that file"
                hint = "set api_key: <name in anvil_secrets> in the same serve"
                section.check.add_problem(path, "{0} is set without an api_key".format(bare), hint, why)
        elif bare in ("--api-key", "--api-key-file"):
            section.check.add_problem(
                path, "{0} would put the API key on a command line".format(bare), "use api_key: <name in anvil_secrets>"
            )
        elif is_secret_flag(bare):
            variable = "HF_TOKEN" if bare in ("-hft", "--hf-token") else "NAME"
            section.check.add_problem(
                path,
                "{0} would put a secret on a command line".format(shorten(bare)),
                "use secrets: {{{0}: <name in anvil_secrets>}}".format(variable),
            )
        elif re.search(SECRET_SHAPE, word):
            section.check.add_problem(
                path,
                "the argument looks like a secret, and a command line is visible to every user of the host",
                "use secrets: {NAME: <name in anvil_secrets>}",
            )
        elif engine and find_flag(word, engine.flags, engine.abbreviates):
            meant = find_flag(word, engine.flags, engine.abbreviates)
            why = "{0} is the beginning of {1}".format(shorten(bare), meant) if meant != bare else ""
            section.check.add_problem(
                path, "the plan sets {0} itself".format(meant), "use the key {0} instead".format(engine.flags[meant]), why
            )
        elif re.match(r"--?[A-Za-z][\w-]*\s", word):
            parts = ", ".join(word.split(None, 1))
            section.check.add_problem(
                path,
                "{0!r} is one argument with a space in it".format(shorten(word)),
                "write two items of the list: {0}".format(shorten(parts)),
            )


def _read_restart(section: Section) -> Optional[str]:
    if section.raw.get("restart") is False:  # YAML reads a bare no as false
        return "no"
    return section.read_choice("restart", RESTARTS)


def read_size(section: Section, key: str) -> Optional[str]:
    """A size such as ``16g``."""
    value = section.raw.get(key)
    if value is None or value is UNREAD:
        return None
    hint = "use a size such as 16g or 512m"
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not SIZE.fullmatch(str(value)):
        section.add_problem(key, "{0} is not a size".format(describe_value(value)), hint)
        return None
    if parse_bytes(value) <= 0:
        section.add_problem(key, "must be more than zero", hint)
        return None
    return str(value)


def read_pids(section: Section) -> Optional[int]:
    """``pids_limit``: processes and threads."""
    return section.read_integer("pids_limit", 64, MOST_PIDS)


def read_memory(section: Section) -> Optional[str]:
    """``mem_limit``: a size that the Docker Engine accepts as a limit."""
    size = read_size(section, "mem_limit")
    if size is not None and parse_bytes(size) < LEAST_MEMORY:
        section.add_problem(
            "mem_limit", "{0} is less than 6m, which the Docker Engine refuses".format(size), "use a size such as 48g"
        )
    return size


def read_shared_settings(section: Section, engine: Optional[Engine], secrets: InventorySecrets) -> SharedSettings:
    _check_args(section, engine)
    return SharedSettings(
        image=read_image(section),
        environment=_read_environment(section, engine),
        secrets=_read_secret_variables(section, secrets, engine),
        mounts=_read_mounts(section),
        entrypoint=_read_word_list(section, "entrypoint"),
        args=_read_word_list(section, "args") or (),
        ipc=section.read_choice("ipc", IPC_MODES),
        shm_size=read_size(section, "shm_size"),
        restart=_read_restart(section),
        ready_timeout=section.read_integer("ready_timeout", 1, LONGEST_WAIT_SECONDS, "seconds"),
        gpu_pin=section.read_choice("gpu_pin", GPU_PINS),
        launch=read_launch(section, engine),
        ready_interval=section.read_integer("ready_interval", 1, LONGEST_WAIT_SECONDS, "seconds"),
        warmup=section.read_boolean("warmup"),
        on_failure=section.read_choice("on_failure", ON_FAILURE),
        mem_limit=read_memory(section),
        pids_limit=read_pids(section),
        security=read_security(section),
        egress=section.read_boolean("egress"),
    )


def read_engine_sections(check: InventoryCheck, value: Any) -> Dict[str, Section]:
    """Engine -> its section of ``anvil_engines``. Read once for all serves, so a mistake in it is reported once."""
    sections = {}
    section = check.read_mapping(("anvil_engines",), value, "anvil_engines: {vllm: {image: …}}")
    for name, raw in section.raw.items() if section else ():
        path: Path = ("anvil_engines", str(name))
        if name not in ENGINES:
            check.add_problem(path, "unknown engine {0!r}".format(shorten(str(name))), suggest_name(str(name), ENGINES))
            continue
        inner = check.read_mapping(path, raw, "anvil_engines: {vllm: {image: …}}")
        if inner:
            inner.check_keys(SHARED_KEYS)
            sections[str(name)] = inner
    return sections
