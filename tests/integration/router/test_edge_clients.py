"""An edge does not pass a queued request to a server after its client has disconnected."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import docker
import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_layout import SOCKET_PATH
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.templating import render_template
from bed import Bed
from replicas import ROUTER_IMAGE, Replicas, plain_edge_config

# Stands in for a router or a workflow server: a POST to /hold takes two seconds; GET /seen lists the paths of all POSTs.
SERVER = r"""
import json, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
seen = []
class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def reply(self):
        body = json.dumps(seen).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = reply
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        seen.append(self.path)
        if self.path == "/hold": time.sleep(2)
        self.reply()
ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
"""
VALUES = {"socket": SOCKET_PATH, "longest": 30, "revision": "1", "certificate": ""}


def configuration(edge: str, site: Replicas) -> str:
    """The edge's own configuration, with one server that takes one request at a time."""
    server = {"container": "one", "service": "one", "address": site.subnet + ".10"}
    if edge == "router":
        routes = [("POST", path) for path in ("/hold", "/router-first", "/router-left", "/router-stays")]
        return plain_edge_config({"one": server["address"]}, routes).replace("maxconn 60", "maxconn 1")
    plan = {"name": "test", "replicas": [server], "addresses": {"one": server["address"]}}
    return render_template("workflow/haproxy.cfg.j2", plan=plan, edge=VALUES).replace("maxconn 200", "maxconn 1")


@pytest.fixture(scope="module")
def site(bed: Bed) -> Iterator[Replicas]:
    address = bed.environment["DOCKER_HOST"]
    made = Replicas(docker.APIClient(base_url=address, version="1.43"), DockerEngine(address), subnet="10.213.78")
    try:
        made.start_backend()
        made.run(made.name + "-1", ROUTER_IMAGE, made.subnet + ".10", {}, entrypoint=["python3", "-c", SERVER])
        yield made
    finally:
        made.clean()


def send(url: str, path: str) -> socket.socket:
    where = urlsplit(url)
    client = socket.create_connection((str(where.hostname), int(where.port or 0)), timeout=10)
    client.sendall(f"POST {path} HTTP/1.1\r\nHost: edge\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    return client


def read(client: socket.socket) -> Any:
    with client:
        answer = http.client.HTTPResponse(client)
        answer.begin()
        return answer.status, json.loads(answer.read())


def wait_up(url: str, path: str) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            if read(send(url, path))[0] == 200:
                return
        except (OSError, http.client.HTTPException):
            pass  # the edge is still starting
        assert time.monotonic() < deadline, "the edge did not come up"
        time.sleep(0.1)


@pytest.mark.parametrize("edge", ["router", "workflow"])
def test_a_request_whose_client_has_left_is_not_given_to_a_replica(site: Replicas, edge: str) -> None:
    site.start_edge(configuration(edge, site))
    url = site.url()
    try:
        wait_up(url, f"/{edge}-first")
        holding = send(url, "/hold")
        time.sleep(0.3)
        leaving, staying = send(url, f"/{edge}-left"), send(url, f"/{edge}-stays")
        time.sleep(0.3)
        leaving.close()
        assert read(holding)[0] == 200
        status, seen = read(staying)
        assert status == 200 and f"/{edge}-stays" in seen and f"/{edge}-left" not in seen, seen
    finally:
        site.engine.remove_container(site.name + "-edge")
        site.made.remove(site.name + "-edge")
