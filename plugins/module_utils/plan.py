# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the inventory says of one host, checked and with every default decided: all mistakes at once, no I/O.

``build_plan`` is the door. Each section of the inventory has one function that reads it and one list of known keys.
"""

from __future__ import annotations

import datetime
import difflib
import ipaddress
import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, Dict, Iterable, List, Mapping, Optional, Pattern, Sequence, Set, Tuple, Union

from ansible_collections.anvil.serving.plugins.module_utils.capability import (
    CAPABILITIES,
    VERSION,
    find_capability,
    torch_environment,
)
from ansible_collections.anvil.serving.plugins.module_utils.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.spec import (
    EVICTABLE,
    ON_DEMAND,
    RESIDENT,
    EdgePlan,
    Gpu,
    HostPlan,
    Mount,
    ProfileEntry,
    ReplicaPlan,
    RouterPlan,
    ServePlan,
    TierPlan,
    parse_bytes,
)

Path = Tuple[Union[str, int], ...]


class _Unread:
    """Stands where a value could not be read (a template failed). Its problem is reported by who tried to read it."""

    def __repr__(self) -> str:
        return "<unread>"


UNREAD = _Unread()

# ------------------------------------------------------------------------------------------------- what is known

VARIABLES = (
    "anvil_root",
    "anvil_platform",
    "anvil_network",
    "anvil_secrets",
    "anvil_gpus",
    "anvil_engines",
    "anvil_serves",
    "anvil_router",
)
# Variables of other parts of the collection: accepted, and not read here.
OTHER_VARIABLES: Tuple[str, ...] = ("anvil_hosts",)

PLATFORMS = ("linux", "wsl2")
GPU_PINS = ("device_ids", "uuid", "index")
RESTARTS = ("unless-stopped", "always", "on-failure", "no")
RESIDENCIES = (RESIDENT, EVICTABLE, ON_DEMAND)
IPC_MODES = ("host", "private")
EDGE_HEALTH = ("process", "tiers")
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

DEFAULT_ROOT = "/opt/anvil"
DEFAULT_NETWORK = "anvil"
DEFAULT_CONTEXT = 8192
DEFAULT_PUBLISH = "127.0.0.1:8000"
DEFAULT_SUBNET = "10.87.213.0/28"
DEFAULT_EDGE_IMAGE = "anvil.local/edge:1"
MOST_REPLICAS = 4
LONGEST_WAIT_SECONDS = 24 * 3600

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
)
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
)
GPU_KEYS = ("uuid", "vram_mib", "reserve_mib", "index", "compute_capability")
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
)
EDGE_KEYS = ("image", "container", "subnet", "certificates", "health")
TIER_KEYS = ("id", "serve", "context_limit", "tool_support")
PROFILE_KEYS = ("tier", "work_class", "decision", "quality_score", "sample_n", "last_measured", "fingerprint")


@dataclass(frozen=True)
class Engine:
    """What the plan decides for a serve of this engine when the inventory does not say.

    gpu_environment, wsl2_environment: added for serves that have GPUs, and for those on a WSL2 host.
    key_env: the variable the engine reads its API key from; empty: it takes the key on the command line only.
    torch: it runs on PyTorch, and is told the architecture of its cards. kv_flags: what sets the type of the KV cache.
    flags: what the plan itself sets on the command line -> the key of the inventory that says it.
    context_flags: what limits the context of one request. slot_flags: what that is divided by.
    tool_flags: the engine supports tools when one of these is given; none: it always does.
    share_flag: takes the share of the card's total memory that the engine may use.
    """

    entrypoint: Tuple[str, ...] = ()
    ipc: str = ""
    shm_size: str = ""
    gpu_environment: Mapping[str, str] = field(default_factory=dict)
    wsl2_environment: Mapping[str, str] = field(default_factory=dict)
    torch: bool = False
    kv_flags: Tuple[str, ...] = ()
    read_only: bool = False
    cap_drop: Tuple[str, ...] = ()
    key_env: str = ""
    flags: Mapping[str, str] = field(default_factory=dict)
    context_flags: Tuple[str, ...] = ()
    slot_flags: Tuple[str, ...] = ()
    tool_flags: Tuple[str, ...] = ()
    model_is_file: bool = False
    share_flag: str = ""


PCI_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
ENGINES: Mapping[str, Engine] = {
    "vllm": Engine(
        entrypoint=("vllm",),
        ipc="host",
        gpu_environment=PCI_ORDER,
        torch=True,
        kv_flags=("--kv-cache-dtype",),
        wsl2_environment={"VLLM_USE_V2_MODEL_RUNNER": "0"},  # that runner wants UVA, which WSL2 does not have
        key_env="VLLM_API_KEY",
        flags={"--port": "port", "--host": "publish", "--served-model-name": "served_name", "--model": "model"},
        context_flags=("--max-model-len",),
        tool_flags=("--enable-auto-tool-choice",),
        share_flag="--gpu-memory-utilization",
    ),
    "sglang": Engine(
        shm_size="16g",
        gpu_environment=PCI_ORDER,
        torch=True,
        kv_flags=("--kv-cache-dtype",),
        flags={
            "--port": "port",
            "--host": "publish",
            "--served-model-name": "served_name",
            "--model-path": "model",
            "--model": "model",
        },
        context_flags=("--context-length",),
        tool_flags=("--tool-call-parser",),
    ),
    "llama_cpp": Engine(
        gpu_environment=PCI_ORDER,
        read_only=True,
        cap_drop=("ALL",),
        key_env="LLAMA_API_KEY",
        flags={
            "--port": "port",
            "--host": "publish",
            "--alias": "served_name",
            "-a": "served_name",
            "--model": "model",
            "-m": "model",
            "--hf-repo": "model",
            "-hf": "model",
            "-hfr": "model",
            "--model-url": "model",
            "-mu": "model",
        },
        context_flags=("-c", "--ctx-size"),
        slot_flags=("-np", "--parallel"),
        model_is_file=True,
    ),
}
LATER_ENGINES = ("trtllm",)

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
NAME_RULE = "use 1 to 63 of a-z, 0-9, _ and -, starting with a letter or a digit"
CONTAINER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,62}")
CONTAINER_RULE = "use 2 to 63 of a-z, A-Z, 0-9, _, . and -, starting with a letter or a digit"
TIER_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
SECRET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ABSOLUTE = re.compile(r"/[^\0\n]*")
ANYTHING = re.compile(r"[^\0]*", re.DOTALL)
NO_SPACE = re.compile(r"[^\s\0]+")
UUID = re.compile(
    r"(GPU|MIG)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|MIG-GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/[0-9]{1,2}/[0-9]{1,2}",
    re.IGNORECASE,
)
IMAGE = re.compile(
    r"(?P<name>[a-zA-Z0-9][a-zA-Z0-9.-]*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+|[a-z0-9]+([._-]+[a-z0-9]+)*)"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)
SIZE = re.compile(r"[0-9]{1,12}([bkmg]|[kmg]b)?", re.IGNORECASE)
NUMBER = re.compile(r"-?[0-9]{1,15}")

SECRET_WORDS = frozenset(("TOKEN", "KEY", "APIKEY", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "CREDENTIALS"))
NOT_THE_SECRET = frozenset(("FILE", "PATH", "DIR", "URL", "NAME", "LIMIT", "COUNT", "SIZE", "ID", "TYPE", "LEN"))
NO_SECRETS = frozenset(("", "0", "1", "true", "false"))
SECRET_SHAPE = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|nvapi-[A-Za-z0-9_-]{20,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
)


# ----------------------------------------------------------------------------------------------------- the words


def path_text(path: Path) -> str:
    """``anvil_serves.heavy.gpus[0]``; a key that is not a plain word stands in brackets."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += "[{0}]".format(step)
        elif re.fullmatch(r"[\w-]+", step):
            text += ("." if text else "") + step
        else:
            text += "[{0!r}]".format(shorten(step))
    return text


def shorten(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def describe(value: Any) -> str:
    """A value of the inventory in an operator's words, short enough for one line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "the boolean {0}".format("true" if value else "false")
    if isinstance(value, str):
        return "the text {0!r}".format(shorten(str(value)))
    if isinstance(value, (int, float)):
        return "the number {0}".format(shorten(str(value)))
    return kind_of(value)


def kind_of(value: Any) -> str:
    """What sort of thing a value is, without showing it."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    return "nothing" if value is None else "a {0}".format(type(value).__name__)


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that was most likely meant, or nothing."""
    close = difflib.get_close_matches(word[:200].lower(), list(known), 1, 0.6)
    return close[0] if close else ""


def suggest(word: str, known: Iterable[str], nothing: str = "there are none") -> str:
    words = list(known)
    close = nearest(word, words)
    if close:
        return "did you mean {0}?".format(close)
    return "known: {0}".format(shorten(", ".join(words), 300)) if words else nothing


def looks_secret(name: str) -> bool:
    """Does this variable hold a secret? ``HF_TOKEN`` does; ``KEY_FILE`` and ``TOKENIZERS_PARALLELISM`` do not."""
    words = re.split(r"[^A-Z0-9]+", name.upper())
    return bool(SECRET_WORDS.intersection(words)) and words[-1] not in NOT_THE_SECRET


@dataclass
class _Check:
    """What was found wrong so far, and what the operator should know although it is not wrong."""

    problems: List[Problem] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)

    def wrong(self, path: Path, what: str, hint: str = "", why: str = "") -> None:
        self.problems.append(Problem(what=what, where=path_text(path), why=why, hint=hint))

    def note(self, path: Path, text: str) -> None:
        self.notes.append("{0}: {1}".format(path_text(path), text))

    def mapping(self, path: Path, value: Any, example: str) -> Optional[_Node]:
        """The value as a mapping to read from; None if it is absent, unread or wrong."""
        if value is None or value is UNREAD:
            return None
        if not isinstance(value, Mapping):
            self.wrong(path, "a mapping is wanted, not {0}".format(kind_of(value)), example)
            return None
        return _Node(self, path, value)

    def items(self, path: Path, value: Any, example: str) -> Optional[List[Tuple[Path, Any]]]:
        """The value as a list of (path, item); None if it is absent, unread or wrong."""
        if value is None or value is UNREAD:
            return None
        if not isinstance(value, (list, tuple)):
            self.wrong(path, "a list is wanted, not {0}".format(describe(value)), example)
            return None
        return [((*path, number), item) for number, item in enumerate(value) if item is not UNREAD]

    def plain(self, path: Path, value: Any, pattern: Pattern[str], rule: str) -> Optional[str]:
        """The value as text that matches, or None after saying what is wrong."""
        if value is UNREAD:
            return None
        if not isinstance(value, str):
            self.wrong(path, "text is wanted, not {0}".format(describe(value)), rule)
        elif not value:
            self.wrong(path, "is empty", rule)
        elif not pattern.fullmatch(value):
            self.wrong(path, "{0!r} will not do".format(shorten(str(value))), rule)
        else:
            return str(value)
        return None


@dataclass
class _Node:
    """A mapping of the inventory with its path. A key without a value counts as a key that is not there."""

    check: _Check
    path: Path
    raw: Mapping[Any, Any]

    def at(self, key: str) -> Path:
        return (*self.path, key)

    def has(self, key: str) -> bool:
        return self.raw.get(key) is not None

    def known(self, keys: Sequence[str]) -> None:
        for key in self.raw:
            if key not in keys:
                self.check.wrong((*self.path, str(key)), "unknown key", suggest(str(key), keys))

    def entries(self, pattern: Pattern[str], rule: str) -> List[Tuple[str, Path, Any]]:
        """(key, path, value) of each entry whose key will do."""
        found = []
        for key, value in self.raw.items():
            path = (*self.path, str(key))
            if not isinstance(key, str):
                self.check.wrong(path, "the name is {0}, not text".format(describe(key)), "put it in quotes")
            elif not pattern.fullmatch(key):
                self.check.wrong(path, "{0!r} will not do as a name".format(shorten(str(key))), rule)
            else:
                found.append((str(key), path, value))
        return found

    def text(self, key: str, rule: str, pattern: Pattern[str] = ANYTHING) -> Optional[str]:
        if not self.has(key):
            return None
        return self.check.plain(self.at(key), self.raw[key], pattern, rule)

    def word(self, key: str, known: Sequence[str]) -> Optional[str]:
        value = self.raw.get(key)
        if value is None or value is UNREAD:
            return None
        if isinstance(value, str) and value in known:
            return str(value)
        self.check.wrong(self.at(key), "unknown {0}: {1}".format(key, describe(value)), suggest(str(value), known))
        return None

    def whole(self, key: str, lowest: int, highest: int, unit: str = "") -> Optional[int]:
        """A whole number; digits in quotes will do (``-e`` gives text)."""
        value = self.raw.get(key)
        if value is None or value is UNREAD:
            return None
        rule = "a whole number{0} from {1} to {2}".format(unit and " of " + unit, lowest, highest)
        if isinstance(value, str) and NUMBER.fullmatch(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.check.wrong(self.at(key), "a whole number is wanted, not {0}".format(describe(value)), rule)
        elif not lowest <= value <= highest:
            self.check.wrong(self.at(key), "{0} is out of range".format(shorten(str(value))), rule)
        else:
            return int(value)
        return None

    def boolean(self, key: str) -> Optional[bool]:
        value = self.raw.get(key)
        if value is None or value is UNREAD:
            return None
        if isinstance(value, bool):
            return value
        self.check.wrong(self.at(key), "true or false is wanted, not {0}".format(describe(value)), "true or false")
        return None


# ------------------------------------------------------------------------------------------------------- secrets


@dataclass
class _Secrets:
    """The names of ``anvil_secrets`` and who uses them. names is None when they could not be read."""

    check: _Check
    names: Optional[Tuple[str, ...]]
    used: Dict[str, Path] = field(default_factory=dict)

    def name_at(self, path: Path, value: Any) -> str:
        """The name of a secret. A value that is no known name may be the secret itself: it is not shown."""
        if value is None or value is UNREAD:
            return ""
        if not isinstance(value, str):
            self.check.wrong(path, "the name of a secret is wanted, not {0}".format(kind_of(value)), "an entry of anvil_secrets")
            return ""
        if self.names is None or value in self.names:
            self.used.setdefault(str(value), path)
            return str(value)
        shown = (
            repr(str(value))
            if nearest(value, self.names) or re.fullmatch(r"[a-z]+(_[a-z]{1,12}){1,3}", value)
            else "what is given"
        )
        self.check.wrong(
            path,
            "{0} is not the name of a secret in anvil_secrets".format(shown),
            suggest(value, self.names, "add it to anvil_secrets") + "; the name of an entry goes here, never the secret",
        )
        return ""


def _read_secrets(check: _Check, value: Any) -> _Secrets:
    path: Path = ("anvil_secrets",)
    if value is UNREAD:
        return _Secrets(check, None)
    node = check.mapping(path, value, "anvil_secrets: {router_token: \"{{ lookup('ansible.builtin.file', '…') }}\"}")
    if node is None:
        return _Secrets(check, () if value is None else None)
    rule = "use letters, digits and _, starting with a letter"
    return _Secrets(check, tuple(name for name, _path, _value in node.entries(SECRET_NAME, rule)))


def _check_secrets(secrets: _Secrets, facts: Mapping[str, str], required: bool) -> None:
    """How each secret is held: see ``build_plan``."""
    for name in secrets.names or ():
        fact, path = facts.get(name, "nothing is known of how it is held"), ("anvil_secrets", name)
        if fact == "clear":
            secrets.check.wrong(
                path,
                "the secret is written in clear",
                "encrypt it (ansible-vault encrypt_string --name {0}) or keep it in a file of mode 0600 and write "
                "\"{{{{ lookup('ansible.builtin.file', '/path/to/it') }}}}\"".format(name),
                "whoever reads the inventory, its history or the process list can read it",
            )
        elif name not in secrets.used:
            secrets.check.note(path, "nobody uses it")
        elif fact not in ("vault", "file"):
            user = path_text(secrets.used[name])
            if required:
                secrets.check.wrong(
                    path,
                    "the secret cannot be read; {0} needs it".format(user),
                    "create the file that the lookup names (mode 0600), or give --vault-password-file",
                    fact,
                )
            else:
                secrets.check.note(path, "has no value yet, and {0} needs it: {1}".format(user, fact))


# ---------------------------------------------------------------------------------------------------------- GPUs


@dataclass(frozen=True)
class _Gpus:
    """aliases is None when ``anvil_gpus`` could not be read; by_alias holds the cards without a mistake."""

    aliases: Optional[Tuple[str, ...]]
    by_alias: Dict[str, Gpu]


def _read_capability(node: _Node) -> str:
    if isinstance(node.raw.get("compute_capability"), float):
        node.check.wrong(
            node.at("compute_capability"), "text is wanted, not a number", 'put it in quotes: "12.0"', "YAML reads 12.10 as 12.1"
        )
        return ""
    found = node.text("compute_capability", 'as nvidia-smi --query-gpu=compute_cap tells it: "12.0"', VERSION) or ""
    if found and not find_capability(found):
        known = ", ".join(CAPABILITIES)
        node.check.note(node.at("compute_capability"), "nothing is known of {0} (known: {1})".format(found, known))
    return found


def _read_gpu(node: _Node, alias: str) -> Optional[Gpu]:
    node.known(GPU_KEYS)
    rule = "GPU- or MIG- and 8-4-4-4-12 hexadecimal digits: nvidia-smi -L tells it"
    uuid = node.text("uuid", rule, UUID)
    vram = node.whole("vram_mib", 1, 10**7, "MiB")
    reserve = node.whole("reserve_mib", 0, 10**7, "MiB")
    index = node.whole("index", 0, 255)
    capability = _read_capability(node)
    for key, hint in (("uuid", rule), ("vram_mib", "the card's total memory in MiB: nvidia-smi tells it")):
        if not node.has(key):
            node.check.wrong(node.at(key), "GPU {0} has no {1}".format(alias, key), hint)
    if vram is not None and reserve is not None and reserve >= vram:
        node.check.wrong(
            node.at("reserve_mib"),
            "the reserve of {0} MiB leaves nothing of {1} MiB".format(reserve, vram),
            "reserve less than vram_mib",
        )
        return None
    if uuid is None or vram is None or (node.has("reserve_mib") and reserve is None):
        return None
    head, dash, tail = uuid.partition("-")
    uuid = head.upper() + dash + tail.lower().replace("gpu-", "GPU-")
    return Gpu(alias=alias, uuid=uuid, vram_mib=vram, reserve_mib=reserve or 0, index=index, compute_capability=capability)


def _read_gpus(check: _Check, value: Any) -> _Gpus:
    example = "anvil_gpus: {big: {uuid: GPU-…, vram_mib: 97887, reserve_mib: 2048}}"
    node = check.mapping(("anvil_gpus",), value, example)
    if node is None:
        return _Gpus(() if value is None else None, {})
    aliases, by_alias = [], {}
    uuids: Dict[str, str] = {}
    indexes: Dict[int, str] = {}
    for alias, path, raw in node.entries(NAME, NAME_RULE):
        aliases.append(alias)
        inner = check.mapping(path, {} if raw is None else raw, example)
        gpu = _read_gpu(inner, alias) if inner else None
        if gpu is None:
            continue
        first = uuids.setdefault(gpu.uuid, alias)
        if first != alias:
            check.wrong((*path, "uuid"), "{0} is also the UUID of {1}".format(gpu.uuid, first), "one alias for each card")
        if gpu.index is not None and indexes.setdefault(gpu.index, alias) != alias:
            check.wrong(
                (*path, "index"),
                "{0} is also the index of {1}".format(gpu.index, indexes[gpu.index]),
                "nvidia-smi tells each card's index",
            )
        by_alias[alias] = gpu
    return _Gpus(tuple(aliases), by_alias)


# ------------------------------------------------------------- what serves and the defaults of an engine may both say


@dataclass(frozen=True)
class _Shared:
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

    def over(self, below: _Shared) -> _Shared:
        """This said on top of those defaults: mappings are merged, lists follow one another, all else replaces."""

        def said(mine: Any, theirs: Any) -> Any:
            return theirs if mine is None else mine

        targets = {mount.target for mount in self.mounts}
        return _Shared(
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
        )


PLAN_SETS = {
    "CUDA_VISIBLE_DEVICES": "the plan sets it: say gpus, and gpu_pin: uuid or index",
    "NVIDIA_VISIBLE_DEVICES": "the plan pins the cards: say gpus",
}


def _read_environment(node: _Node, engine: Optional[Engine]) -> Dict[str, str]:
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


def _read_secret_variables(node: _Node, secrets: _Secrets, engine: Optional[Engine]) -> Dict[str, str]:
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


def _read_mount(check: _Check, path: Path, value: Any) -> Optional[Mount]:
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


def _read_mounts(node: _Node) -> Tuple[Mount, ...]:
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


def _read_words(node: _Node, key: str) -> Optional[Tuple[str, ...]]:
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


def _flag_of(word: str) -> str:
    """``--max_model_len=5`` -> ``--max-model-len``; empty for a word that is no flag."""
    if not re.match(r"--?[A-Za-z]", word):
        return ""
    flag = word.split("=", 1)[0]
    return flag.replace("_", "-") if flag.startswith("--") else flag


def _check_args(node: _Node, engine: Optional[Engine]) -> None:
    value = node.raw.get("args")
    for number, word in enumerate(value if isinstance(value, (list, tuple)) else ()):
        if not isinstance(word, str):
            continue
        path, flag = (*node.at("args"), number), _flag_of(word)
        bare = flag.split()[0] if flag else ""
        if bare in ("--api-key", "--api-key-file"):
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


def _read_restart(node: _Node) -> Optional[str]:
    if node.raw.get("restart") is False:  # YAML reads a bare no as false
        return "no"
    return node.word("restart", RESTARTS)


def read_image(node: _Node) -> Optional[str]:
    rule = "repository/name:tag or repository/name@sha256:…"
    text = node.text("image", rule, IMAGE)
    if text is None:
        return None
    found = IMAGE.fullmatch(text)
    if found and not found.group("tag") and not found.group("digest"):
        node.check.wrong(node.at("image"), "{0!r} has neither tag nor digest".format(shorten(text)), rule)
        return None
    if found and found.group("tag") == "latest" and not found.group("digest"):
        node.check.note(node.at("image"), "the tag latest moves: a digest says which image runs")
    return text


def _read_size(node: _Node) -> Optional[str]:
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


def _read_shared(node: _Node, engine: Optional[Engine], secrets: _Secrets) -> _Shared:
    _check_args(node, engine)
    return _Shared(
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
    )


def _read_engines(check: _Check, value: Any, secrets: _Secrets) -> Dict[str, _Node]:
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


# -------------------------------------------------------------------------------------------------------- serves


@dataclass(frozen=True)
class _Host:
    """What every serve is read against."""

    platform: str
    gpus: _Gpus
    engines: Dict[str, _Shared]
    unread_images: Set[str]
    secrets: _Secrets


def is_loopback(bind: str) -> bool:
    return ipaddress.ip_address(bind.strip("[]")).is_loopback


def _read_address(check: _Check, path: Path, text: str) -> Optional[str]:
    """An IP address as compose writes it: IPv6 in brackets."""
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        check.wrong(path, "{0!r} is not an IP address".format(shorten(text)), "an address of this host: 127.0.0.1")
        return None
    return "[{0}]".format(address) if address.version == 6 else str(address)


def _read_engine(node: _Node, name: str) -> Optional[str]:
    value = node.raw.get("engine")
    if value is UNREAD:
        return None
    if value is None:
        node.check.wrong(node.at("engine"), "serve {0} has no engine".format(name), "one of: " + ", ".join(ENGINES))
    elif isinstance(value, str) and value in LATER_ENGINES:
        node.check.wrong(node.at("engine"), "engine {0} is not supported yet".format(value), "supported: " + ", ".join(ENGINES))
    else:
        return node.word("engine", tuple(ENGINES))
    return None


def _read_cards(node: _Node, gpus: _Gpus) -> Tuple[Tuple[str, ...], bool]:
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


def _pin(node: _Node, pin: str, cards: Sequence[Gpu], platform: str) -> Tuple[str, ...]:
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


def _read_vram(node: _Node, cards: Sequence[Gpu], listed: bool) -> int:
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


def _read_share(node: _Node, word: Optional[str], args: Sequence[str], need: int, cards: Sequence[Gpu]) -> Tuple[str, ...]:
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
    if any(_flag_of(arg) == flag for arg in args):
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


def _read_tags(node: _Node) -> Tuple[str, ...]:
    listed = node.check.items(node.at("tags"), node.raw.get("tags"), "tags: [night]")
    words = [node.check.plain(path, value, NAME, NAME_RULE) for path, value in listed or ()]
    return tuple(dict.fromkeys(word for word in words if word))


def _read_key(node: _Node, engine: Optional[str], secrets: _Secrets) -> str:
    name = secrets.name_at(node.at("api_key"), node.raw.get("api_key"))
    if node.has("api_key") and engine and not ENGINES[engine].key_env:
        node.check.wrong(
            node.at("api_key"),
            "an {0} serve cannot take a key".format(engine),
            "leave it on 127.0.0.1 without a key; clients use the router, which has its token",
            "{0} takes its key on the command line only, where every user of the host can read it".format(engine),
        )
        return ""
    return name


def _check_publish(node: _Node, bind: str, engine: Optional[str]) -> None:
    if is_loopback(bind) or node.has("api_key"):
        return
    can = engine is None or bool(ENGINES[engine].key_env)
    node.check.wrong(
        node.at("publish"),
        "{0} is published beyond loopback without a key".format(bind),
        "set api_key: <name in anvil_secrets>, or publish: 127.0.0.1" if can else "publish: 127.0.0.1",
        "anyone who reaches the port could use the GPU",
    )


def _check_model(node: _Node, model: Optional[str], engine: Optional[Engine], mounts: Sequence[Mount]) -> None:
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


def _card_environment(node: _Node, engine: Engine, shared: _Shared, cards: Sequence[Gpu], platform: str) -> Dict[str, str]:
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
    if all(row and row.fp8 for row in rows) and not any(_flag_of(word) in engine.kv_flags for word in shared.args):
        node.check.note(node.at("args"), "its cards can hold the KV cache in half the memory: {0} fp8".format(engine.kv_flags[0]))
    return found


def _environment(
    engine: Engine, shared: _Shared, visible: Sequence[str], gpus: bool, platform: str, by_card: Mapping[str, str]
) -> Dict[str, str]:
    merged: Dict[str, str] = {**engine.gpu_environment, **by_card} if gpus else {}
    if platform == "wsl2":
        merged.update(engine.wsl2_environment)
    merged.update(shared.environment)
    if visible:
        merged["CUDA_VISIBLE_DEVICES"] = ",".join(visible)
    return {name: value for name, value in sorted(merged.items()) if name not in shared.secrets}


def _check_shared(node: _Node, shared: _Shared) -> None:
    for name in sorted(set(shared.environment) & set(shared.secrets)):
        node.check.wrong((*node.at("secrets"), name), "{0} is in environment and in secrets".format(name), "keep one of the two")
    if shared.ipc == "host" and shared.shm_size is not None:
        node.check.wrong(
            node.at("shm_size"),
            "shm_size {0} has no effect with ipc: host".format(shared.shm_size),
            "leave shm_size out, or say ipc: private",
        )


def _read_serve(node: _Node, name: str, host: _Host) -> ServePlan:
    """One serve. Where a mistake was reported an empty value stands in: the plan is thrown away then."""
    node.known(SERVE_KEYS)
    word = _read_engine(node, name)
    engine = ENGINES[word] if word else Engine()
    mine = _read_shared(node, engine if word else None, host.secrets)
    shared = mine.over(host.engines.get(word or "", _Shared()))
    _check_shared(node, replace(shared, secrets=shared.secrets))
    # Of an unknown engine it is only known that there is no image where no engine has one.
    images = {word: shared.image} if word else {known: below.image for known, below in host.engines.items()}
    if not node.has("image") and not any(images.values()) and not host.unread_images & {word or "", *images}:
        node.check.wrong(
            node.at("image"),
            "serve {0} has no image".format(name),
            "give it here or in anvil_engines.{0}.image".format(word or "ENGINE"),
        )
    if not node.has("model"):
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
    bind = _read_address(node.check, node.at("publish"), publish) if publish else None
    if bind:
        _check_publish(node, bind, word)
    key = _read_key(node, word, host.secrets)
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
        served_name=node.text("served_name", "one word: the name clients ask for", NO_SPACE) or name,
        port=node.whole("port", 1, 65535) or 0,
        bind=bind or "127.0.0.1",
        gpus=aliases,
        gpu_uuids=tuple(card.uuid for card in cards),
        cuda_visible=visible,
        args=shared.args + _read_share(node, word, shared.args, need, cards),
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
        ready_timeout=shared.ready_timeout or 600,
        residency=node.word("residency", RESIDENCIES) or RESIDENT,
        tags=_read_tags(node),
    )


def _read_serves(check: _Check, value: Any, host: _Host) -> Tuple[Optional[Tuple[str, ...]], List[ServePlan]]:
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


def _check_vram(check: _Check, serves: Sequence[ServePlan], gpus: _Gpus) -> None:
    """What may run at the same time must fit: resident and evictable serves together; each one on demand beside the
    resident ones, because it evicts the others."""
    on_demand = [serve for serve in serves if serve.residency == ON_DEMAND]
    resident = [serve for serve in serves if serve.residency == RESIDENT]
    for alias, gpu in gpus.by_alias.items():
        _check_sum(check, [serve for serve in serves if serve.residency != ON_DEMAND], alias, gpu)
        for serve in on_demand:
            if alias in serve.gpus:
                _check_sum(check, [*resident, serve], alias, gpu)


def _check_sum(check: _Check, serves: Sequence[ServePlan], alias: str, gpu: Gpu) -> None:
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


# -------------------------------------------------------------------------------------------------------- router


def _arg_value(args: Sequence[str], flags: Sequence[str]) -> Optional[int]:
    """The number behind the last of these flags. vLLM takes 32k (thousands) and 32K (1024s)."""
    found = None
    for number, word in enumerate(args):
        if _flag_of(word) in flags:
            _flag, given, value = word.partition("=")
            text = value if given else (args[number + 1] if number + 1 < len(args) else "")
            match = re.fullmatch(r"([0-9]{1,9})([kK]?)", text)
            if match:
                found = int(match.group(1)) * {"": 1, "k": 1000, "K": 1024}[match.group(2)]
    return found


def serve_context(serve: ServePlan) -> Optional[int]:
    """How many tokens one request to this serve may have, if its arguments tell."""
    engine = ENGINES.get(serve.engine, Engine())
    context = _arg_value(serve.args, engine.context_flags)
    slots = _arg_value(serve.args, engine.slot_flags) or 1
    return context // slots if context else None


def _supports_tools(serve: ServePlan) -> bool:
    flags = ENGINES.get(serve.engine, Engine()).tool_flags
    return not flags or any(_flag_of(word) in flags for word in serve.args)


def _read_tier(node: _Node, names: Optional[Sequence[str]], serves: Mapping[str, ServePlan]) -> Optional[TierPlan]:
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
        model=serve.served_name,
        context_limit=limit or told or DEFAULT_CONTEXT,
        tool_support=_supports_tools(serve) if tools is None else tools,
        key_env=_key_env(tier),
        key_secret=serve.api_key,
    )


def _key_env(tier: str) -> str:
    return "ANVIL_{0}_KEY".format(re.sub(r"[^A-Z0-9]", "_", tier.upper()))


def _read_tiers(
    node: _Node, names: Optional[Sequence[str]], serves: Mapping[str, ServePlan]
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


def _read_presets(node: _Node, ids: Optional[Sequence[str]]) -> Dict[str, Tuple[str, ...]]:
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


def _read_moment(node: _Node, key: str) -> Optional[str]:
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


def _read_score(node: _Node) -> float:
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


def _read_profile(node: _Node, ids: Optional[Sequence[str]]) -> Tuple[ProfileEntry, ...]:
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


def _read_publish(node: _Node) -> Optional[Tuple[str, int]]:
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
    bind = _read_address(node.check, path, head)
    if not 1 <= int(tail) <= 65535:
        node.check.wrong(path, "port {0} is out of range".format(tail), "a port from 1 to 65535")
        return None
    return (bind, int(tail)) if bind else None


def _read_edge(router: _Node, container: str, token: str) -> Optional[EdgePlan]:
    """The edge and the replicas behind it; None where the router is one container."""
    count = router.whole("replicas", 1, MOST_REPLICAS) or 1
    check, path = router.check, router.at("edge")
    if count == 1:
        if router.has("edge") and router.raw["edge"] is not UNREAD and not router.has("replicas"):
            check.wrong(path, "one replica has no edge", "set replicas: 2, or leave edge out")
        return None
    node = check.mapping(path, router.raw.get("edge"), "edge: {image: anvil.local/edge:1}") or _Node(check, path, {})
    node.known(EDGE_KEYS)
    subnet = _read_subnet(node, count)
    return EdgePlan(
        image=(read_image(node) if node.has("image") else DEFAULT_EDGE_IMAGE) or "",
        container=node.text("container", CONTAINER_RULE, CONTAINER) or container + "-edge",
        network=container + "-edge",
        subnet=str(subnet),
        address=str(subnet.network_address + 2),
        certificates=(node.text("certificates", "an absolute path on the host: /etc/anvil-tls", ABSOLUTE) or "").rstrip("/"),
        check_tiers=node.word("health", EDGE_HEALTH) == "tiers",
        replicas=tuple(
            ReplicaPlan(
                service="router-{0}".format(number),
                container="{0}-{1}".format(container, number),
                address=str(subnet.network_address + 2 + number),
            )
            for number in range(1, count + 1)
        ),
    )


def _read_subnet(node: _Node, replicas: int) -> ipaddress.IPv4Network:
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


def _read_router(
    check: _Check, value: Any, names: Optional[Sequence[str]], serves: Sequence[ServePlan], secrets: _Secrets
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
    ids, tiers = _read_tiers(node, names, {serve.name: serve for serve in serves})
    container = node.text("container", CONTAINER_RULE, CONTAINER) or "anvil-router"
    return RouterPlan(
        image=image or "",
        container=container,
        volume=node.text("volume", "the name of a volume: " + CONTAINER_RULE, CONTAINER) or "anvil-router-cfg",
        bind=address[0] if address else "127.0.0.1",
        port=address[1] if address else 0,
        token=name,
        tiers=tiers,
        presets=_read_presets(node, ids),
        profile=_read_profile(node, ids),
        ready_timeout=node.whole("ready_timeout", 1, LONGEST_WAIT_SECONDS, "seconds") or 60,
        request_timeout=node.whole("request_timeout", 1, LONGEST_WAIT_SECONDS, "seconds") or 300,
        edge=_read_edge(node, container, name),
    )


# ---------------------------------------------------------------------------------------------------------- host


def _overlap(one: str, other: str) -> bool:
    return one == other or any(ipaddress.ip_address(bind.strip("[]")).is_unspecified for bind in (one, other))


def _check_clashes(check: _Check, serves: Sequence[ServePlan], router: Optional[RouterPlan]) -> None:
    """Ports, container names, served names: each belongs to one."""
    ports: List[Tuple[str, Path, str, int]] = [
        ("serve " + serve.name, ("anvil_serves", serve.name, "port"), serve.bind, serve.port) for serve in serves
    ]
    containers: List[Tuple[str, Path, str]] = [
        ("serve " + serve.name, ("anvil_serves", serve.name, "container"), serve.container) for serve in serves
    ]
    if router:
        ports.append(("the router", ("anvil_router", "publish"), router.bind, router.port))
        if router.edge:
            for replica in router.edge.replicas:
                containers.append(("the router", ("anvil_router", "container"), replica.container))
            containers.append(("the edge", ("anvil_router", "edge", "container"), router.edge.container))
        else:
            containers.append(("the router", ("anvil_router", "container"), router.container))
    for number, (_who, path, bind, port) in enumerate(ports):
        for other, _path, taken, same in ports[:number]:
            if port and port == same and _overlap(bind, taken):
                check.wrong(path, "port {0} on {1} is taken by {2}".format(port, bind, other), "give each a port of its own")
                break
    _check_unique(check, "container name {0!r} is taken by {1}", containers)
    served: List[Tuple[str, Path, str]] = [
        ("serve " + serve.name, ("anvil_serves", serve.name, "served_name"), serve.served_name) for serve in serves
    ]
    _check_unique(check, "served name {0!r} is taken by {1}", served)
    names = {serve.name for serve in serves} | ({"router"} if router else set())
    if router and router.edge:
        names |= {"edge", *(replica.service for replica in router.edge.replicas)}
    for who, path, container in containers:
        if container in names and who not in ("serve " + container, "the router", "the edge"):
            check.wrong(
                path,
                "{0!r} is also the name of another service".format(container),
                "choose another container name",
                "on the docker network a container answers to both names, so requests would reach either",
            )


def _check_unique(check: _Check, what: str, claims: Sequence[Tuple[str, Path, str]]) -> None:
    first: Dict[str, str] = {}
    for who, path, word in claims:
        owner = first.setdefault(word, who)
        if owner != who:
            check.wrong(path, what.format(shorten(word), owner), "give each a name of its own")


def _redact(problem: Problem, values: Sequence[str]) -> Problem:
    def clean(text: str) -> str:
        for value in values:
            text = text.replace(value, "***")
        return text

    return replace(
        problem, what=clean(problem.what), where=clean(problem.where), why=clean(problem.why), hint=clean(problem.hint)
    )


def _leaves(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, str):
        yield str(value)


def build_plan(
    host: str, variables: Mapping[str, Any], secret_facts: Mapping[str, str], secrets_required: bool = True
) -> HostPlan:
    """Check and normalise all that the inventory says of one host.

    variables: the host's variables; only those that start with ``anvil_`` are looked at. ``UNREAD`` may stand for a
    value that could not be read and was reported by the caller: nothing that depends on it is reported again.
    secret_facts: how each entry of ``anvil_secrets`` is held: ``vault``, ``file``, ``clear``, or any other text: why it
    has no value. secrets_required: a secret that is used and has no value is a problem (else a note).
    Raises AnvilError with every problem found. No value of a secret is in a problem, a note or the plan.
    """
    check = _Check()
    _check_variables(check, variables)
    top = _Node(check, (), variables)
    root = top.text("anvil_root", "an absolute folder on the host: " + DEFAULT_ROOT, ABSOLUTE) or DEFAULT_ROOT
    platform = top.word("anvil_platform", PLATFORMS) or "linux"
    network = top.text("anvil_network", "the name of a docker network: " + CONTAINER_RULE, CONTAINER) or DEFAULT_NETWORK
    secrets = _read_secrets(check, variables.get("anvil_secrets"))
    gpus = _read_gpus(check, variables.get("anvil_gpus"))
    defaults = _read_engines(check, variables.get("anvil_engines"), secrets)
    shared = {name: _read_shared(node, ENGINES[name], secrets) for name, node in defaults.items()}
    unread = {name for name, node in defaults.items() if node.has("image")}
    if variables.get("anvil_engines") is not None and not isinstance(variables["anvil_engines"], Mapping):
        unread = set(ENGINES)
    names, serves = _read_serves(check, variables.get("anvil_serves"), _Host(platform, gpus, shared, unread, secrets))
    _check_vram(check, serves, gpus)
    router = _read_router(check, variables.get("anvil_router"), names, serves, secrets)
    _check_clashes(check, serves, router)
    _check_secrets(secrets, secret_facts, secrets_required)
    if names == () and variables.get("anvil_router") is None:
        check.note(("anvil_serves",), "the inventory describes no serves for this host")
    if check.problems:
        values = sorted({leaf for leaf in _leaves(variables.get("anvil_secrets")) if len(leaf) >= 4}, key=len, reverse=True)
        raise AnvilError(*(_redact(problem, values) for problem in dict.fromkeys(check.problems)))
    return HostPlan(
        host=host,
        root=root.rstrip("/") or "/",
        platform=platform,
        network=network,
        gpus=gpus.by_alias,
        serves=tuple(serves),
        router=router,
        secret_names=tuple(sorted(secrets.used)),
        notes=tuple(check.notes),
    )


def _check_variables(check: _Check, variables: Mapping[str, Any]) -> None:
    known = VARIABLES + OTHER_VARIABLES
    for name in variables:
        if isinstance(name, str) and name.startswith("anvil_") and name not in known:
            check.wrong((str(name),), "unknown variable", suggest(str(name), known))
