# SPDX-License-Identifier: GPL-3.0-or-later
"""Check ``security`` of a serve or an engine, and decide what its container may do: capabilities, user, file system, memory that
it shares."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import flag_of
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import NAMELESS_USER, Engine
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import ABSOLUTE, Section

KEYS = ("read_only", "tmpfs", "user", "cap_drop", "cap_add", "no_new_privileges")
EXAMPLE = 'security: {read_only: true, user: "10001:10001", cap_add: []}'
# linux/capability.h, without CAP_.
CAPABILITIES = (
    *("AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE"),
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_LOCK"),
    *("IPC_OWNER", "KILL", "LEASE", "LINUX_IMMUTABLE", "MAC_ADMIN", "MAC_OVERRIDE"),
    *("MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_RAW", "PERFMON"),
    *("SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYSLOG", "SYS_ADMIN"),
    *("SYS_BOOT", "SYS_CHROOT", "SYS_MODULE", "SYS_NICE", "SYS_PACCT", "SYS_PTRACE"),
    *("SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "WAKE_ALARM"),
)
# With one of these, a container gets out to its host.
WAYS_OUT = (
    "ALL",
    "BPF",
    "DAC_READ_SEARCH",
    "MKNOD",
    "NET_ADMIN",
    "SYS_ADMIN",
    "SYS_MODULE",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_BOOT",
)
USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,31})?")
# Settings of engines that put a part of the KV cache or of the weights into /dev/shm, as large as the operator says.
SHARED_MEMORY_FLAGS = ("--kv-transfer-config", "--ec-transfer-config", "--kv-offloading-size", "--engram-config")


@dataclass(frozen=True)
class SecuritySettings:
    """``security`` as written. None: the key is not set, so the engine's default counts."""

    read_only: Optional[bool] = None
    tmpfs: Optional[Tuple[str, ...]] = None
    user: Optional[str] = None
    cap_drop: Optional[Tuple[str, ...]] = None
    cap_add: Optional[Tuple[str, ...]] = None
    no_new_privileges: Optional[bool] = None

    def merge_over(self, below: SecuritySettings) -> SecuritySettings:
        pairs = {key: (getattr(self, key), getattr(below, key)) for key in KEYS}
        return SecuritySettings(**{key: default if mine is None else mine for key, (mine, default) in pairs.items()})


NOT_WRITTEN = SecuritySettings()


@dataclass(frozen=True)
class Confinement:
    """What the container of a serve may do, all defaults decided. environment: where the engine writes, if its root cannot be
    written or its user may have no name."""

    read_only: bool
    tmpfs: Tuple[str, ...]
    user: str
    cap_drop: Tuple[str, ...]
    cap_add: Tuple[str, ...]
    security_opt: Tuple[str, ...]
    environment: Mapping[str, str]


def _read_capabilities(section: Section, key: str) -> Optional[Tuple[str, ...]]:
    listed = section.check.read_list(section.path_of(key), section.raw.get(key), "{0}: [NET_RAW]".format(key))
    if listed is None:
        return None
    found: List[str] = []
    for path, value in listed:
        word = str(value).upper()
        word = word[4:] if word.startswith("CAP_") else word
        if word not in (*CAPABILITIES, "ALL"):
            section.check.add_problem(path, "{0!r} is not a capability".format(str(value)[:40]), "such as NET_RAW, or ALL")
            continue
        if key == "cap_add" and word in WAYS_OUT:
            section.check.add_note(path, "with {0}, a process in the container can take over the host".format(word))
        found.append(word)
    return tuple(dict.fromkeys(found))


def read_security(section: Section) -> SecuritySettings:
    inner = section.check.read_mapping(section.path_of("security"), section.raw.get("security"), EXAMPLE)
    if inner is None:
        return NOT_WRITTEN
    inner.check_keys(KEYS)
    folders = inner.check.read_list(inner.path_of("tmpfs"), inner.raw.get("tmpfs"), "tmpfs: [/root/.cache]")
    rule = "an absolute path in the container"
    paths = [inner.check.match_text(path, value, ABSOLUTE, rule) for path, value in folders or ()]
    return SecuritySettings(
        read_only=inner.read_boolean("read_only"),
        tmpfs=None if folders is None else tuple(path for path in paths if path),
        user=None if inner.raw.get("user") is None else _read_user(inner),
        cap_drop=_read_capabilities(inner, "cap_drop"),
        cap_add=_read_capabilities(inner, "cap_add"),
        no_new_privileges=inner.read_boolean("no_new_privileges"),
    )


def _read_user(section: Section) -> Optional[str]:
    value = section.raw["user"]
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return section.check.match_text(section.path_of("user"), text, USER, '"10001:10001", a number or name of the image')


def decide_confinement(given: SecuritySettings, engine: Engine, own_entrypoint: bool) -> Confinement:
    """own_entrypoint: the inventory sets an entrypoint, which may be a script that changes its user."""
    read_only = engine.read_only if given.read_only is None else given.read_only
    # A program that was compiled at run time is loaded from /tmp, so it may be executed there.
    tmp = "/tmp:exec" if engine.read_only_environment else "/tmp"
    # Older releases of runc give a folder that the image has its mode in the image, whatever is asked for.
    folders = tuple("{0}:exec,mode=1777".format(path) for path in given.tmpfs or ())
    return Confinement(
        read_only=read_only,
        tmpfs=(*((tmp,) if read_only and "/tmp" not in (given.tmpfs or ()) else ()), *folders),
        user=given.user or "",
        cap_drop=("ALL",) if given.cap_drop is None else given.cap_drop,
        cap_add=_decide_added(given, engine, own_entrypoint),
        security_opt=() if given.no_new_privileges is False else ("no-new-privileges:true",),
        environment=_decide_environment(read_only, given.user or "", engine),
    )


def _decide_environment(read_only: bool, user: str, engine: Engine) -> Mapping[str, str]:
    """user: one that is a number may have no name in the image."""
    uid = user.partition(":")[0]
    nameless = bool(engine.read_only_environment) and uid.isdigit() and int(uid) > 0
    return {**(engine.read_only_environment if read_only else {}), **(NAMELESS_USER if nameless else {})}


def _decide_added(given: SecuritySettings, engine: Engine, own_entrypoint: bool) -> Tuple[str, ...]:
    if given.cap_add is not None:
        return given.cap_add
    if given.cap_drop is not None:
        return ()
    return tuple(sorted({*engine.cap_add, *(engine.entrypoint_cap_add if own_entrypoint else ())}))


def decide_shared_memory(
    section: Section, ipc: Optional[str], shm_size: Optional[str], args: Sequence[str], engine: Engine
) -> Tuple[str, str]:
    """``ipc`` and ``shm_size`` of the container. Shared memory of its own, unless the inventory says ``ipc: host``, or the
    arguments put something of unknown size into it."""
    if ipc is None and not shm_size and engine.shm_size:
        large = [flag_of(word) for word in args if flag_of(word).partition(".")[0] in SHARED_MEMORY_FLAGS]
        if large:
            section.add_note(
                "ipc",
                "{0} may need more than {1} of shared memory, so the serve shares that of the host; set shm_size to give it its"
                " own".format(large[0], engine.shm_size),
            )
            return "host", ""
    own = ipc or ""
    return own, shm_size or ("" if own == "host" else engine.shm_size)
