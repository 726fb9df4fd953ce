# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dry boot: a throwaway container of the router's image and environment starts on the candidate, and is asked.

It mounts neither the config volume nor any other that the router may write to, publishes nothing, has no alias in the
networks, and ends when its operator does: its first process is ours, starts the router as its child, and watches its
own standard input. It is asked from inside, so that no address of it need be reachable from this host.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple
from urllib.parse import urlsplit

from ansible_collections.anvil.serving.plugins.module_utils.catalog.probes import Probe
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.http_request import Reply
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.side_containers import LABEL_OWNER, SideProcess, describe_owner
from ansible_collections.anvil.serving.plugins.module_utils.router.probe_runner import run_probes

LABEL_DRY_BOOT = "anvil.serving.dry-boot"

# First line in: the router's argv and port. Then one line of JSON per question, and one per answer.
PROGRAM = r"""
import http.client, json, os, queue, socket, subprocess, sys, threading
from concurrent.futures import ThreadPoolExecutor

lines = queue.Queue()


def listen():
    for line in sys.stdin.buffer:
        lines.put(line)
    os._exit(0)


threading.Thread(target=listen, daemon=True).start()
request = json.loads(lines.get())
try:
    child = subprocess.Popen(request["argv"], stdin=subprocess.DEVNULL, stdout=2, stderr=2)
except OSError as exc:
    print("%s: %s" % (type(exc).__name__, exc), file=sys.stderr, flush=True)
    os._exit(127)


def connects(address):
    try:
        socket.create_connection(tuple(address), 1.0).close()
        return None
    except OSError as exc:
        return "%s: %s" % (type(exc).__name__, exc)


def answer(asked):
    if "connect" in asked:
        with ThreadPoolExecutor(16) as pool:
            return {"connect": list(pool.map(connects, asked["connect"]))}
    connection = http.client.HTTPConnection("127.0.0.1", request["port"], timeout=asked["timeout"])
    body = None if asked["body"] is None else asked["body"].encode("utf-8")
    try:
        connection.request(asked["method"], asked["path"], body=body, headers=asked["headers"])
        reply = connection.getresponse()
        return {"status": reply.status, "body": reply.read(1048576).decode("utf-8", "replace")}
    except (OSError, http.client.HTTPException) as exc:
        return {"status": 0, "body": "%s: %s" % (type(exc).__name__, exc)}
    finally:
        connection.close()


while True:
    said = answer(json.loads(lines.get()))
    sys.stdout.write(json.dumps({**said, "exit": child.poll()}) + "\n")
    sys.stdout.flush()
"""


@dataclass(frozen=True)
class Stage:
    """What the throwaway is made of. port: where the router listens inside it. token: the router's own, for the probes."""

    image: str
    argv: Tuple[str, ...]
    mount: str
    port: int
    user: str = ""
    working_dir: str = ""
    environment: Tuple[str, ...] = field(default=(), repr=False)
    networks: Tuple[str, ...] = ()
    host_config: Mapping[str, Any] = field(default_factory=dict)
    token: str = field(default="", repr=False)


def _words(value: Any) -> List[str]:
    return [value] if isinstance(value, str) else [str(word) for word in value or ()]


def find_port(config: Mapping[str, Any]) -> int:
    """The first TCP port that a container or an image exposes; 8000, the router's own default, if none."""
    exposed = sorted(int(name.split("/")[0]) for name in config.get("ExposedPorts") or {} if name.endswith("/tcp"))
    return exposed[0] if exposed else 8000


def list_folders(found: Mapping[str, Any], mount: str) -> Tuple[Dict[str, Tuple[str, str]], List[str]]:
    """What a container mounts besides ``mount``: path -> (type, source) where it only reads, and the paths it may write to."""
    reads: Dict[str, Tuple[str, str]] = {}
    writes: List[str] = []
    for each in found.get("Mounts") or ():
        where, kind = str(each.get("Destination")), str(each.get("Type"))
        if where == mount or kind not in ("volume", "bind"):
            continue
        if each.get("RW"):
            writes.append(where)
        else:
            reads[where] = (kind, str(each.get("Name") if kind == "volume" else each.get("Source")))
    return reads, writes


def mount_reads(reads: Mapping[str, Tuple[str, str]]) -> List[Dict[str, Any]]:
    """The same folders for a side container. A folder of the host that is not there is an error of the engine."""
    return [{"Type": kind, "Source": source, "Target": path, "ReadOnly": True} for path, (kind, source) in sorted(reads.items())]


def plan_stage(
    image: Mapping[str, Any],
    found: Optional[Mapping[str, Any]],
    mount: str,
    environment: Mapping[str, str],
    secret: Tuple[str, str],
) -> Stage:
    """The throwaway's shape (pure).

    image: its inspect. found: the inspect of the container whose place it rehearses for, or None if there is none yet.
    environment: what that container will get on top, if the operator says so. secret: name and stand-in of the token
    variable, used where no value is known: a router that is not there yet has its own only later.
    """
    same_image = found is not None and found.get("Image") == image["Id"]
    config: Mapping[str, Any] = (found or {})["Config"] if same_image else image["Config"]
    variables = dict(line.partition("=")[::2] for line in (image["Config"].get("Env") or ()))
    if found is not None:
        variables.update(line.partition("=")[::2] for line in found["Config"].get("Env") or ())
    variables.update(environment)
    name, stand_in = secret
    if name and not variables.get(name) and not same_image:
        variables[name] = stand_in
    limits: Dict[str, Any] = {
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": 256,
        "tmpfs": {},
    }
    # Anonymous volumes, which go with the container: for the candidate, and for whatever the router may write to.
    own = [mount]
    shared: List[Dict[str, Any]] = []
    networks: Tuple[str, ...] = ()
    if found is not None:
        host = found.get("HostConfig") or {}
        limits["read_only"] = bool(host.get("ReadonlyRootfs"))
        for path, options in (host.get("Tmpfs") or {}).items():
            limits["tmpfs"].setdefault(path, options)
        reads, writes = list_folders(found, mount)
        own += writes
        shared = mount_reads(reads)
        for key, option in (("ExtraHosts", "extra_hosts"), ("Dns", "dns"), ("GroupAdd", "group_add")):
            if host.get(key):
                limits[option] = host[key]
        mode = str(host.get("NetworkMode") or "")
        if mode not in ("host", "none") and not mode.startswith("container:"):
            networks = tuple(sorted((found.get("NetworkSettings") or {}).get("Networks") or ()))
    limits["mounts"] = [*shared, *({"Type": "volume", "Target": path} for path in own)]
    limits["network_mode"] = networks[0] if networks else "none"
    return Stage(
        image=str(image["Id"]),
        argv=(*_words(config.get("Entrypoint")), *_words(config.get("Cmd"))),
        mount=mount,
        port=find_port(config),
        user=str(config.get("User") or ""),
        working_dir=str(config.get("WorkingDir") or "/"),
        environment=tuple("{0}={1}".format(key, value) for key, value in variables.items()),
        networks=networks,
        host_config=limits,
        token=variables.get(name, "") if name else "",
    )


class DryBoot:
    """A throwaway router that runs on the candidate until it is closed."""

    def __init__(self, engine: DockerEngine, stage: Stage, files: Mapping[str, bytes]) -> None:
        """files: path below the mount -> content."""
        self.stage = stage
        self.process: SideProcess = engine.open_process(
            stage.image,
            ["-c", PROGRAM],
            entrypoint=["python3"],
            user=stage.user,
            working_dir=stage.working_dir,
            environment=list(stage.environment),
            labels={LABEL_DRY_BOOT: "true", LABEL_OWNER: describe_owner()},
            healthcheck={"test": ["NONE"]},
            host_config=dict(stage.host_config),
            networks=stage.networks[1:],
            folder=stage.mount,
            files=files,
        )
        self._send({"argv": stage.argv, "port": stage.port})

    def close(self) -> None:
        self.process.release()

    def ask(self, probe: Probe) -> Reply:
        """One answer of the router; that it has ended is an ``AnvilError``."""
        said = self._exchange(
            {
                "method": probe.method,
                "path": probe.path,
                "body": probe.body,
                "headers": probe.request_headers(self.stage.token),
                "timeout": probe.timeout,
            },
            probe.timeout + 10.0,
        )
        return Reply(int(said["status"]), str(said["body"]))

    def find_unreachable(self, tiers: Sequence[Mapping[str, Any]]) -> List[str]:
        """A warning for each tier at whose address nothing listens, as seen from the router's networks."""
        addresses = []
        for tier in tiers:
            parts = urlsplit(str(tier["base_url"]))
            if parts.hostname:
                port = parts.port or (443 if parts.scheme == "https" else 80)
                addresses.append((str(tier["id"]), str(tier["base_url"]), [parts.hostname, port]))
        if not addresses or self.stage.host_config["network_mode"] == "none":
            return []
        said = self._exchange({"connect": [address for _id, _url, address in addresses]}, 30.0)
        return [
            "tier {0}: nothing answers at {1} from the router's network ({2})".format(name, url, why)
            for (name, url, _address), why in zip(addresses, said["connect"])
            if why is not None
        ]

    def wait_healthy(self, health: Probe, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            reply = self.ask(health)
            if reply.status == 200:
                return
            if time.monotonic() >= deadline:
                why = "{0} did not answer 200 within {1:g} s: {2}".format(health.path, seconds, reply.body[:200] or reply.status)
                raise self._sick(why)
            time.sleep(0.02)

    def check_alive(self, health: Probe) -> None:
        """That it still runs and answers: asked last, right before the switch."""
        reply = self.ask(health)
        if reply.status != 200:
            raise self._sick("{0} answered and then did not: {1}".format(health.path, reply.body[:200] or reply.status))

    def prove(self, probes: Sequence[Probe]) -> List[str]:
        """Ask every probe; an ``AnvilError`` tells all that are answered otherwise. Returns warnings."""
        problems, warnings = run_probes(probes, self.ask)
        if problems:
            raise AnvilError(*self._sick("it answers, but not as it must").problems, *problems)
        return warnings

    def _send(self, told: Mapping[str, Any]) -> None:
        self.process.send(json.dumps(told).encode("utf-8") + b"\n")

    def _exchange(self, told: Mapping[str, Any], timeout: float) -> Dict[str, Any]:
        try:
            self._send(told)
            said = dict(json.loads(self.process.read_line(timeout).decode("utf-8")))
        except AnvilError as exc:
            raise self._sick("the throwaway container was lost: " + exc.problems[0].why) from exc
        if said["exit"] is not None:
            # Its last words may still be on their way.
            self.process.drain()
            raise self._sick("the router ended with exit code {0}".format(said["exit"]))
        return said

    def _sick(self, why: str) -> AnvilError:
        said = self.process.errors.decode("utf-8", "replace").splitlines()[-15:]
        return fail(
            "the candidate does not come up in a throwaway router; nothing was touched",
            where="dry boot of image " + self.stage.image[7:19],
            why=why,
            hint="mend the candidate, or see what dry_boot: false would risk in docs/promotion.md",
            log=said,
        )
