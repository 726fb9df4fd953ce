"""The whole chain for workflow tests: two real llama-servers and the router, deployed by site.yml, and workflows on top."""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bed import Bed
from conftest import COLLECTIONS, REPO

EXAMPLES = REPO / "examples" / "workflows"
FILES = REPO / "roles" / "workflow" / "files"
WHEELS = REPO / ".cache" / "workflow-wheels"
# Router 0.13.2 drops response_format. The fast tier supports tools and is made to call one; the heavy tier does not, and its
# phrase is JSON.
PHRASES = {"heavy": '{"title": "the heavy tier answers"}', "fast": "the fast tier answers"}
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")


def changed(printed: str) -> int:
    (count,) = re.findall(r"changed=(\d+)", printed)
    return int(count)


@dataclass
class Chain:
    """One host (this bed) with its router, on which playbooks deploy workflows."""

    bed: Bed
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    inventory: Path = REPO / "inventory/local"

    def play(self, playbook: str, *words: str, variables: dict[str, Any] | None = None) -> tuple[int, str]:
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "HOME": str(self.folder),
            **self.environment,
        }
        extra = {"cache_dir": str(self.folder), "workflow_wheels": str(WHEELS), **(variables or {})}
        argv = [str(PLAYBOOK), str(REPO / "playbooks" / playbook), "-i", str(self.inventory), "-e", json.dumps(extra)]
        done = subprocess.run([*argv, *words], env=environment, capture_output=True, text=True, check=False, cwd=self.folder)
        return done.returncode, done.stdout + done.stderr

    def deploy(self, workflow: str | Path, *words: str, **variables: Any) -> str:
        """Deploy a workflow, assert that it succeeds, and return the output."""
        code, printed = self.try_deploy(workflow, *words, **variables)
        assert code == 0, printed[-6000:]
        return printed

    def try_deploy(self, workflow: str | Path, *words: str, **variables: Any) -> tuple[int, str]:
        path = workflow if isinstance(workflow, Path) else EXAMPLES / f"{workflow}.yaml"
        return self.play("workflow.yml", *words, variables={"workflow": str(path), **variables})


def make_chain(bed: Bed, folder: Path, variables: dict[str, Any]) -> Chain:
    """Start the router and two tiers; returns when they answer."""
    folder.chmod(0o755)
    (folder / "models").mkdir()
    for name, phrase in PHRASES.items():
        model = [str(folder / "models" / f"{name}.gguf"), "--phrase", phrase, "--name", name]
        tools = ["--tools"] if name == "fast" else []
        subprocess.run([sys.executable, str(REPO / "bootstrap" / "tinymodel.py"), *model, *tools], check=True)
    (folder / "router.token").write_text("a-token-of-the-tests")
    (folder / "router.token").chmod(0o600)
    made = Chain(bed, folder)
    code, printed = made.play("site.yml", variables=variables)
    assert code == 0, printed[-6000:]
    return made


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: Any


def ask(
    port: int,
    method: str,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
    timeout: float = 60,
    trust: ssl.SSLContext | None = None,
) -> Reply:
    """Send one request on loopback, with TLS where ``trust`` is given; raises OSError if nothing answers."""
    if trust is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    else:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout, context=trust)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json", **(headers or {})})
        reply = connection.getresponse()
        raw = reply.read().decode()
        found = {name.lower(): value for name, value in reply.getheaders()}
        return Reply(reply.status, found, json.loads(raw) if "json" in found.get("content-type", "") else raw)
    finally:
        connection.close()


def wait_for(what: str, condition: Any, seconds: float = 30.0, every: float = 0.05) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except (OSError, http.client.HTTPException):
            pass
        assert time.monotonic() < deadline, f"{what}: timed out after {seconds} s"
        time.sleep(every)


def wait_ended(port: int, location: str, seconds: float = 60.0, headers: dict[str, str] | None = None) -> Any:
    """Wait until the job at that location has ended and return it."""
    deadline = time.monotonic() + seconds
    body: Any = None
    while time.monotonic() < deadline:
        try:
            reply = ask(port, "GET", location, headers=headers)
            body = reply.body
            if reply.status == 200 and body["status"] in ("completed", "failed", "cancelled"):
                return body
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.1)
    raise AssertionError(f"{location} did not end within {seconds} s: {body}")


@dataclass
class Load:
    """Clients that run the workflow repeatedly with a pause; every second client opens a new connection per request. key: what
    they present from their next request on."""

    port: int
    clients: int = 6
    key: str = ""
    done: int = 0
    failures: list[str] = field(default_factory=list)
    locations: list[str] = field(default_factory=list)

    def start(self) -> Load:
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(number,), daemon=True) for number in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> Load:
        self._stopping.set()
        for thread in self._threads:
            thread.join(90)
        return self

    def _client(self, number: int) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stopping.is_set():
            connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            try:
                body = json.dumps({"topic": f"load {number}"})
                headers = {"Content-Type": "application/json", **({"Authorization": "Bearer " + self.key} if self.key else {})}
                connection.request("POST", "/run", body, headers)
                reply = connection.getresponse()
                answer = json.loads(reply.read())
                if reply.status in (200, 202):
                    self.done += 1
                    self.locations.append(f"/status/{answer['job_id']}")
                else:
                    self.failures.append(f"{reply.status}: {answer}"[:300])
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                connection.close()
                connection = None
            if number % 2 and connection is not None:
                connection.close()
                connection = None
            self._stopping.wait(0.05)
