# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers through the Docker Engine API: list, inspect, create, start, stop, restart, remove, run commands, copy files."""

from __future__ import annotations

import base64
import http.client
import io
import json
import re
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union
from urllib.parse import quote

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import collect_values, mask_text
from ansible_collections.anvil.serving.plugins.module_utils.docker import documents
from ansible_collections.anvil.serving.plugins.module_utils.docker.connection import (
    REFERENCE,
    Connection,
    is_local,
    read_message,
)

# A name of this form could be the beginning of an id: where no container has the name, the Docker Engine acts on the container
# whose id begins so.
ID_PREFIX = re.compile(r"[0-9a-f]{1,63}")
WHOLE_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class CommandResult:
    """How a command in a container ended. ``output`` holds both streams, as text."""

    exit_code: int
    output: str


class Containers(Connection):
    """The containers of one Docker Engine. An id is a whole id, never the beginning of one."""

    def _find_id(self, name_or_id: str) -> Optional[str]:
        """A name or id that matches this container and no other; None if no container has this name.

        Every call about a container uses it. It costs a request only for a name that could be the beginning of an id.
        """
        if not ID_PREFIX.fullmatch(name_or_id):
            return name_or_id
        filters = json.dumps({"name": ["^/?{0}$".format(name_or_id)]})
        listed = self._list("find container " + name_or_id, filters)
        return next((row["Id"] for row in listed if "/" + name_or_id in row["Names"]), None)

    def _require_id(self, action: str, name_or_id: str) -> str:
        """As ``_find_id``; an absent container is an AnvilError."""
        found = self._find_id(name_or_id)
        if found is None:
            raise self._refusal(action, "No such container: " + name_or_id)
        return found

    def list_containers(self, labels: Sequence[str] = ()) -> List[Dict[str, Any]]:
        """All containers, running or not, in the form of ``documents.read_listed_container`` (2 ms for dozens)."""
        filters = json.dumps({"label": list(labels)} if labels else {})
        return self._list("list containers", filters)

    def _list(self, action: str, filters: str) -> List[Dict[str, Any]]:
        listed = self._get_json(action, "/containers/json", all="1", filters=filters)
        if not isinstance(listed, list):
            raise self._refusal(action, "its answer is not a list")
        return [documents.read_listed_container(row) for row in listed if isinstance(row, dict) and row.get("Id")]

    def inspect_container(self, name_or_id: str) -> Optional[Dict[str, Any]]:
        """The container with exactly this name or whole id, in the form of ``documents.read_container``."""
        found = self._find_id(name_or_id)
        raw = None if found is None else self._inspect("container", "/containers/{0}/json", found)
        if found is None or raw is None:
            return None
        document = documents.read_container(raw)
        if not REFERENCE.fullmatch(document["Id"]):
            document["Id"] = found
        return document

    def announce_inspect(self, container_id: str) -> None:
        """Let the Docker Engine prepare the answer to an ``inspect_container`` of this whole id, which follows."""
        if WHOLE_ID.fullmatch(container_id):
            self.announce("/containers/{0}/json".format(container_id))

    def list_processes(self, container_id: str, columns: Sequence[str]) -> List[List[str]]:
        """The processes of a running container in these columns of ``ps``, one row each; empty where they cannot be listed."""
        path = "/containers/{0}/top".format(quote(container_id, safe=""))
        answer = self._get("list the processes of a container", path, {"ps_args": "-o " + ",".join(columns)})
        if answer.status != 200:
            return []  # no ps on the host, or the container has ended
        try:
            rows = json.loads(answer.body).get("Processes") or []
        except (ValueError, AttributeError):
            return []
        return [[str(cell) for cell in row] for row in rows if isinstance(row, list) and len(row) == len(columns)]

    def read_log(self, name_or_id: str, lines: int = 20, since: Optional[int] = None) -> List[str]:
        """The last lines of a container's log, as ``read_raw_log``, without the secrets in its environment and command line."""
        log = self.read_raw_log(name_or_id, lines, since)
        found = self.inspect_container(name_or_id) if log else None
        if found is None:
            return log
        environment = dict(line.partition("=")[::2] for line in found["Config"].get("Env") or ())
        known = collect_values(environment)
        return [mask_text(line, known) for line in log]

    def read_raw_log(self, name_or_id: str, lines: int = 20, since: Optional[int] = None) -> List[str]:
        """The last lines of a container's log, both streams, oldest first; empty if there is no such container."""
        options: Dict[str, Any] = {"stdout": True, "stderr": True, "tail": lines}
        if since is not None:
            options["since"] = since
        found = self._find_id(name_or_id)
        raw = None if found is None else self._call_sdk_or_none("read the log of " + name_or_id, "logs", found, **options)
        return [] if raw is None else raw.decode("utf-8", "replace").splitlines()

    def read_log_frames(self, name_or_id: str, lines: int, since: Union[int, str], stamped: bool = False) -> bytes:
        """A container's log in the frames of the API, which tell both streams apart; empty if there is no such container.

        lines: the last ones; negative: all. since: seconds since 1970, also as text with nine decimals. stamped: each frame
        begins with its time and a space.
        """
        tail = str(lines) if lines >= 0 else "all"
        query = {"stdout": "1", "stderr": "1", "tail": tail, "since": str(since), "timestamps": "1" if stamped else "0"}
        found = self._find_id(name_or_id)
        if found is None:
            return b""
        response = self._get("read the log of " + name_or_id, "/containers/{0}/logs".format(quote(found, safe="")), query)
        if response.status == 404:
            return b""
        if response.status >= 400:
            raise fail("the Docker Engine refused to read the log", where=name_or_id, why=read_message(response.body))
        return response.body

    def create_container(self, image: str, command: Sequence[str], **options: Any) -> str:
        """Create a container without pulling its image, and return its id.

        options are those of the SDK's low-level ``create_container``; ``host_config`` is a mapping for
        ``create_host_config``. A name that is taken is an ``AnvilError`` whose text holds the word "Conflict".
        """
        host = self.api.create_host_config(**options.pop("host_config", {}))
        created = self._call_sdk(
            "create a container of image " + image,
            "create_container",
            image,
            command=list(command),
            host_config=host,
            **options,
        )
        return str(created["Id"])

    def start_container(self, name_or_id: str) -> None:
        action = "start container " + name_or_id
        self._call_sdk(action, "start", self._require_id(action, name_or_id))

    def wait_container(self, name_or_id: str, timeout: int) -> int:
        """Wait until it ends and return its exit code; ``timeout`` in seconds."""
        action = "wait for container " + name_or_id
        ended = self._call_sdk(action, "wait", self._require_id(action, name_or_id), timeout=timeout)
        return int(ended["StatusCode"])

    def restart_container(self, name_or_id: str, grace: int = 10, signal: str = "") -> None:
        """Restart, giving the process ``grace`` seconds to end after ``signal`` (its own stop signal if empty).

        An absent container is an ``AnvilError`` too.
        """
        action = "restart container " + name_or_id
        query: Dict[str, Any] = {"t": grace}
        if signal:
            query["signal"] = signal  # API 1.42 and newer; the SDK's restart() cannot pass it
        found = self._require_id(action, name_or_id)
        url = "{0}/v{1}/containers/{2}/restart".format(self.api.base_url, self.api_version, found)
        answer = self._call_sdk(action, "post", url, params=query, timeout=grace + 60)
        if answer.status_code >= 400:
            raise self._refusal(action, read_message(answer.content))

    def stop_container(self, name_or_id: str, grace: int = 30) -> None:
        """Stop, giving the process ``grace`` seconds to end by itself; absence is success."""
        found = self._find_id(name_or_id)
        if found is not None:
            self._call_sdk_or_none("stop container " + name_or_id, "stop", found, timeout=grace)

    def signal_container(self, name_or_id: str, signal: str) -> None:
        """Send a signal to the container's first process, from inside the container.

        The Docker Engine treats its own kill as a manual stop, for every signal: ``unless-stopped`` does not restart a
        container that ends after one (Docker Engine 26.1). It is used only for an image without a shell.
        """
        action = "send {0} to container {1}".format(signal, name_or_id)
        found = self._require_id(action, name_or_id)
        try:
            if self.exec_in(found, ["sh", "-c", "kill -" + signal.replace("SIG", "", 1) + " 1"]).exit_code == 0:
                return
        except AnvilError:  # not running, or no shell: the kill below reports which
            pass
        self._call_sdk(action, "kill", found, signal=signal)

    def rename_container(self, name_or_id: str, name: str) -> None:
        action = "rename container {0} to {1}".format(name_or_id, name)
        self._call_sdk(action, "rename", self._require_id(action, name_or_id), name)

    def set_restart_policy(self, name_or_id: str, policy: str, retries: int = 0) -> None:
        """Change the restart policy (``no``, ``always``, ``unless-stopped``, ``on-failure``) of a container, running or not."""
        action = "set the restart policy of container {0} to {1}".format(name_or_id, policy)
        found = self._require_id(action, name_or_id)
        self._call_sdk(action, "update_container", found, restart_policy={"Name": policy, "MaximumRetryCount": retries})

    def pause_container(self, name_or_id: str) -> None:
        action = "pause container " + name_or_id
        self._call_sdk(action, "pause", self._require_id(action, name_or_id))

    def remove_container(self, name_or_id: str, volumes: bool = True) -> None:
        """Remove by force, with its anonymous volumes where ``volumes``; absence is success."""
        found = self._find_id(name_or_id)
        if found is None:
            return
        try:
            self._call_sdk_or_none("remove container " + name_or_id, "remove_container", found, force=True, v=volumes)
        except AnvilError as exc:
            if "already in progress" not in exc.as_text():
                raise
            # The Docker Engine is removing it by itself (auto_remove): wait for that.
            self._call_sdk_or_none("wait for container " + name_or_id, "wait", found, condition="removed", timeout=60)

    def exec_in(self, name_or_id: str, command: Sequence[str], **options: Any) -> CommandResult:
        """Run a command in a running container and wait for it."""
        action = "exec in container " + name_or_id
        created = self._call_sdk(action, "exec_create", self._require_id(action, name_or_id), list(command), **options)
        raw = self._call_sdk(action, "exec_start", created["Id"])
        deadline = time.monotonic() + 10
        while True:  # the output can end a moment before the Docker Engine reports the exit code
            state = self._call_sdk(action, "exec_inspect", created["Id"])
            if not state["Running"] and state["ExitCode"] is not None:
                return CommandResult(int(state["ExitCode"]), raw.decode("utf-8", "replace"))
            if time.monotonic() > deadline:
                why = "its output ended more than 10 s ago"
                raise fail("the Docker Engine reports no exit code of: " + action, where=self.docker_host, why=why)
            time.sleep(0.02)

    def ask_inside(self, container_id: str, command: Sequence[str], seconds: float) -> Optional[CommandResult]:
        """Run a short command in a running container; None where it cannot be run or does not end within ``seconds``.

        It uses a connection of its own and not the SDK, so that threads may ask several containers at once.
        """
        if not is_local(self.docker_host):
            try:
                return self.exec_in(container_id, command)
            except AnvilError:
                return None
        options = {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True, "Tty": True}
        try:
            base, deadline = "/v" + self.api_version, time.monotonic() + seconds
            created = self._post_alone("{0}/containers/{1}/exec".format(base, quote(container_id, safe="")), options, seconds)
            place = "{0}/exec/{1}/".format(base, quote(str(json.loads(created)["Id"]), safe=""))
            output = self._post_alone(place + "start", {"Detach": False, "Tty": True}, seconds)
            while time.monotonic() < deadline:
                state = json.loads(self._post_alone(place + "json", None, seconds))
                if not state["Running"] and state["ExitCode"] is not None:
                    return CommandResult(int(state["ExitCode"]), output.decode("utf-8", "replace"))
                time.sleep(0.02)
        except (AnvilError, OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            pass
        return None

    def put_files(self, name_or_id: str, folder: str, files: Mapping[str, bytes], mode: int = 0o644) -> None:
        """Put files (path below ``folder`` -> content) into a container, running or not."""
        import tarfile

        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), mode
                tar.addfile(member, io.BytesIO(content))
        action = "write {0} into container {1}".format(", ".join(files), name_or_id)
        self._call_sdk(action, "put_archive", self._require_id(action, name_or_id), folder, archive.getvalue())

    def put_file(self, name_or_id: str, folder: str, name: str, content: bytes, mode: int = 0o600) -> None:
        """Put one file into a folder of a container, running or not."""
        self.put_files(name_or_id, folder, {name: content}, mode)

    def read_archive(self, name_or_id: str, path: str, limit: int = 64 * 1024 * 1024) -> Optional[Tuple[Dict[str, Any], bytes]]:
        """The stat of ``path`` in a container, running or not, and a tar of it; ``None`` if there is no such path.

        Volumes are followed as the container's processes see them. A symlink comes back as a symlink; ``linkTarget`` in the
        stat is its target. More than ``limit`` bytes, or no such container, is an ``AnvilError``.
        """
        action = "read {0} in container {1}".format(path, name_or_id)
        found = self._require_id(action, name_or_id)
        response = self._get(action, "/containers/{0}/archive".format(quote(found)), {"path": path})
        if response.status == 404 and "no such container" not in read_message(response.body).lower():
            return None
        if response.status >= 400:
            raise self._refusal(action, read_message(response.body))
        if len(response.body) > limit:
            where = "{0}:{1}".format(name_or_id, path)
            raise fail("too much to read", where=where, why="more than {0} bytes".format(limit))
        return dict(json.loads(base64.b64decode(response.headers["X-Docker-Container-Path-Stat"]))), response.body
