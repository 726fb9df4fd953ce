"""Serves for integration tests: two real llama-servers in the bed, and the ways to act on them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.spec import HostPlan, Mount, ServePlan
from ansible_collections.anvil.serving.plugins.plugin_utils.render import render_serves
from bed import FAKOLI_DARK, Bed
from harness import run_module

HEAVY_GPU, FAST_GPU = (gpu.uuid for gpu in FAKOLI_DARK)
SECRET = "s3cret$value-that-must-not-leak"


@dataclass
class Field:
    """Two serves of a test, and the ways to act on them."""

    bed: Bed
    root: Path
    serves: dict[str, ServePlan]
    gpus: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def edit(self, name: str, **fields: Any) -> None:
        self.serves[name] = replace(self.serves[name], **fields)

    def project(self) -> dict[str, Any]:
        plan = HostPlan("bed", str(self.root), "linux", "anvil", {}, tuple(self.serves.values()))
        return render_serves(plan).as_dict()

    def params(self, state: str = "up", **params: Any) -> dict[str, Any]:
        """The module's parameters; the settle time is short, because nothing but a test's own doing disturbs the bed."""
        defaults = {"project": self.project(), "secrets": {"key": SECRET}, "gpus": self.gpus, "settle": 0.6}
        return {**defaults, "state": state, **params}

    def run(self, state: str = "up", check: bool = False, **params: Any) -> dict[str, Any]:
        return run_module("anvil_serve", check=check, diff=True, **self.params(state, **params))

    def foresee(self, state: str = "up", **params: Any) -> dict[str, Any]:
        """Run in check mode and for real; both must say the same of every serve, and check mode must touch nothing."""
        before = self.ids()
        predicted = self.run(state, check=True, **params)
        assert self.ids() == before
        done = self.run(state, **params)
        for key in ("failed", "changed", "files", "created", "evictions"):
            assert predicted.get(key) == done.get(key), (key, predicted.get(key), done.get(key))
        kept = ("action", "reasons", "changes")
        for group in ("serves", "containers"):
            foreseen, came = ({n: [s[k] for k in kept if k in s] for n, s in a.get(group, {}).items()} for a in (predicted, done))
            assert foreseen == came
        return done

    def info(self) -> dict[str, Any]:
        return run_module("anvil_serve_info", project=self.project(), secrets={"key": SECRET})

    def ids(self) -> dict[str, str]:
        """Container name -> id and start time: both stay the same where nothing was touched."""
        names = self.bed.docker("ps", "--all", "--format", "{{.Names}}").split()
        return {n: self.bed.docker("inspect", "--format", "{{.Id}} {{.State.StartedAt}}", n) for n in names}


def make_field(bed: Bed, models: Path, root: Path) -> Field:
    """Two serves, heavy and fast, each with a card of its own and a real llama-server."""

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
            cap_drop=("ALL",),
            ready_timeout=30,
        )

    serves = {"heavy": serve("heavy", 30002, HEAVY_GPU), "fast": serve("fast", 30003, FAST_GPU)}
    return Field(bed, root, serves)


def actions(answer: dict[str, Any]) -> dict[str, tuple[str, list[str]]]:
    assert not answer["failed"], answer["msg"]
    return {name: (serve["action"], serve["reasons"]) for name, serve in answer["serves"].items()}


UNCHANGED = ("none", [])


def void(_value: object) -> None:
    """Ignore what a command printed."""


# A server that does as its environment says: SERVES its model's name, LEN its max_model_len, STATUS its answer, LIVES for so
# many seconds, EATS so many MiB.
SERVER = """
import http.server, json, os, sys, threading, time
words = dict(zip(sys.argv, sys.argv[1:]))
name = os.environ.get("SERVES") or words.get("--alias") or words.get("--served-model-name")
eaten = bytearray(os.urandom(1)) * (int(os.environ.get("EATS", 0)) << 20)
if "LIVES" in os.environ:
    threading.Timer(float(os.environ["LIVES"]), lambda: (print("that was my life", flush=True), os._exit(7))).start()
if os.environ.get("STATUS") == "mute":
    time.sleep(3600)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(os.environ.get("STATUS", 200)))
        self.end_headers()
        row = {"id": name, "max_model_len": int(os.environ.get("LEN", 0)) or None}
        self.wfile.write(json.dumps({"data": [row]}).encode())
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(words["--port"])), Handler).serve_forever()
"""
PYTHON_IMAGE = "anvil.local/router:0.13.2"


def scripted(**environment: str) -> dict[str, Any]:
    """Fields of a serve that runs ``SERVER`` in place of a model server."""
    return {"image": PYTHON_IMAGE, "entrypoint": ("python3", "-c", SERVER), "environment": environment, "cap_drop": ()}
