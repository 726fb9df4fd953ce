"""Two real routers behind the real edge. The backend's streams last as long as the request says."""

from __future__ import annotations

import contextlib
import json
import subprocess
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
from ansible_collections.anvil.serving.plugins.module_utils.catalog.public_routes import list_router_routes
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.plan.edge_plan import EdgePlan, FrontPlan, ReplicaPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import Place, hash_revision
from ansible_collections.anvil.serving.plugins.module_utils.promotion.volume_lock import lock_name
from ansible_collections.anvil.serving.plugins.module_utils.promotion.volume_reader import read_unmounted_snapshot
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import Edge
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render_edge import render_edge_config
from harness import run_module
from load import Load
from routersite import NAMES, spawn_promotion, wait_until

ROUTER_IMAGE, EDGE_IMAGE = "anvil.local/router:0.13.2", "anvil.local/edge:1"
TOKEN = "t0ken"

# An OpenAI server. It answers at once, or with a stream of ten pieces over as many seconds as the last message says.
BACKEND = r"""
import json, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def log_message(self, *_): pass
    def reply(self, document):
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.reply({"object": "list", "data": [{"id": "fake", "object": "model"}]})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        head = {"id": "x", "model": "fake", "created": 1}
        if not asked.get("stream"):
            message = {"role": "assistant", "content": "hello"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self.reply({**head, "object": "chat.completion", "choices": [choice],
                        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}})
            return
        try:
            seconds = float(asked["messages"][-1]["content"])
        except ValueError:
            seconds = 2.0
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for number in range(10):
            delta = {"delta": {"content": "word "}, "index": 0, "finish_reason": None if number < 9 else "stop"}
            piece = {**head, "object": "chat.completion.chunk", "choices": [delta]}
            self.wfile.write(b"data: " + json.dumps(piece).encode() + b"\n\n")
            self.wfile.flush()
            time.sleep(seconds / 10)
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

ThreadingHTTPServer.request_queue_size = 256  # the default of 5 is too small for 32 clients at once
ThreadingHTTPServer(("0.0.0.0", 9000), Handler).serve_forever()
"""

ROUTER_CONFIG = """
[server]
auth_env = "ANVIL_ROUTER_TOKEN"
[router]
mapping_version = "1"
verify_local_min = false
[[router.tiers]]
id = "heavy"
base_url = "http://backend:9000/v1"
model = "fake"
dialect = "openai"
context_limit = 8192
privacy = "local"
tool_support = true
auth_env = "ANVIL_HEAVY_KEY"
[router.presets]
heavy = ["heavy"]
chat = ["heavy"]
"""


def plain_edge_config(routers: dict[str, str], more: Iterable[tuple[str, str]] = ()) -> str:
    """The configuration of an edge without TLS that asks its clients for no key. routers: container -> address. more: routes."""
    front = FrontPlan("router", "routers", "127.0.0.1", 8000, 8000, False, False, (*list_router_routes("profile"), *more))
    edge = EdgePlan("", "edge", "cfg", "net", "", "", False, "", fronts=(front,),
                    replicas=tuple(ReplicaPlan(name, name, address) for name, address in routers.items()))  # fmt: skip
    return render_edge_config(HostPlan("test", "/", "linux", "net", {}, ()), edge)


def make_load(url: str, clients: int, **options: Any) -> Load:
    """Clients with pauses, which leave processor time for the tested programs."""
    return Load(url, clients, token=TOKEN, pause=0.05, **options)


@dataclass
class Replicas:
    """The backend, two routers and the edge on a network of their own with a fixed subnet."""

    api: docker.APIClient
    engine: DockerEngine
    name: str = field(default_factory=lambda: "edge-" + uuid.uuid4().hex[:8])
    subnet: str = "10.213.77"
    made: list[str] = field(default_factory=list)

    @property
    def edge(self) -> Edge:
        return Edge(self.engine, self.name + "-edge")

    @property
    def routers(self) -> list[str]:
        return [f"{self.name}-1", f"{self.name}-2"]

    def url(self, container: str = "") -> str:
        """The URL of a container; without a name, that of the edge."""
        found = self.api.inspect_container(container or self.name + "-edge")
        bound = found["NetworkSettings"]["Ports"]["8000/tcp"][0]["HostPort"]
        return f"http://127.0.0.1:{bound}"

    def run(
        self, name: str, image: str, address: str, files: dict[str, bytes], aliases: tuple[str, ...] = (), **options: Any
    ) -> None:
        host = self.api.create_host_config(**options.pop("host", {}))
        endpoint = self.api.create_endpoint_config(ipv4_address=address, aliases=list(aliases))
        networking = self.api.create_networking_config({self.name: endpoint})
        self.api.create_container(image, name=name, host_config=host, networking_config=networking, **options)
        self.made.append(name)
        for path, content in files.items():
            folder, _slash, file = path.rpartition("/")
            self.engine.put_file(name, folder, file, content, 0o644)
        self.api.start(name)

    def start_backend(self) -> None:
        pool = docker.types.IPAMPool(subnet=self.subnet + ".0/24")
        self.api.create_network(self.name, ipam=docker.types.IPAMConfig(pool_configs=[pool]))
        start = {"entrypoint": ["python3", "-c", BACKEND]}
        self.run(self.name + "-backend", ROUTER_IMAGE, self.subnet + ".5", {}, ("backend",), **start)

    def start(self) -> None:
        self.start_backend()
        for number, router in enumerate(self.routers):
            self.run(
                router,
                ROUTER_IMAGE,
                f"{self.subnet}.{10 + number}",
                {"/etc/anvil/config.toml": ROUTER_CONFIG.encode()},
                environment={"ANVIL_ROUTER_TOKEN": TOKEN, "ANVIL_HEAVY_KEY": "x"},
                stop_signal="SIGINT",
                host={"restart_policy": {"Name": "unless-stopped"}},
            )
        self.start_edge(self.edge_config())

    def edge_config(self) -> str:
        return plain_edge_config({router: f"{self.subnet}.{10 + number}" for number, router in enumerate(self.routers)})

    def start_edge(self, text: str) -> None:
        self.run(
            self.name + "-edge",
            EDGE_IMAGE,
            self.subnet + ".2",
            {"/tmp/haproxy.cfg": text.encode()},
            command=["-W", "-db", "-f", "/tmp/haproxy.cfg"],
            ports=[8000],
            host={"port_bindings": {8000: ("127.0.0.1",)}},
        )

    def clean(self) -> None:
        for name in self.made:
            self.engine.remove_container(name)
        self.api.remove_network(self.name)


def config(version: str, profile_path: str = "") -> str:
    line = f'profile_path = "{profile_path}"\n' if profile_path else ""
    return ROUTER_CONFIG.replace('mapping_version = "1"\n', f'mapping_version = "{version}"\n{line}')


def profile(score: float = 0.9) -> str:
    entry = {"tier_id": "heavy", "work_class": "chat", "decision": "allow", "quality_score": score,
             "sample_n": 4, "last_measured": "2026-07-04T00:00:00Z", "fingerprint": None}  # fmt: skip
    return json.dumps({"schema": "anvil-serving.router.profile_bootstrap/v2", "mode": "live", "entries": [entry]})


# The loader accepts this config; a router that starts with it exits.
CRASHING_PAIR = config("2", "/nowhere/profile.json")
STOCK = "/etc/anvil/profile.json"


@dataclass
class Rolled(Replicas):
    """The replicas on one config volume, each with a live pointer of its own. bare: without a profile."""

    bare: bool = False

    @property
    def volume(self) -> str:
        return self.name + "-cfg"

    @property
    def parameters(self) -> dict[str, Any]:
        return {"replicas": self.routers, "edge": self.name + "-edge", "volume": self.volume, "image": ROUTER_IMAGE,
                "settle": 0.1, "grace": 5, "drain_timeout": 20}  # fmt: skip

    def promote(self, **given: Any) -> dict[str, Any]:
        return run_module("anvil_router_promote", **{**self.parameters, **given})

    def spawn(self, before: str, **given: Any) -> subprocess.Popen[str]:
        return spawn_promotion(before, {**self.parameters, **given})

    def start(self) -> None:
        self.start_backend()
        first = self.promote(config=config("1")) if self.bare else self.promote(config=config("1", STOCK), profile=profile())
        assert first["changed"], first
        command = ["router", "run", "--host", "0.0.0.0", "--port", "8000", "--config"]
        for number, router in enumerate(self.routers):
            folder = f"/etc/anvil/.anvil/live/{router}"
            self.run(
                router,
                ROUTER_IMAGE,
                f"{self.subnet}.{10 + number}",
                {},
                command=[*command, folder + "/config.toml"],
                working_dir=folder,
                environment={"ANVIL_ROUTER_TOKEN": TOKEN, "ANVIL_HEAVY_KEY": "x"},
                stop_signal="SIGINT",
                ports=[8000],
                host={
                    "restart_policy": {"Name": "unless-stopped"},
                    "binds": [f"{self.volume}:/etc/anvil:ro"],
                    "port_bindings": {8000: ("127.0.0.1",)},  # to compare requests with and without the edge
                },
            )
        self.start_edge(self.edge_config())
        wait_until(self.is_up)

    def is_up(self) -> bool:
        try:
            return [server.status for server in self.edge.read_servers()] == ["UP", "UP"]
        except Exception:
            return False

    def started(self) -> list[str]:
        return [str(self.api.inspect_container(router)["State"]["StartedAt"]) for router in self.routers]

    def live(self) -> list[dict[str, str]]:
        """The files that each replica sees."""
        return [self.live_of(router) for router in self.routers]

    def live_of(self, router: str) -> dict[str, str]:
        """The files that a replica sees; asserts that the hash of the live revision is its name."""
        snapshot = read_unmounted_snapshot(self.engine, ROUTER_IMAGE, Place(self.volume, "/etc/anvil", router, NAMES))
        files = snapshot.files_of(snapshot.live or "")
        assert snapshot.live is None or hash_revision(files) == snapshot.live
        return {name: content.decode() for name, content in files.items()}

    def clean(self) -> None:
        super().clean()
        self.forget_volume()

    def forget_volume(self) -> None:
        self.engine.remove_container(lock_name(self.volume))
        with contextlib.suppress(docker.errors.NotFound):
            self.api.remove_volume(self.volume, force=True)


def make_certificate(folder: Path, name: str) -> None:
    """Write a new self-signed certificate with its key as edge.pem, the only file in the folder. Its mode is 0600."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    made = [
        "-keyout",
        str(folder / "key"),
        "-out",
        str(folder / "crt"),
        "-subj",
        f"/CN={name}",
        "-addext",
        f"subjectAltName=DNS:{name}",
    ]
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *made]
    subprocess.run(argv, check=True, capture_output=True)
    pem = folder / "edge.pem"
    pem.write_text((folder / "crt").read_text() + (folder / "key").read_text())
    pem.chmod(0o600)
    (folder / "key").unlink()
    (folder / "crt").unlink()
