# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a page, a caller, a model or a tool of a stranger can do to the server of a workflow."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import Browser
from workflowserver import THREE, Endpoint, Reply, Server, free_port, serving, wait_until

MIB = 1024 * 1024
JSON_TYPE = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server without keys for the tests that only look at answers."""
    shared = Endpoint()
    with serving(tmp_path_factory.mktemp("server"), shared, WORKFLOW_HOSTS="flow.lan *.example.org") as made:
        yield made
    shared.close()


# --- host names and pages of other sites


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:8100", True),
        ("10.1.2.3", True),
        ("[::1]:8100", True),
        ("localhost:9", True),
        ("workflow.localhost", True),
        ("flow.lan:8100", True),
        ("FLOW.LAN.", True),
        ("a.example.org", True),
        ("host.docker.internal:8100", True),
        ("example.org.evil", False),
        ("evil.example", False),
        ("flow.lan.evil", False),
        ("127.0.0.1.evil", False),
        ("localhost.evil", False),
        ("2130706433", False),
        ("", False),
    ],
)
def test_only_names_of_the_server_are_served(server: Server, host: str, allowed: bool) -> None:
    for path in ("/jobs", "/readyz", "/"):
        assert server.client.get(path, headers={"Host": host}).status_code == (200 if allowed else 421), path
    assert server.client.get("/livez", headers={"Host": host}).status_code == 200


def send_raw(server: Server, text: str) -> str:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(text.replace("\n", "\r\n").encode())
        return connection.recv(64).decode().split("\r\n")[0]


def test_a_probe_without_a_host_is_served_and_two_hosts_are_not(server: Server) -> None:
    assert "200" in send_raw(server, "GET /livez HTTP/1.0\n\n")
    assert "200" in send_raw(server, "GET /readyz HTTP/1.0\n\n")
    assert "200" not in send_raw(server, "GET /jobs HTTP/1.1\nHost: localhost\nHost: evil.example\n\n")


def test_the_server_closes_no_connection_that_a_client_is_about_to_use(server: Server) -> None:
    """Many clients drop a connection after 5 idle seconds. A server that does so too resets requests that are sent just then."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    for pause in (0, 6):
        time.sleep(pause)
        connection.request("GET", "/livez")
        assert connection.getresponse().read() == b'{"status": "alive"}'


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("http://flow.lan:8100", True),
        ("https://flow.lan:8100", True),
        ("http://flow.lan", False),
        ("http://evil.example", False),
        ("http://flow.lan:8100.evil.example", False),
        ("null", False),
        ("", False),
        ("file://", False),
        ("chrome-extension://flow.lan:8100", False),
    ],
)
def test_a_write_needs_the_origin_of_the_host(server: Server, origin: str | None, allowed: bool) -> None:
    headers = {"Host": "flow.lan:8100"} | ({} if origin is None else {"Origin": origin})
    answer = server.client.post("/run", json={"topic": "t"}, headers=headers)
    assert answer.status_code == (200 if allowed else 403), answer.text
    cancel = server.client.post(f"/jobs/{'0' * 32}/cancel", headers=headers)
    assert cancel.status_code == server.client.delete(f"/jobs/{'0' * 32}", headers=headers).status_code
    assert cancel.status_code == (404 if allowed else 403)
    assert server.client.get("/jobs", headers=headers).status_code == 200


def test_default_ports_need_not_be_written(server: Server) -> None:
    for host, origin in (("flow.lan", "https://flow.lan:443"), ("flow.lan:80", "http://flow.lan")):
        assert server.client.post("/run", json={"topic": "t"}, headers={"Host": host, "Origin": origin}).status_code == 200


def test_a_rebound_name_reaches_nothing_in_a_real_browser(tmp_path: Path, endpoint: Endpoint) -> None:
    """For the browser evil.example is the address of the workflow's server by now, and the page of evil.example is still open."""
    with serving(tmp_path, endpoint) as server:
        browser = Browser(tmp_path, flags=("--host-resolver-rules=MAP evil.example 127.0.0.1",))
        try:
            browser.open(f"http://evil.example:{server.port}/")
            assert "421" in " ".join(browser.problems) or "names" in browser.evaluate("document.body.innerText")
            read = "fetch('/jobs').then(answer => answer.status)"
            write = (
                "fetch('/run', {method: 'POST', headers: {'Content-Type': 'application/json'}, body: '{\"topic\": \"t\"}'})"
                ".then(answer => answer.status)"
            )
            assert [browser.evaluate(one) for one in (read, write)] == [421, 421]
            blind = (
                f"fetch('http://127.0.0.1:{server.port}/run', {{method: 'POST', mode: 'no-cors', body: '{{}}'}}).then(() => 1)"
            )
            browser.evaluate(blind)
            assert endpoint.calls == [] and server.client.get("/jobs").json()["jobs"] == []
        finally:
            browser.close()


def test_the_page_asks_for_the_key_and_the_browser_keeps_none_itself(tmp_path: Path, endpoint: Endpoint) -> None:
    (tmp_path / "keys").write_text("ops page-s3cret\n")
    with serving(tmp_path, endpoint, WORKFLOW_API_KEY_FILE=str(tmp_path / "keys")) as server:
        browser = Browser(tmp_path)
        try:
            browser.open(server.url)
            for text, told in (("wrong", "not valid"), ("page-s3cret", "")):
                browser.wait_for("document.activeElement.id === 'key' || !document.querySelector('#access').hidden")
                browser.evaluate("document.querySelector('#key').focus()")
                browser.write(text)
                browser.press("Enter")
                if told:
                    browser.wait_for("document.querySelector('#key-wrong').textContent.includes('not valid')")
            browser.wait_for("!!document.querySelector('#in-topic')")
            assert browser.evaluate("document.querySelector('#access').hidden && document.title") == "three"
            browser.tab_to("#in-topic")
            browser.write("tea")
            browser.tab_to("#go")
            browser.press("Enter")
            browser.wait_for("document.querySelector('#state')?.dataset.status === 'completed'")
            browser.open(f"{server.url}/docs")
            browser.wait_for("document.querySelectorAll('section').length === 10")
            assert browser.evaluate("document.cookie") == ""
        finally:
            browser.close()
        assert "client=ops" in server.log() and "s3cret" not in server.log()


# --- keys and the access log


def test_wrong_keys_are_limited_and_a_client_that_is_known_goes_on(tmp_path: Path, endpoint: Endpoint) -> None:
    (tmp_path / "keys").write_text("ci first-key\nlater-key\n")
    with serving(tmp_path, endpoint, WORKFLOW_API_KEY_FILE=str(tmp_path / "keys")) as server:

        def ask(key: str) -> httpx.Response:
            return server.client.get("/schema", headers={"Authorization": f"Bearer {key}"})

        assert ask("first-key").status_code == 200
        statuses = [ask(f"guess-{number}").status_code for number in range(40)]
        assert statuses.count(401) in (20, 21, 22) and set(statuses[-10:]) == {429}
        assert ask("first-key").status_code == 200
        guessed = ask("later-key")
        assert guessed.status_code == 429 and 1 <= int(guessed.headers["Retry-After"]) <= 4
        assert server.client.get("/schema").status_code == 429 and server.client.get("/health").status_code == 200
        wait_until(lambda: ask("later-key").status_code == 200, 10, 0.5)
        wait_until(lambda: "client=key-2" in server.log(), 3)


def test_the_access_log_has_the_client_and_the_figures_and_no_content(tmp_path: Path, endpoint: Endpoint) -> None:
    (tmp_path / "keys").write_text("ci first-key\n")
    endpoint.behave = lambda prompt: Reply(text="an answer of its own")
    with serving(tmp_path, endpoint, WORKFLOW_API_KEY_FILE=str(tmp_path / "keys")) as server:
        headers = {"Authorization": "Bearer first-key"}
        ran = server.client.post("/run", json={"topic": "a-topic-of-its-own"}, headers=headers)
        server.client.get("/jobs?status=a-query-of-its-own", headers=headers)
        send_raw(server, "GET /%1b[31m%0aforged HTTP/1.1\nHost: localhost\nX-API-Key: bad-key-text\n\n")
        wait_until(lambda: server.log().count(" access ") == 3, 5)
        lines = [line for line in server.log().splitlines() if " access " in line]
        assert re.fullmatch(
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO access client=ci from=127.0.0.1 method=POST path=/run status=200"
            rf" ms=\d+\.\d bytes={len(ran.content)}",
            lines[0],
        ), lines[0]
        assert (
            "path=/jobs status=422" in lines[1] and "client=- from=127.0.0.1 method=GET path=/?[31m?forged status=401" in lines[2]
        )
        for content in ("of-its-own", "of its own", "first-key", "bad-key-text", "\x1b"):
            assert content not in server.log()


def test_the_certificate_is_for_other_hosts_and_loopback_goes_on_without(tmp_path: Path, endpoint: Endpoint) -> None:
    pem, port = tmp_path / "tls.pem", free_port()
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=flow.lan"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")]
    subprocess.run(words, check=True, capture_output=True)
    pem.write_text((tmp_path / "cert").read_text() + (tmp_path / "key").read_text())
    with serving(tmp_path, endpoint, WORKFLOW_CERTIFICATE_FILE=str(pem), WORKFLOW_TLS_PORT=str(port)) as server:
        trust = ssl.create_default_context(cafile=str(tmp_path / "cert"))
        answer = httpx.post(f"https://127.0.0.1:{port}/run", json={"topic": "t"}, verify=trust)
        assert answer.status_code == 200 and server.run().status_code == 200
        assert server.process is not None
        server.process.terminate()
        assert server.process.wait(15) in (0, -15)
    pem.write_text("no certificate")
    failed = Server(tmp_path, THREE, endpoint.url, WORKFLOW_CERTIFICATE_FILE=str(pem)).start(wait=False)
    assert failed.process is not None and failed.process.wait(20) == 2
    assert "WORKFLOW_CERTIFICATE_FILE" in failed.log() and "Traceback" not in failed.log()


# --- what a request costs

WIDE = """
schema_version: "1.0"
flow: {name: wide}
state: {fields: {x: {type: any, required: true}, y: {type: "list[any]"}, a: {type: str}}}
nodes: [{id: one, prompt: "one {x}", outputs: [a], output_schema: {type: str}}]
edges: [{from: START, to: one}, {from: one, to: END}]
config: {llm: {model: m}}
"""


def fill_body(head: bytes, item: bytes, tail: bytes) -> bytes:
    return head + b",".join([item] * ((MIB - len(head) - len(tail)) // (len(item) + 1))) + tail


BODIES: dict[str, tuple[bytes, int]] = {
    "one text": (b'{"x": "' + b"x" * (MIB - 20) + b'"}', 200),
    "one text beyond Unicode's first plane": (b'{"x": "' + "😀".encode() * ((MIB - 20) // 4) + b'"}', 200),
    "one text of escapes": (b'{"x": "' + b"\\u00e4" * ((MIB - 20) // 6) + b'"}', 200),
    "few long texts": (fill_body(b'{"y": [0], "x": [', b'"' + b"t" * 1040 + b'"', b"]}"), 200),
    "many numbers": (fill_body(b'{"x": [', b"1", b"]}"), 413),
    "many empty lists": (fill_body(b'{"x": [', b"[]", b"]}"), 413),
    "many empty objects": (fill_body(b'{"x": [', b"{}", b"]}"), 413),
    "many texts": (fill_body(b'{"x": [', b'""', b"]}"), 413),
    "a list that the file bounds": (b'{"x": 0, "y": [' + b",".join([b"1"] * 1001) + b"]}", 422),
    "as many values as fit": (b'{"x": [' + b",".join([b"[]"] * 12_000) + b'], "y": ["' + b"t" * 1_000_000 + b'"]}', 200),
    "no values but signs": (b'{"x": "' + b"[{," * ((MIB - 20) // 3) + b'"}', 200),
    "quotes that never end": (b'{"x": ' + b'\\"' * ((MIB - 20) // 2), 422),
}


def read_memory(server: Server, name: str) -> int:
    assert server.process is not None
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+)", text)[1])  # type: ignore[index]


def measure_peak(server: Server, work: Callable[[], httpx.Response]) -> tuple[float, httpx.Response]:
    """MiB that the server uses at most while it works, beyond what it used before."""
    assert server.process is not None
    before = read_memory(server, "VmRSS")
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")  # the peak begins again at what is used now
    answer = work()
    return (read_memory(server, "VmHWM") - before) / 1024, answer


def test_a_request_of_1_mib_costs_at_most_20_mib(tmp_path: Path, endpoint: Endpoint) -> None:
    """A server keeps what a request has freed, so each request that is accepted has a server of its own."""
    refused = {name: one for name, one in BODIES.items() if one[1] != 200}
    groups = [refused, *({name: one} for name, one in BODIES.items() if name not in refused)]
    costs = {}
    for number, group in enumerate(groups):
        (folder := tmp_path / str(number)).mkdir()
        with serving(folder, endpoint, WIDE) as server:
            assert server.client.post("/run", json={"x": "warm"}).status_code == 200
            for name, (body, status) in group.items():
                assert len(body) <= MIB
                costs[name], answer = measure_peak(server, partial(server.client.post, "/run", content=body, headers=JSON_TYPE))
                assert answer.status_code == status, (name, answer.text[:500])
    print({name: f"{cost:.1f} MiB" for name, cost in costs.items()})
    assert max(costs.values()) <= 20, costs


def test_a_list_of_large_jobs_costs_less_than_one_of_them(tmp_path: Path, endpoint: Endpoint) -> None:
    with serving(tmp_path, endpoint, WIDE) as server:
        for _unused in range(20):
            server.client.post("/run", json={"x": "x" * 1_000_000})
        cost, answer = measure_peak(server, lambda: server.client.get("/jobs?limit=100"))
        assert len(answer.json()["jobs"]) == 20 and len(answer.content) < 20_000 and cost <= 1, cost


# --- keys of models and tools


class Recorder:
    """A service on loopback. taken: (path, headers, body) of its requests. answer: (status, headers, body) for a path."""

    def __init__(self, answer: Callable[[str], tuple[int, dict[str, str], bytes]] | None = None) -> None:
        self.taken: list[tuple[str, dict[str, str], bytes]] = []
        recorder = self
        good = json.dumps({"choices": [{"message": {"content": "text"}}]}).encode()

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_words: Any) -> None:
                return

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                recorder.taken.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                status, headers, text = answer(self.path) if answer else (200, {}, good)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            def do_POST(self) -> None:
                self.do_GET()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def keys(self) -> set[str | None]:
        return {headers.get("authorization") for _path, headers, _body in self.taken}


TWO_PLACES = """
schema_version: "1.0"
flow: {name: places}
state: {fields: {topic: {type: str, required: true}, a: {type: str}, b: {type: str}, c: {type: str}}}
nodes:
  - {id: home, prompt: home, outputs: [a], output_schema: {type: str}}
  - {id: away, prompt: away, outputs: [b], output_schema: {type: str}, llm: {api_base: "${AWAY}"}}
  - {id: keyed, prompt: keyed, outputs: [c], output_schema: {type: str}, llm: {api_base: "${KEYED}", api_key: "${KEYED_KEY}"}}
edges: [{from: START, to: home}, {from: home, to: away}, {from: away, to: keyed}, {from: keyed, to: END}]
config: {llm: {model: m}}
"""


def test_a_key_goes_only_to_the_url_that_it_was_written_for(tmp_path: Path) -> None:
    home, proxy = Recorder(), Recorder(lambda path: (502, {}, b""))
    away, keyed = Recorder(), Recorder()
    endpoint = Endpoint()
    keys = {"OPENAI_API_KEY": "home-key", "KEYED_KEY": "keyed-key", "AWAY": away.url + "/v1", "KEYED": keyed.url + "/v1"}
    proxies = {"HTTP_PROXY": proxy.url, "http_proxy": proxy.url, "ALL_PROXY": proxy.url}
    with serving(tmp_path, endpoint, TWO_PLACES, **keys, **proxies, OPENAI_BASE_URL=home.url + "/v1") as server:
        assert server.run().status_code == 200
        assert server.client.get("/readyz").status_code == 200
        assert "gets no key: OPENAI_API_KEY is for OPENAI_BASE_URL" in server.log() and "home-key" not in server.log()
    assert home.keys() == {"Bearer home-key"} and away.keys() == {None} and keyed.keys() == {"Bearer keyed-key"}
    assert proxy.taken == []
    endpoint.close()


@pytest.mark.parametrize("base", ["{home}/v1/../other", "{home}/other/v1", "{home}/v1x", "http://localhost:{port}/v1"])
def test_another_path_or_name_of_the_same_server_gets_no_key(tmp_path: Path, base: str, endpoint: Endpoint) -> None:
    home = Recorder()
    place = base.format(home=home.url, port=home.server.server_port)
    with serving(tmp_path, endpoint, TWO_PLACES, OPENAI_API_KEY="home-key", AWAY=place, KEYED=place, KEYED_KEY="k",
                 OPENAI_BASE_URL=home.url + "/v1") as server:  # fmt: skip
        server.run()
    assert {headers.get("authorization") for path, headers, body in home.taken if b'"away"' in body} == {None}


def test_a_redirect_gets_no_key_and_no_prompt(tmp_path: Path, endpoint: Endpoint) -> None:
    thief = Recorder()
    home = Recorder(lambda path: (307, {"Location": thief.url + path}, b""))
    with serving(tmp_path, endpoint, OPENAI_API_KEY="home-key", OPENAI_BASE_URL=home.url + "/v1") as server:
        assert "HTTP 307" in server.run().json()["error"]["message"]
        server.client.get("/readyz")
    assert thief.taken == [] and home.keys() == {"Bearer home-key"}


SHOP = """
schema_version: "1.0"
flow: {name: shop}
state: {fields: {topic: {type: str, required: true}, out: {type: str}}}
nodes:
  - id: use
    prompt: "use {topic}"
    outputs: [out]
    output_schema: {type: str}
    tools:
      - name: http
        on_error: continue
        config:
          {name: find, url: "${SHOP}/orders?tenant=7&sort=a%20b", method: GET,
           parameters: {type: object, properties: {number: {type: integer, minimum: 1}, tenant: {type: string}},
                        required: [number], additionalProperties: false}}
      - calculate
edges: [{from: START, to: use}, {from: use, to: END}]
config: {llm: {model: m}}
"""


def run_calls(tmp_path: Path, calls: list[tuple[str, str]]) -> tuple[list[str], Recorder, dict[str, Any]]:
    """What the model is told about each of its calls of tools."""
    shop, told = Recorder(lambda path: (200, {}, b"found")), list[str]()
    ahead = list(calls)

    class Model(Endpoint):
        def answer(self, handler: Any, body: dict[str, Any]) -> None:
            if body["messages"][-1]["role"] == "tool":
                told.append(body["messages"][-1]["content"])
            message: dict[str, Any] = {"content": "done"}
            if ahead:
                name, arguments = ahead.pop(0)
                message = {"content": None, "tool_calls": [{"id": "1", "function": {"name": name, "arguments": arguments}}]}
            handler.write(200, json.dumps({"choices": [{"message": message}]}).encode())

    model = Model()
    with serving(tmp_path, model, SHOP.replace("{llm: {model: m}}", "{llm: {model: m}, execution: {tool_rounds: 40}}"),
                 SHOP=shop.url) as server:  # fmt: skip
        ended = server.run().json()
    model.close()
    return told, shop, ended


def test_a_tool_keeps_its_query_and_takes_only_arguments_that_fit(tmp_path: Path) -> None:
    calls = [
        '{"number": 5}', '{"number": "5"}', "{}", '{"number": 0}', '{"number": 5, "x": 1}', '{"number": 5, "tenant": "8"}',
        "[" * 3000, "[]", '{"number": ' + "9" * 5000 + "}",
    ]  # fmt: skip
    told, shop, ended = run_calls(tmp_path, [("find", text) for text in calls])
    assert [path for path, _headers, _body in shop.taken] == ["/orders?tenant=7&sort=a%20b&number=5"]
    assert told[0] == "found" and ended["status"] == "completed", ended
    assert [words in text for words, text in zip(
        ("not of type integer", "number is missing", ">= 1", "x: it is not allowed", "own value of tenant", "nested too deeply",
         "not a JSON object", "not a JSON object"), told[1:], strict=True)] == [True] * 8, told  # fmt: skip
