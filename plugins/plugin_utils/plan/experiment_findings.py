# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an experiment may not have, in a compose file that Docker Compose has interpreted: every finding, with a hint. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.catalog.container_policy import (
    PRIVILEGES,
    UNCONFINED,
    find_foreign_sysctls,
    is_opened,
    judge_mount,
    suggest_opening,
)
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import (
    hide_secrets,
    is_secret_entry,
    is_secret_name,
    mask_text,
)
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import EXPERIMENT_NETWORK
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan

# Keys whose value is compared with the container, field by field.
COMPARED = {
    "container_name", "image", "command", "entrypoint", "environment", "ports", "volumes", "ipc", "shm_size", "user", "read_only",
    "tmpfs", "init", "stop_signal", "stop_grace_period", "working_dir", "healthcheck", "cap_drop", "security_opt", "extra_hosts",
    "mem_limit", "pids_limit", "logging", "labels",
}  # fmt: skip
# Keys that are written as they are. A container does not lose them, so a hash of them is enough to see that the file changed.
PASSED = {"ulimits", "group_add", "sysctls", "dns", "dns_search", "dns_opt", "stdin_open", "tty", "oom_score_adj"}
# Keys without meaning for an experiment -> what is said about it (empty: nothing).
LEFT_OUT = {
    "restart": "an experiment does not restart by itself",
    "networks": "all experiments are on one network, " + EXPERIMENT_NETWORK,
    "depends_on": "the services of the file start together",
    "links": "services reach each other by their names",
    "profiles": "", "expose": "", "pull_policy": "", "env_file": "", "develop": "", "annotations": "", "attach": "", "scale": "",
    "label_file": "", "deploy": "", "devices": "", "gpus": "", "runtime": "", "extends": "",
    "platform": "the image decides",
    "hostname": "a service is reached by its name in the file", "domainname": "as hostname",
    "cpus": "an experiment has no limit of its processor time", "cpu_shares": "as cpus", "cpu_quota": "as cpus",
    "cpu_period": "as cpus", "cpu_count": "as cpus", "cpu_percent": "as cpus", "cpuset": "as cpus",
    "mem_reservation": "use mem_limit", "memswap_limit": "use mem_limit", "mem_swappiness": "use mem_limit",
    "blkio_config": "an experiment has no limit of its disk",
}  # fmt: skip
REFUSED = {
    **PRIVILEGES,
    "build": "build the image first and name it with image",
    "network_mode": "remove it and publish a port: ports: [\"127.0.0.1:30010:8000\"]",
    "provider": "remove it",
    "models": "serve the model with an experiment of its own",
    "post_start": "remove it", "pre_stop": "remove it", "mac_address": "remove it",
    "external_links": "remove it: experiments reach each other by the names of their services",
}  # fmt: skip

# The volumes of routers, edges and workflows, by the names that this collection gives them.
OWN_VOLUME = re.compile(r"anvil-(router|workflow)-.+")


def find_refused(name: str, raw: Mapping[str, Any], base: HostPlan) -> Iterator[Problem]:
    """raw: one service with plain values (``$`` is ``$``). base: the plan of the host, with its root and allowed mounts."""
    where = f"compose: services.{name}"
    for key, value in raw.items():
        if str(key).startswith("x-") or value in (None, False, [], {}, ""):
            continue
        if key in REFUSED and not (key == "network_mode" and value == "bridge"):
            yield Problem(f"an experiment cannot have {_show(key, value)}", f"{where}.{key}", hint=REFUSED[key])
        elif key not in COMPARED | PASSED and key not in LEFT_OUT and key != "network_mode":
            hint = "remove it; supported: " + ", ".join(sorted(COMPARED | PASSED))
            yield Problem(f"an experiment cannot have {key}", where, "it cannot be compared with a running container", hint)
    if not raw.get("image"):
        yield Problem("the service has no image", where, hint="set image: repository/name:tag")
    ipc = str(raw.get("ipc") or "")
    if ipc not in ("", "host", "private", "shareable", "none"):
        hint = "use ipc: host, or shm_size"
        yield Problem(f"an experiment cannot have ipc: {ipc}", f"{where}.ipc", "it is that of another container", hint)
    for option in raw.get("security_opt") or ():
        if UNCONFINED.fullmatch(str(option)):
            hint = "remove it: it takes the container's confinement away"
            yield Problem(f"an experiment cannot have {option}", f"{where}.security_opt", hint=hint)
    for sysctl in find_foreign_sysctls(raw.get("sysctls")):
        hint = "remove it, and set it on the host: every container has it then"
        yield Problem(f"an experiment cannot have the sysctl {sysctl}", f"{where}.sysctls", "it is the host's", hint)
    if str(raw.get("runtime") or "nvidia") not in ("nvidia", "runc"):
        yield Problem(f"an experiment cannot have runtime: {raw['runtime']}", f"{where}.runtime", hint="remove it")
    yield from _check_deploy(where, raw)
    yield from _check_dependencies(where, raw)
    for mount in raw.get("volumes") or ():
        yield from check_mount(where, mount, base)
    for port in raw.get("ports") or ():
        yield from _check_port(where, port)


def _show(key: str, value: Any) -> str:
    words = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    shown = ", ".join(str(word) for word in words if not isinstance(word, Mapping))
    return f"{key}: {shown}" if shown else key


def _check_deploy(where: str, raw: Mapping[str, Any]) -> Iterator[Problem]:
    deploy = raw.get("deploy") or {}
    for count in (deploy.get("replicas"), raw.get("scale")):
        if count not in (None, 0, 1):
            yield Problem(f"an experiment cannot have {count} replicas", f"{where}.deploy", hint="set replicas: 1")
    if deploy.get("mode") not in (None, "", "replicated"):
        yield Problem(f"an experiment cannot have mode: {deploy['mode']}", f"{where}.deploy", hint="remove it")


def _check_dependencies(where: str, raw: Mapping[str, Any]) -> Iterator[Problem]:
    for other, how in (raw.get("depends_on") or {}).items() if isinstance(raw.get("depends_on"), Mapping) else ():
        if isinstance(how, Mapping) and how.get("condition") == "service_completed_successfully":
            yield Problem(
                f"an experiment cannot wait for {other} to end",
                f"{where}.depends_on",
                hint=f"run what {other} does before (playbooks/models.yml fetches weights), and remove {other} and depends_on",
            )


def check_mount(where: str, mount: Mapping[str, Any], base: HostPlan) -> Iterator[Problem]:
    kind, source, target = str(mount.get("type")), str(mount.get("source") or ""), str(mount.get("target") or "")
    if kind == "tmpfs":
        return
    if kind not in ("bind", "volume"):
        yield Problem(f"an experiment cannot have a mount of type {kind}", f"{where}.volumes", hint="use a folder or a volume")
    elif kind == "volume":
        if not source and re.match(r"[A-Za-z]:[\\/]", target):
            why = "Docker Compose takes one letter with a colon for a drive of Windows"
            yield Problem(f"the volume of {target} is not named", f"{where}.volumes", why, "give the volume a longer name")
        elif not source:
            hint = "name the volume: NAME:" + target
            yield Problem(f"the volume at {target} has no name", f"{where}.volumes", "its data would be lost", hint)
        if (mount.get("volume") or {}).get("subpath"):
            yield Problem(f"the volume at {target} has a subpath", f"{where}.volumes", hint="mount the whole volume")
    elif re.match(r"[A-Za-z]:[\\/]|\\\\", source):
        hint = "use the path that Linux sees: /mnt/c/…"
        yield Problem(f"{source} is a Windows path", f"{where}.volumes", hint=hint)
    elif not source.startswith("/"):
        what = "is below the home folder of this machine" if source.startswith("~") else "is relative to the compose file"
        hint = "use an absolute path on the host, or a volume"
        yield Problem(f"the path {source} {what}", f"{where}.volumes", "the container runs on the host", hint)
    else:
        propagation = str((mount.get("bind") or {}).get("propagation") or "")
        if "shared" in propagation:
            yield Problem(f"an experiment cannot have propagation: {propagation}", f"{where}.volumes", hint="remove it")
        yield from check_host_path(f"{where}.volumes", source, bool(mount.get("read_only")), base)


def check_volume(where: str, name: str) -> Iterator[Problem]:
    """name: of the volume on the host."""
    if OWN_VOLUME.fullmatch(name):
        why = "a router, an edge or a workflow keeps its settings, keys or jobs there"
        hint = "remove it; weights of this host are in the volumes that its serves mount"
        yield Problem(f"an experiment cannot have the volume {name}", where, why, hint)


def check_host_path(where: str, source: str, read_only: bool, base: HostPlan) -> Iterator[Problem]:
    """Whether an experiment may have this path of the host. The root of the host's projects holds env files with secrets."""
    why = judge_mount(source, read_only, (base.root,))
    if why and not is_opened(source, read_only, base.allow_mounts):
        yield Problem(f"an experiment cannot have {source}", where, why, suggest_opening(source, read_only))


def _check_port(where: str, port: Mapping[str, Any]) -> Iterator[Problem]:
    bind, published = str(port.get("host_ip") or ""), str(port.get("published") or "")
    if "-" in published:
        hint = f"choose one of them: 127.0.0.1:{published.partition('-')[0]}:{port.get('target')}"
        yield Problem(f"the Docker Engine would choose a port out of {published}", f"{where}.ports", hint=hint)
    elif not published or published == "0":
        yield Problem("a port has no number on the host", f"{where}.ports", hint="use 127.0.0.1:PORT:" + str(port.get("target")))
    elif bind and bind != "::1" and not bind.startswith("127."):
        hint = f"use 127.0.0.1:{published}:{port.get('target')}, because an experiment has no API key"
        yield Problem(f"port {published} would be published on {bind}", f"{where}.ports", hint=hint)


def find_secrets(name: str, raw: Mapping[str, Any], named: Mapping[str, str]) -> Iterator[Problem]:
    """Secrets in clear text. named: the ``x-anvil.secrets`` of the service: variable -> name."""
    where = f"compose: services.{name}"
    for key, value in (raw.get("environment") or {}).items():
        text = "" if value is None else str(value)
        if key in named:
            continue
        if value is None:
            hint = f"write {key}: value, or x-anvil: {{secrets: {{{key}: <name in anvil_secrets>}}}}"
            yield Problem(f"{key} has no value, and none is set here", f"{where}.environment", hint=hint)
        elif text and is_secret_entry(str(key), text):
            yield Problem(
                f"{key} holds a secret in clear text",
                f"{where}.environment",
                "the compose file lies on the host, and everyone there may read it",
                f"remove it, and write x-anvil: {{secrets: {{{key}: <name in anvil_secrets>}}}} in the service",
            )
    for key in ("command", "entrypoint"):
        words = [str(word) for word in raw.get(key) or ()]
        shown = hide_secrets(words)
        if shown != words:
            number = [one == other for one, other in zip(words, shown, strict=True)].index(False)
            flag = shown[number].split("=")[0] if shown[number].startswith("-") else shown[max(number - 1, 0)]
            yield Problem(
                f"the {key} holds a secret in clear text, at {mask_text(flag)}",
                f"{where}.{key}",
                "every user of the host can read a command line",
                "remove the flag, and write x-anvil: {secrets: {VARIABLE: <name in anvil_secrets>}} with the variable that the"
                " server reads: VLLM_API_KEY, LLAMA_API_KEY, HF_TOKEN",
            )
    for key, value in (raw.get("labels") or {}).items():
        if mask_text(str(value)) != str(value) or (is_secret_name(str(key)) and value):
            yield Problem(f"the label {key} holds a secret in clear text", f"{where}.labels", hint="remove it")
    for key, value in ((raw.get("logging") or {}).get("options") or {}).items():
        if value and is_secret_entry(str(key), str(value)):
            hint = "remove it; set the log driver in the daemon.json of the host, which is not shown"
            yield Problem(f"the log option {key} holds a secret in clear text", f"{where}.logging", hint=hint)
    test = [str(word) for word in (raw.get("healthcheck") or {}).get("test") or ()]
    if hide_secrets(test) != test:
        hint = "remove it: an experiment is ready when it answers /v1/models"
        yield Problem("the test holds a secret in clear text", f"{where}.healthcheck", hint=hint)


def list_left_out(name: str, raw: Mapping[str, Any]) -> list[str]:
    """Notes on the keys that have no meaning for an experiment."""
    found = []
    for key, why in LEFT_OUT.items():
        value = raw.get(key)
        if not why or value in (None, [], {}, "", "no", False) or (key == "networks" and set(value) == {"default"}):
            continue
        found.append(f"{name}: {key} is left out: {why}")
    limits = ((raw.get("deploy") or {}).get("resources") or {}).get("limits") or {}
    if limits.get("cpus"):
        found.append(f"{name}: deploy.resources.limits.cpus is left out: {LEFT_OUT['cpus']}")
    return found
