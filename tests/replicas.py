"""Two real routers behind the real edge, with a backend whose streams last as long as the request says."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

import docker
from ansible_collections.anvil.serving.plugins.module_utils.edge import SOCKET, Edge
from ansible_collections.anvil.serving.plugins.module_utils.engine import Engine
from ansible_collections.anvil.serving.plugins.plugin_utils.render import render_template

ROUTER_IMAGE, EDGE_IMAGE = "anvil.local/router:0.13.2", "anvil.local/edge:1"
TOKEN = "t0ken"

# An OpenAI server: answers at once, or as a stream of ten pieces over the seconds that the last message names.
BACKEND = r"""
import json, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
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

ThreadingHTTPServer.request_queue_size = 256  # 32 clients at once are more than the 5 that it has by itself
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


@dataclass
class Replicas:
    """A network of its own with a fixed subnet; the backend, two routers and the edge on it."""

    api: docker.APIClient
    engine: Engine
    name: str = field(default_factory=lambda: "edge-" + uuid.uuid4().hex[:8])
    subnet: str = "10.213.77"
    made: list[str] = field(default_factory=list)

    @property
    def edge(self) -> Edge:
        return Edge(self.engine, self.name + "-edge")

    @property
    def routers(self) -> list[str]:
        return [f"{self.name}-1", f"{self.name}-2"]

    def url(self) -> str:
        bound = self.api.inspect_container(self.name + "-edge")["NetworkSettings"]["Ports"]["8000/tcp"][0]["HostPort"]
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

    def start(self) -> None:
        pool = docker.types.IPAMPool(subnet=self.subnet + ".0/24")
        self.api.create_network(self.name, ipam=docker.types.IPAMConfig(pool_configs=[pool]))
        start = {"entrypoint": ["python3", "-c", BACKEND]}
        self.run(self.name + "-backend", ROUTER_IMAGE, self.subnet + ".5", {}, ("backend",), **start)
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
        servers = [{"container": router, "address": f"{self.subnet}.{10 + number}"} for number, router in enumerate(self.routers)]
        values = {"socket": SOCKET, "longest": 330, "certificates": "", "tls_folder": "", "check_path": "/healthz",
                  "check_token": False, "revision": "1", "replicas": servers}  # fmt: skip
        text = render_template("edge/haproxy.cfg.j2", plan={"host": "test"}, edge=values)
        self.start_edge(text)

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
