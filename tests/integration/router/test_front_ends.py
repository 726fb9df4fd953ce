"""The edge in front of a real router and real serves: who gets in, with which requests, and how much of them."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.catalog.public_routes import list_router_routes, list_serve_routes
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import Edge
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import render_host
from bed import FAKOLI_DARK, Bed
from conftest import REPO
from harness import run_module
from replicas import EDGE_IMAGE, make_certificate
from routersite import wait_until

ROUTE_LISTS = sorted((REPO / "tests/unit/data/routes").glob("*.txt"))
PROFILE_ROW = {"tier": "heavy", "work_class": "planning", "decision": "allow", "quality_score": 0.9, "sample_n": 4}
ROUTER, SERVE, STAND_IN = 8130, 30102, 30104
KEYS = {
    name: f"{name}-" + "k" * 24
    for name in ("router_token", "heavy_key", "alice", "bob", "bob_new", "carol", "dave", "gateway", "stranger")
}
CHAT = "/v1/chat/completions"
# Answers every request with 200 and what it got. It stands in for a vLLM, which the test-bed does not have.
ANSWERS_ALL = r"""
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.dumps([self.command, self.path, dict(self.headers)]).encode()
        self.send_response(200)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = answer
ThreadingHTTPServer(("0.0.0.0", 30004), Handler).serve_forever()
"""


def read_routes(path: Path) -> list[tuple[str, str]]:
    """The routes that an engine or router has, as (method, path)."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return [(line.split()[0], line.split()[1].replace("{response_id}", "r1")) for line in lines]


@dataclass
class Site:
    """A host with a router, a published llama-server and a published stand-in for a vLLM, behind one edge."""

    bed: Bed
    folder: Path
    models: Path
    router_image: str
    more: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=lambda: dict(KEYS))

    @property
    def variables(self) -> dict[str, Any]:
        llama = {"engine": "llama_cpp", "image": "anvil.local/llama-server:1", "volumes": [f"{self.models}:/models:ro"],
                 "args": ["-c", "1024", "-t", "1"]}  # fmt: skip
        vllm = {"engine": "vllm", "image": "i:1", "model": "m", "container": "stand-in", "api_key": "heavy_key", "port": 30004}
        return {
            "anvil_root": str(self.folder / "anvil"),
            "anvil_secrets": dict.fromkeys(self.keys),
            "anvil_serves": {
                "heavy": {**llama, "model": "/models/heavy.gguf", "port": 30002, "publish": f"0.0.0.0:{SERVE}",
                          "api_key": "heavy_key"},
                "fast": {**llama, "model": "/models/fast.gguf", "port": 30003},
                "like-vllm": {**vllm, "publish": f"0.0.0.0:{STAND_IN}"},
            },
            "anvil_router": {
                "image": self.router_image,
                "publish": f"0.0.0.0:{ROUTER}",
                "token": "router_token",
                "tiers": [{"id": "heavy", "serve": "heavy"}, {"id": "fast", "serve": "fast"}, {"id": "far", "serve": "far"}],
                **({"profile": [PROFILE_ROW]} if "0.13.2" in self.router_image else {}),
            },
            # The edge stands for that of another host: the router reaches a serve through it, with a key of its own.
            "anvil_external": {
                "far": {"host": "anvil-router-edge", "port": 18001, "served_name": "heavy", "api_key": "gateway",
                        "tls": {"ca": str(self.folder / "tls/edge.pem")}},
            },
            "anvil_edge": {
                "tls": {"certificate": str(self.folder / "tls/edge.pem")},
                "failed_keys_per_minute": 10,
                "metrics": "127.0.0.1:8404",
            },
            "anvil_clients": {
                "alice": {"keys": ["alice"]},
                "bob": {"keys": ["bob"], "tiers": ["fast"]},
                "carol": {"keys": ["carol"], "requests_per_minute": 3},
                "dave": {"keys": ["dave"], "concurrent_requests": 1},
                "gateway": {"keys": ["gateway"], "tiers": ["heavy"]},
                **self.more,
            },
        }  # fmt: skip

    def render(self) -> dict[str, Any]:
        return render_host(build_plan("bed", self.variables, dict.fromkeys(self.keys, "file")))

    def promote_edge(self, **given: Any) -> dict[str, Any]:
        return run_module("anvil_router_edge", **{**self.render()["edge"], "secrets": self.keys, "settle": 0.3, **given})

    def bring_up(self) -> None:
        rendered = self.render()
        made = run_module("anvil_serve", project=rendered["serves"], secrets=self.keys, serves=["heavy", "fast"])
        assert not made["failed"], made["msg"]
        start = ["--entrypoint", "python3", "anvil.local/router:0.13.2", "-c", ANSWERS_ALL]
        self.bed.docker("run", "--detach", "--name", "stand-in", "--network", "anvil", *start)
        files = {name: text for name, text in rendered["router_files"].items() if text}
        promoted = run_module("anvil_router_promote", image=self.router_image, **files, settle=0.3, dry_boot=False)
        assert not promoted["failed"], promoted["msg"]
        edge = self.promote_edge()
        assert not edge["failed"] and edge["changed"], edge
        up = run_module("anvil_router_up", project=rendered["router"], edge="anvil-router-edge", secrets=self.keys)
        assert not up["failed"], up["msg"]
        for network in json.loads(rendered["serves"]["services"])["like-vllm"]["networks"]:
            self.bed.run("docker", "network", "connect", network, "stand-in")
        for port in (ROUTER, SERVE, STAND_IN):
            wait_until(lambda port=port: self.is_up(port))

    def connect(self, port: int) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", port), timeout=20)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(plain)

    def ask(
        self, port: int, method: str, path: str, key: str = "", body: Any = None, **headers: str
    ) -> tuple[int, str, dict[str, str]]:
        """One request as it is given here, byte for byte."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        lines = [f"{method} {path} HTTP/1.1", "Host: edge", "Connection: close", f"Content-Length: {len(content)}"]
        lines += [f"Authorization: Bearer {self.keys[key]}"] if key else []
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        with self.connect(port) as client:
            client.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
            answer = http.client.HTTPResponse(client, method=method)
            answer.begin()
            return answer.status, answer.read().decode("utf-8", "replace"), {k.lower(): v for k, v in answer.getheaders()}

    def status(self, port: int, method: str, path: str, key: str = "", body: Any = None, **headers: str) -> int:
        return self.ask(port, method, path, key, body, **headers)[0]

    def is_up(self, port: int) -> bool:
        try:
            return self.status(port, "GET", "/healthz") == 200
        except OSError:  # Docker's proxy accepts a connection before HAProxy listens
            return False

    def walk(self, port: int, routes: Iterable[tuple[str, str]], key: str = "") -> dict[tuple[str, str], tuple[int, str]]:
        """One request for each route, on one connection: route -> (status, text)."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
        headers = {"Authorization": f"Bearer {self.keys[key]}"} if key else {}
        found = {}
        for method, path in sorted(routes):
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            found[method, path] = answer.status, answer.read().decode("utf-8", "replace")
        connection.close()
        return found

    def log(self) -> str:
        return self.bed.docker("logs", "anvil-router-edge")


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, bed: Bed, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("front-ends")
    folder.chmod(0o755)
    make_certificate(folder / "tls", "anvil-router-edge")
    (folder / "tls/edge.pem").chmod(0o644)  # a router reads the certificates that it trusts
    bed.start_engine()
    bed.clear()
    bed.write_gpus(FAKOLI_DARK)
    bed.docker("network", "create", "anvil")
    made = Site(bed, folder, models, f"anvil.local/router:{request.param}")
    made.bring_up()
    yield made
    bed.clear()


BOTH = pytest.mark.parametrize("site", ["0.13.2", "2.0.2"], indirect=True)
# What does not depend on the generation of the router is tested with one of them.
ONE = pytest.mark.parametrize("site", ["0.13.2"], indirect=True)


def chat(model: str = "heavy") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


@BOTH
def test_only_the_edge_listens_beyond_loopback(site: Site) -> None:
    wide = [line for line in site.bed.docker("ps", "--format", "{{.Names}} {{.Ports}}").splitlines() if "0.0.0.0" in line]
    assert len(wide) == 1 and wide[0].startswith("anvil-router-edge ")
    rendered = site.render()
    again = run_module("anvil_router_up", project=rendered["router"], edge="anvil-router-edge", secrets=site.keys, check=True)
    assert not again["changed"] and not site.promote_edge(check=True)["changed"] and not site.promote_edge()["changed"]


@BOTH
def test_without_a_key_only_the_health_path_answers(site: Site) -> None:
    """Every route that a real engine or router has, at every front end."""
    asked = {(method, path) for each in ROUTE_LISTS for method, path in read_routes(each)}
    assert len(asked) > 120
    for port in (ROUTER, SERVE, STAND_IN):
        found = site.walk(port, asked)
        assert {route: status for route, (status, _text) in found.items() if status != 401} == {("GET", "/healthz"): 200}


@BOTH
def test_with_a_key_only_the_listed_requests_pass(site: Site) -> None:
    asked = {route for each in ROUTE_LISTS for route in read_routes(each)} | {("HEAD", "/v1/models"), ("DELETE", "/v1/models")}
    passed = {route for route, (status, _text) in site.walk(STAND_IN, asked, "alice").items() if status == 200}
    assert passed == set(list_serve_routes("vllm", "chat")) | {("GET", "/healthz")}
    generation = "profile" if "0.13.2" in site.router_image else "gateway"
    own = read_routes(REPO / f"tests/unit/data/routes/router-{site.router_image.rpartition(':')[2]}.txt")
    closed = {route for route, (_status, text) in site.walk(ROUTER, own, "alice").items() if "is not offered here" in text}
    assert closed == set(own) - set(list_router_routes(generation)) - {("GET", "/healthz")}
    assert site.ask(ROUTER, "POST", CHAT, "alice", chat())[0] == 200
    assert site.ask(SERVE, "POST", CHAT, "alice", chat())[0] == 200


OTHER_SPELLINGS = [
    "//v1/models",
    "/v1//models",
    "/./v1/models",
    "/v1/../v1/models",
    "/v1/%6dodels",
    "/v1%2fmodels",
    "/v1/models/",
    "/V1/models",
    "*",
    "/v1/models;a=b",
    "/v1\\models",
    "/v1/models%00",
    "/v1/models%3f",
    "http://edge//v1/models",
    "/v1/models/../admin/transition",
    "/%2e/v1/models",
]


@ONE
def test_another_spelling_of_a_path_is_another_path(site: Site) -> None:
    assert {path: site.status(STAND_IN, "GET", path, "alice") for path in OTHER_SPELLINGS} == dict.fromkeys(OTHER_SPELLINGS, 404)
    absolute = json.loads(site.ask(STAND_IN, "GET", "http://edge/v1/models?a=b", "alice")[1])
    assert absolute[1] == "/v1/models?a=b"


@ONE
def test_the_server_gets_its_own_key_and_no_page_gets_a_permission(site: Site) -> None:
    given = {"Origin": "https://a.example", "Cookie": "a=b", "X_Forwarded_For": "1.1.1.1", "x_api_key": site.keys["alice"]}
    _status, text, headers = site.ask(STAND_IN, "GET", "/v1/models", **given)
    seen = {name.lower(): value for name, value in json.loads(text)[2].items()}
    assert seen["authorization"] == "Bearer " + site.keys["heavy_key"]
    assert not {"cookie", "x-forwarded-for", "x-api-key"} & set(seen)
    assert not [name for name in headers if name.startswith("access-control")]
    assert site.status(STAND_IN, "OPTIONS", "/v1/models", "alice", Origin="https://a.example") == 405


@BOTH
def test_a_key_opens_only_what_its_client_may_use(site: Site) -> None:
    # The secrets of servers are no keys of clients.
    assert site.status(ROUTER, "GET", "/v1/models", "router_token") == 401
    assert site.status(SERVE, "GET", "/v1/models", "heavy_key") == 401
    assert site.status(SERVE, "GET", "/v1/models", "bob") == 403
    assert site.status(ROUTER, "POST", CHAT, "bob", chat("fast")) == 200
    assert site.status(ROUTER, "POST", CHAT, "bob", chat("heavy")) == 403
    text = json.dumps(chat("fast"))
    hidden = [
        text[:-1] + ', "model": "heavy"}',
        '{"model": "heavy", ' + text[1:],
        text[:-1] + ', "\\u006dodel": "heavy"}',
        text[:-1] + ', "mod\\u0065l": "heavy"}',
        text.replace('"fast"', '"f\\u0061st"'),
        text.replace('"fast"', '"fast\\u0000"'),
        '{"x": ' + text + "}",
        "[" + text + "]",
        text.replace('"model": "fast", ', ""),
        text + " " * 1_000_000,
        '{"x": [' + "[" * 3000 + "]" * 3000 + "], " + text[1:],
    ]
    for body in [*(each.encode() for each in hidden), text.encode("utf-16"), b"\xef\xbb\xbf" + text.encode(), b""]:
        assert site.status(ROUTER, "POST", CHAT, "bob", body) in (403, 413), body[:80]
    tools = {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"model": {"type": "string"}}}}}]
    }
    assert site.status(ROUTER, "POST", CHAT, "bob", {**tools, **chat("fast")}) == 200
    assert site.status(ROUTER, "POST", CHAT, "bob", {**tools, **chat("heavy")}) == 403


@ONE
def test_every_tier_is_asked_through_the_edge_as_a_client(site: Site) -> None:
    asked = site.render()["router_names"]["asked"]
    assert asked == {"edge": "anvil-router-edge", "secret": "alice"}
    given = {"image": site.router_image, "edge": asked["edge"], "token": site.keys[asked["secret"]], "ask": ["heavy", "fast"]}
    told = run_module("anvil_router_info", **given)
    assert not told["failed"] and all(answer["ok"] for answer in told["answers"].values()), told


@BOTH
def test_a_router_reaches_the_edge_of_another_host_over_https_as_a_client_of_its_own(site: Site) -> None:
    status, text, _headers = site.ask(ROUTER, "POST", CHAT, "alice", chat("far"))
    assert status == 200 and json.loads(text)["choices"], text
    rows = [json.loads(line) for line in site.log().splitlines() if line.startswith("{")]
    assert [row for row in rows if row["client"] == "gateway" and row["edge"] == "serve-heavy" and row["status"] == 200]
    externals = build_plan("bed", site.variables, dict.fromkeys(site.keys, "file")).as_dict()["externals"]
    given = {"project": site.render()["serves"], "secrets": site.keys, "externals": externals}
    checked = run_module("anvil_serve_info", overview=True, **given)
    assert checked["externals"]["far"]["endpoint"].startswith("https://"), checked["externals"]


@ONE
def test_requests_beyond_a_limit_get_429_and_a_time_to_wait(site: Site) -> None:
    answers = [site.ask(STAND_IN, "GET", "/v1/models", "carol") for _ in range(5)]
    assert [status for status, _text, _headers in answers] == [200, 200, 200, 429, 429]
    assert answers[-1][2]["retry-after"] == "20" and "per minute" in answers[-1][1]
    slow = {**chat(), "max_tokens": 400, "messages": [{"role": "user", "content": "go " * 100}]}
    with ThreadPoolExecutor(4) as pool:
        statuses = sorted(pool.map(lambda _: site.status(SERVE, "POST", CHAT, "dave", slow), range(4)))
    assert statuses[0] == 200 and 429 in statuses, statuses
    assert site.status(SERVE, "POST", CHAT, "dave", chat()) == 200
    assert site.status(STAND_IN, "GET", "/v1/models", "alice") == 200


@ONE
def test_wrong_keys_are_limited_by_address_and_right_ones_still_pass(site: Site) -> None:
    found = [site.status(STAND_IN, "GET", "/v1/models", "stranger") for _ in range(14)]
    assert set(found[:5]) == {401} and found[-1] == 429, found
    assert site.status(STAND_IN, "GET", "/v1/models", "alice") == 200
    both = site.status(STAND_IN, "GET", "/v1/models", "alice", authorization="Bearer " + site.keys["alice"])
    assert both == 400 and site.status(STAND_IN, "GET", "/v1/models", authorization="Basic YTpi") in (401, 429)


@ONE
def test_bodies_and_headers_have_bounds(site: Site) -> None:
    assert site.status(STAND_IN, "POST", CHAT, "alice", b"x" * 2_000_000) == 200
    with site.connect(STAND_IN) as client:
        client.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: e\r\nAuthorization: Bearer {site.keys['alice']}\r\n"
                       f"Content-Length: {64 * 1024 * 1024}\r\n\r\n".encode())  # fmt: skip
        assert b" 413 " in client.recv(4096)
    with site.connect(STAND_IN) as client:
        began = time.monotonic()
        client.settimeout(20)
        client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: e\r\n")
        assert b" 408 " in client.recv(4096) and time.monotonic() - began < 15


@ONE
def test_log_and_metrics_name_the_client_and_hold_no_secret(site: Site) -> None:
    site.ask(ROUTER, "POST", CHAT + "?q=s3cret-query", "alice", {**chat(), "user": "s3cret-content"})
    log = site.log()
    rows = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    mine = [row for row in rows if row["client"] == "alice" and row["path"] == CHAT and row["edge"] == "router"]
    assert (
        mine and mine[-1]["status"] == 200 and mine[-1]["bytes"] > 100 and mine[-1]["ms"] >= 0 and mine[-1]["time"].endswith("Z")
    )
    assert not [word for word in ("s3cret", *site.keys.values()) if word in log]
    assert not [row for row in rows if row["path"] == "/healthz"]
    text = {path: _get_plain("127.0.0.1", 8404, path) for path in ("/metrics", "/clients", "/x")}
    assert "haproxy_frontend_http_requests_total" in text["/metrics"] and "404" in text["/x"]
    assert 'anvil_edge_client_requests_total{client="alice"} ' in text["/clients"]
    everything = (
        json.dumps(site.render()) + site.bed.docker("inspect", "anvil-router-edge") + json.dumps(site.promote_edge(diff=True))
    )
    config = Edge(DockerEngine(site.bed.environment["DOCKER_HOST"]), "anvil-router-edge").read_config()
    assert not [name for name, key in site.keys.items() if key in everything + config]


def _get_plain(host: str, port: int, path: str) -> str:
    connection = http.client.HTTPConnection(host, port, timeout=5)
    connection.request("GET", path)
    answer = connection.getresponse()
    return f"{answer.status}\n" + answer.read().decode()


@ONE
def test_the_status_shows_what_clients_did_and_when_the_certificate_ends(site: Site) -> None:
    assert site.status(STAND_IN, "GET", "/v1/models", "alice") == 200
    info = run_module("anvil_router_info", edge="anvil-router-edge", image=site.router_image)
    edge = info["edge"]
    assert edge["tls"] and edge["healthy"] and edge["loaded"] and not edge["problem"], edge
    assert [each["name"] for each in edge["replicas"]] == ["anvil-router"]
    alice = next(client for client in edge["clients"] if client["name"] == "alice")
    assert alice["requests"] >= alice["admitted"] > 0 and alice["in_flight"] == 0
    # The certificate of these tests is valid for two days.
    assert "certificate of the edge expires on" in str(info["warnings"]), info["warnings"]


@ONE
def test_keys_and_clients_change_without_a_failed_request(site: Site) -> None:
    before = site.bed.started()
    failed: list[int] = []
    stop = False

    def keep_asking() -> int:
        count = 0
        while not stop:
            count += 1
            status = site.status(STAND_IN, "GET", "/v1/models", "alice")
            if status != 200:
                failed.append(status)
        return count

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(keep_asking) for _ in range(2)]
        site.more = {"bob": {"keys": ["bob", "bob_new"], "tiers": ["fast"]}, "erin": {"keys": ["stranger"]}}
        predicted = site.promote_edge(check=True)
        done = site.promote_edge()
        assert predicted["changed"] and done["changed"] and done["reloaded"] and predicted["revision"] == done["revision"], done
        assert [site.status(ROUTER, "GET", "/v1/models", key) for key in ("bob", "bob_new", "stranger")] == [200] * 3
        site.more = {"bob": {"keys": ["bob_new"], "tiers": ["fast"]}}
        assert site.promote_edge()["changed"]
        assert [site.status(ROUTER, "GET", "/v1/models", key) for key in ("bob", "bob_new", "stranger")] == [401, 200, 401]
        refused = site.promote_edge(secrets={**site.keys, "bob_new": site.keys["alice"]})
        assert refused["failed"] and "clients alice and bob have the same key" in refused["msg"]
        assert site.keys["alice"] not in json.dumps(refused)
        stop = True
        assert all(each.result() > 3 for each in asking) and not failed
    assert site.bed.started() == before and not site.promote_edge()["changed"]


def test_a_host_without_a_router_has_an_edge_alone(clean_bed: Bed, models: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_certificate(tmp_path / "tls", "edge.example")
    clean_bed.docker("network", "create", "anvil")
    site = Site(clean_bed, tmp_path, models, "anvil.local/router:2.0.2")
    variables = {key: value for key, value in site.variables.items() if key != "anvil_router"}
    variables["anvil_serves"] = {"heavy": variables["anvil_serves"]["heavy"]}
    del variables["anvil_external"]
    variables["anvil_clients"] = {"alice": {"keys": ["alice"]}, "bob": {"keys": ["bob"], "tiers": ["heavy"]}}
    rendered = render_host(build_plan("bed", variables, dict.fromkeys(site.keys, "file")))
    assert rendered["router"] is None
    made = run_module("anvil_serve", project=rendered["serves"], secrets=site.keys)
    assert not made["failed"], made["msg"]
    given = {**rendered["edge"], "secrets": site.keys, "settle": 0.3}
    up = {"project": rendered["edge_alone"], "edge": "anvil-edge", "volume": "", "secrets": site.keys}
    for check in (True, False):
        assert run_module("anvil_router_edge", check=check, **given)["changed"]
        assert run_module("anvil_router_up", check=check, **up)["changed"]
    wait_until(lambda: site.is_up(SERVE))
    assert [site.status(SERVE, "POST", CHAT, key, chat()) for key in ("", "alice", "bob", "heavy_key")] == [401, 200, 200, 401]
    for module, parameters in (("anvil_router_edge", given), ("anvil_router_up", up)):
        again = run_module(module, **parameters)
        assert not again["failed"] and not again["changed"], again
    # A recreated serve may have another address; the edge finds it by its name.
    clean_bed.docker("rm", "--force", "anvil-heavy")
    run = ["run", "--detach", "--name", "takes-the-address", "--network", "anvil", "--entrypoint", "sleep"]
    clean_bed.docker(*run, EDGE_IMAGE, "60")
    assert not run_module("anvil_serve", project=rendered["serves"], secrets=site.keys)["failed"]
    wait_until(lambda: site.status(SERVE, "POST", CHAT, "alice", chat()) == 200)
