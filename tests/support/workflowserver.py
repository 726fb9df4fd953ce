"""A real server process of a workflow, and a model endpoint on loopback whose answers and faults a test chooses."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from conftest import REPO

PACKAGE = REPO / "roles" / "workflow" / "files"

# Three nodes, so that a kill can happen between them. Every prompt holds the topic.
THREE = """
schema_version: "1.0"
flow: {name: three, version: "1"}
state:
  fields:
    topic: {type: str, required: true, max_length: 100000}
    a: {type: str}
    b: {type: str}
    c: {type: str}
nodes:
  - {id: one, prompt: "one {topic}", outputs: [a], output_schema: {type: str}}
  - {id: two, prompt: "two {topic}", outputs: [b], output_schema: {type: str}}
  - {id: three, prompt: "three {topic}", outputs: [c], output_schema: {type: str}}
edges: [{from: START, to: one}, {from: one, to: two}, {from: two, to: three}, {from: three, to: END}]
outputs: [c]
config: {llm: {model: m}, execution: {timeout: 60, max_retries: 2}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(holds: Callable[[], Any], seconds: float = 20.0, every: float = 0.05) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(every)
    raise AssertionError(f"the condition did not hold within {seconds:g} s")


@dataclass
class Reply:
    """How the endpoint answers one call. cut: it closes the connection in the middle of the body."""

    text: str | None = None
    status: int = 200
    raw: bytes | None = None
    delay: float = 0.0
    cut: bool = False
    headers: dict[str, str] = field(default_factory=dict)


def fill(schema: dict[str, Any]) -> Any:
    """A value that is valid for one of our JSON Schemas."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("type") == "object":
        return {name: fill(inner) for name, inner in schema.get("properties", {}).items()}
    return {"string": "text", "integer": 1, "number": 1.5, "boolean": True, "array": []}.get(schema.get("type", ""))


class Endpoint:
    """Chat completions on loopback. behave: maps a prompt to a reply; None is a good answer. calls: the prompts."""

    def __init__(self) -> None:
        self.behave: Callable[[str], Reply | None] = lambda prompt: None
        self.calls: list[str] = []
        self.keys: set[str | None] = set()
        self.open = self.most_open = 0
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else each body waits 40 ms until the client acknowledges the headers

            def setup(self) -> None:
                super().setup()
                endpoint._connections.add(self.connection)

            def finish(self) -> None:
                endpoint._connections.discard(self.connection)
                super().finish()

            def log_message(self, *_words: Any) -> None:
                return

            def do_GET(self) -> None:
                self.write(200, b'{"data": []}')

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.answer(self, body)

            def write(self, status: int, body: bytes, cut: bool = False, **headers: str) -> None:
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if cut else body)
                if cut:
                    self.close_connection = True

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 1024

            def handle_error(self, *_words: Any) -> None:
                """Print nothing: these tests kill clients on purpose."""

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, handler: Any, body: dict[str, Any]) -> None:
        prompt = str(body["messages"][0]["content"])
        with self._lock:
            self.calls.append(prompt)
            self.keys.add(handler.headers.get("Authorization"))
            self.open += 1
            self.most_open = max(self.most_open, self.open)
        try:
            reply = self.behave(prompt) or Reply()
            time.sleep(reply.delay)
        finally:
            with self._lock:  # before the answer is sent: the client may send its next request at once
                self.open -= 1
        text = reply.text
        if text is None:
            form = body.get("response_format")
            text = json.dumps(fill(form["json_schema"]["schema"])) if form else f"said: {prompt[:40]}"
        good = {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 5}}  # fmt: skip
        raw = reply.raw if reply.raw is not None else json.dumps(good).encode()
        handler.write(reply.status, raw, reply.cut, **reply.headers)

    def count(self, start: str) -> int:
        return sum(prompt.startswith(start) for prompt in list(self.calls))

    def close(self) -> None:
        """Stop the server and close every open connection."""
        self.server.shutdown()
        self.server.server_close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Server:
    """``python -m anvil_workflow serve`` in a separate process."""

    def __init__(self, folder: Path, workflow: str, endpoint: str, **environment: str) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        file = folder / "workflow.yaml"
        file.write_text(workflow)
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(PACKAGE),
            "WORKFLOW_FILE": str(file),
            "PORT": str(self.port),
            "WORKFLOW_JOBS": f"sqlite:///{folder}/jobs.sqlite",
            "WORKFLOW_TIMEOUT": "20",
            "OPENAI_BASE_URL": endpoint,
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def start(self, wait: bool = True) -> Server:
        with (self.folder / f"log-{self.port}").open("ab") as stream:
            words = [sys.executable, "-m", "anvil_workflow", "serve"]
            self.process = subprocess.Popen(words, env=self.environment, stdout=stream, stderr=stream)
        if wait:
            wait_until(self.answers)
        return self

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        with contextlib.suppress(httpx.HTTPError):
            return self.client.get("/livez", timeout=1).status_code == 200
        return False

    def log(self) -> str:
        return (self.folder / f"log-{self.port}").read_text()

    def kill(self, sent: int = signal.SIGKILL) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(sent)
        self.process.wait(30)
        self.client.close()
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def run(self, topic: str = "tea", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post("/run", json={"topic": topic}, headers=named)

    def submit(self, topic: str = "tea", **headers: str) -> str:
        answer = self.run(topic, Prefer="respond-async", **headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])

    def status(self, job: str) -> dict[str, Any]:
        answer = self.client.get(f"/status/{job}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def wait_for(self, job: str, seconds: float = 30.0) -> dict[str, Any]:
        """Wait until the job has ended and return it."""
        ended = wait_until(lambda: (found := self.status(job))["status"] not in ("pending", "running") and found, seconds)
        return dict(ended)


@contextlib.contextmanager
def serving(folder: Path, endpoint: Endpoint, workflow: str = THREE, **environment: str) -> Iterator[Server]:
    server = Server(folder, workflow, endpoint.url, **environment).start()
    try:
        yield server
    finally:
        server.kill()
        server.client.close()
