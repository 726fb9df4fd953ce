"""Two serves with real llama-servers in the bed, for integration tests."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_file import parse_compose
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Mount
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan, ServePlan
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import render_serves
from bed import RTX_5090, RTX_PRO_6000, Bed
from conftest import COLLECTIONS
from harness import run_module

HEAVY_GPU, FAST_GPU = RTX_PRO_6000.uuid, RTX_5090.uuid
LLAMA = "anvil.local/llama-server:1"
BUDGETS = [
    {"alias": "big", "uuid": HEAVY_GPU, "vram_mib": 97887, "reserve_mib": 2048},
    {"alias": "small", "uuid": FAST_GPU, "vram_mib": 32607, "reserve_mib": 3072},
]
SECRET = "s3cret$value-that-must-not-leak"


@dataclass
class Field:
    """The two serves of a test, and methods that run the modules on them."""

    bed: Bed
    root: Path
    serves: dict[str, ServePlan]
    models: Path
    gpus: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    secrets: dict[str, str] = dataclasses.field(default_factory=lambda: {"key": SECRET})
    more: dict[str, Any] = dataclasses.field(default_factory=dict)
    gpu_driver: str = "nvidia"

    def edit(self, name: str, **fields: Any) -> None:
        self.serves[name] = replace(self.serves[name], **fields)

    def add(self, **keys: Any) -> None:
        """Set keys of heavy's service in the compose file that no inventory can set; None removes a key."""
        self.more.update(keys)

    def project(self) -> dict[str, Any]:
        plan = HostPlan("bed", str(self.root), "linux", "anvil", {}, tuple(self.serves.values()), gpu_driver=self.gpu_driver)
        rendered = render_serves(plan)
        if not self.more:
            return rendered.as_dict()
        document = yaml.safe_load(rendered.compose)
        heavy = document["services"]["heavy"]
        for key, value in self.more.items():
            heavy[key] = {**heavy[key], **value} if isinstance(value, dict) and isinstance(heavy.get(key), dict) else value
        document["services"]["heavy"] = {key: value for key, value in heavy.items() if value is not None}
        return replace(rendered, compose=yaml.safe_dump(document), services=parse_compose(document)).as_dict()

    def params(self, state: str = "up", **params: Any) -> dict[str, Any]:
        """The module's parameters. The settle time is short, because only the test itself changes the bed. A failed change
        stays, so that a test sees it: test_serve_revisions is about the default."""
        defaults = {"project": self.project(), "secrets": self.secrets, "gpus": self.gpus, "settle": 0.6, "on_failure": "keep"}
        return {key: value for key, value in {**defaults, "state": state, **params}.items() if value is not None}

    def run(self, state: str = "up", check: bool = False, **params: Any) -> dict[str, Any]:
        return run_module("anvil_serve", check=check, diff=True, **self.params(state, **params))

    def foresee(self, state: str = "up", **params: Any) -> dict[str, Any]:
        """Run in check mode, then for real. Assert that check mode touches nothing and that both results are equal, except for
        the values that only a real run can know. Return the result of the real run."""
        before, files = self.bed.started(), self.files()
        predicted = self.run(state, check=True, **params)
        assert (self.bed.started(), self.files()) == (before, files)
        done = self.run(state, **params)
        assert foreseeable(predicted) == foreseeable(done)
        return done

    def files(self) -> dict[str, tuple[int, int]]:
        """Every file below the root except the lock, with its modification time and size."""
        there = [path for path in self.root.rglob("*") if path.is_file() and path.name != ".lock"]
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in there}

    def info(self) -> dict[str, Any]:
        return run_module("anvil_serve_info", project=self.project(), secrets={"key": SECRET})


def make_field(bed: Bed, models: Path, root: Path) -> Field:
    """Make two serves, heavy and fast, each with a card of its own and a real llama-server."""

    def serve(name: str, port: int, gpu: str) -> ServePlan:
        return ServePlan(
            name=name,
            container=f"bed-{name}",
            engine="llama_cpp",
            image="anvil.local/llama-server:1",
            model=f"/models/{name}.gguf",
            served_name=name,
            port=port,
            gpu_uuids=(gpu,),
            args=("-c", "1024", "-np", "1", "-t", "1"),
            environment={"PLAIN": "1"},
            secrets={"HIDDEN": "key"},
            mounts=(Mount("bind", str(models), "/models", True),),
            read_only=True,
            tmpfs=("/tmp",),
            cap_drop=("ALL",),
            security_opt=("no-new-privileges:true",),
            ready_timeout=30,
        )

    serves = {"heavy": serve("heavy", 30002, HEAVY_GPU), "fast": serve("fast", 30003, FAST_GPU)}
    return Field(bed, root, serves, models)


# Values of each serve that only a real run knows.
COMES = ("state", "health", "ready", "container_id", "image_id", "seconds")


def foreseeable(answer: dict[str, Any]) -> dict[str, Any]:
    """A result without the values that only a real run knows."""
    kept = {key: value for key, value in answer.items() if key not in ("commands", "invocation")}
    for group in ("serves", "containers"):
        if group in kept:
            rows = kept[group].items()
            kept[group] = {name: {key: value for key, value in row.items() if key not in COMES} for name, row in rows}
    return kept


def actions(answer: dict[str, Any]) -> dict[str, tuple[str, list[str]]]:
    assert not answer["failed"], answer["msg"]
    return {name: (serve["action"], serve["reasons"]) for name, serve in answer["serves"].items()}


UNCHANGED = ("none", [])


def void(_value: object) -> None:
    """Ignore what a command printed."""


# A server that its environment controls. SERVES: name of its model. LEN: its max_model_len. STATUS: status of its answers, or
# "mute". LIVES: seconds until it exits. EATS: MiB of memory. STREAMS: seconds of a completion. SLOTS: it reports its slots.
SERVER = """
import http.server, json, os, sys, threading, time
words = dict(zip(sys.argv, sys.argv[1:]))
name = os.environ.get("SERVES") or words.get("--alias") or words.get("--served-model-name")
eaten = bytearray(os.urandom(1)) * (int(os.environ.get("EATS", 0)) << 20)
if "LIVES" in os.environ:
    threading.Timer(float(os.environ["LIVES"]), lambda: (print("that was my life", flush=True), os._exit(7))).start()
if os.environ.get("STATUS") == "mute":
    time.sleep(3600)
busy = []
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        busy.append(self)
        self.send_response(200)
        self.end_headers()
        for _tenth in range(int(float(os.environ["STREAMS"]) * 10)):
            self.wfile.write(b"data: {}\\n")
            time.sleep(0.1)
        self.wfile.write(b'data: {"stop":true}\\n')
        busy.remove(self)
    def do_GET(self):
        self.send_response(int(os.environ.get("STATUS", 200)))
        self.end_headers()
        if self.path == "/slots" and "SLOTS" in os.environ:
            self.wfile.write(json.dumps([{"is_processing": bool(busy)}]).encode())
            return
        row = {"id": name, "max_model_len": int(os.environ.get("LEN", 0)) or None}
        self.wfile.write(json.dumps({"data": [row]}).encode())
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(words["--port"])), Handler).serve_forever()
"""
PYTHON_IMAGE = "anvil.local/router:0.13.2"


def scripted(**environment: str) -> dict[str, Any]:
    """Fields of a serve that runs ``SERVER`` instead of a model server."""
    return {"image": PYTHON_IMAGE, "entrypoint": ("python3", "-c", SERVER), "environment": environment, "cap_drop": ()}


MODULE = """
import json, sys
sys.path[:0] = {paths!r}
from harness import run_module
{first}
print(json.dumps(run_module("anvil_serve", **json.load(sys.stdin))))
"""


def start_module(field: Field, first: str = "", start_new_session: bool = False, **params: Any) -> subprocess.Popen[bytes]:
    """Start the module in a separate process, so that a test can interfere while it runs. first: code that runs before it."""
    code = MODULE.format(paths=[str(COLLECTIONS), str(Path(__file__).parent)], first=first)
    argv, pipe = [sys.executable, "-c", code], subprocess.PIPE
    process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, start_new_session=start_new_session)
    assert process.stdin is not None
    process.stdin.write(json.dumps(field.params(**params)).encode())
    process.stdin.close()
    return process


def wait_for(seen: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until the condition holds or the module has ended."""
    deadline = time.monotonic() + 20
    while not seen() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def answer_of(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    answer: dict[str, Any] = json.loads(process.stdout.read())
    process.wait()
    return answer
