"""The server of a workflow as a process: its answers, its refusals, and its handling of a misbehaving endpoint."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import REPO
from workflowserver import PACKAGE, THREE, Endpoint, Reply, Server, serving, wait_until

EXAMPLES = REPO / "examples" / "workflows"


# --- 200, 202, one execution


def test_a_run_within_the_time_limit_is_a_200_with_only_the_declared_outputs(tmp_path: Path, endpoint: Endpoint) -> None:
    with serving(tmp_path, endpoint) as server:
        answer = server.run()
        told = answer.json()
        assert answer.status_code == 200 and told["status"] == "completed" and told["outputs"] == {"c": "said: three tea"}
        assert [step["node"] for step in told["nodes"]] == ["one", "two", "three"] and told["usage"]["prompt_tokens"] == 9
        schema = server.client.get("/schema").json()
        assert list(schema["outputs"]["properties"]) == ["c"] and list(schema["inputs"]["properties"]) == ["topic"]


def test_a_run_that_takes_longer_is_a_202_and_runs_once(tmp_path: Path, endpoint: Endpoint) -> None:
    """Earlier servers ran it twice: the thread continued, and a background task started it again."""
    endpoint.behave = lambda prompt: Reply(delay=0.6)
    with serving(tmp_path, endpoint, WORKFLOW_TIMEOUT="0.5") as server:
        answer = server.run()
        assert answer.status_code == 202 and answer.headers["Retry-After"] == "1"
        assert answer.headers["Location"] == f"/status/{answer.json()['job_id']}"
        ended = server.wait_for(answer.json()["job_id"])
        assert ended["status"] == "completed" and ended["outputs"] == {"c": "said: three tea"}
        time.sleep(1)
        assert endpoint.calls == ["one tea", "two tea", "three tea"]


@pytest.mark.parametrize(
    ("prefer", "status", "least", "most"),
    [
        ("respond-async", 202, 0, 4),
        ("respond-async, wait=1", 202, 0.9, 4),
        ("wait=1", 202, 0.9, 4),
        ("handling=lenient", 200, 4.5, 60),
    ],
)
def test_the_prefer_header_selects_a_synchronous_or_an_asynchronous_answer(
    tmp_path: Path, endpoint: Endpoint, prefer: str, status: int, least: float, most: float
) -> None:
    endpoint.behave = lambda prompt: Reply(delay=1.5)
    with serving(tmp_path, endpoint) as server:
        began = time.monotonic()
        answer = server.run(Prefer=prefer)
        assert answer.status_code == status and least <= time.monotonic() - began <= most
        assert (answer.headers.get("Preference-Applied") == "respond-async") == (status == 202)


def test_a_run_completes_after_its_client_disconnects(tmp_path: Path, endpoint: Endpoint) -> None:
    endpoint.behave = lambda prompt: Reply(delay=0.4)
    with serving(tmp_path, endpoint) as server:
        with pytest.raises(httpx.ReadTimeout):
            server.client.post("/run", json={"topic": "tea"}, timeout=0.3)
        (job,) = server.client.get("/jobs").json()["jobs"]
        assert server.wait_for(job["job_id"])["status"] == "completed" and len(endpoint.calls) == 3


# --- idempotency


def test_one_key_is_one_execution_however_often_it_is_sent(tmp_path: Path, endpoint: Endpoint) -> None:
    endpoint.behave = lambda prompt: Reply(delay=0.1)
    with serving(tmp_path, endpoint) as server, ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _unused: server.run(Idempotency_Key="k-1"), range(50)))
        assert {answer.status_code for answer in answers} == {200} and len({answer.json()["job_id"] for answer in answers}) == 1
        assert len(endpoint.calls) == 3
        assert server.run().json()["job_id"] != answers[0].json()["job_id"]
        other = server.run("coffee", Idempotency_Key="k-1")
        assert other.status_code == 422 and "other inputs" in other.json()["error"]["message"]
        assert server.run(Idempotency_Key="x" * 256).status_code == 400


# --- jobs


def test_jobs_are_listed_cancelled_and_deleted(tmp_path: Path, endpoint: Endpoint) -> None:
    endpoint.behave = lambda prompt: Reply(delay=5 if "slow" in prompt else 0)
    with serving(tmp_path, endpoint) as server:
        done, slow = server.run().json()["job_id"], server.submit("slow")
        wait_until(lambda: endpoint.open == 1)
        assert server.status(slow)["at"] == ["one"]
        assert server.client.delete(f"/jobs/{slow}").status_code == 409
        cancelled = server.client.post(f"/jobs/{slow}/cancel")
        assert cancelled.status_code == 200 and cancelled.json()["status"] == "cancelled"
        wait_until(lambda: server.client.get("/health").json()["jobs_running"] == 0, 3)
        assert server.client.post(f"/jobs/{slow}/cancel").status_code == 200
        assert server.client.post(f"/jobs/{done}/cancel").status_code == 409
        page = server.client.get("/jobs", params={"limit": 1}).json()
        rest = server.client.get("/jobs", params={"before": page["next"]}).json()
        assert [job["job_id"] for job in (*page["jobs"], *rest["jobs"])] == [slow, done]
        assert [job["job_id"] for job in server.client.get("/jobs?status=completed").json()["jobs"]] == [done]
        assert server.client.delete(f"/jobs/{done}").status_code == 204
        assert server.client.get(f"/status/{done}").status_code == server.client.delete(f"/jobs/{done}").status_code == 404
        assert endpoint.calls.count("two slow") == 0


def test_finished_jobs_expire(tmp_path: Path, endpoint: Endpoint) -> None:
    with serving(tmp_path, endpoint, WORKFLOW_JOB_TTL="2") as server:
        job = server.run().json()["job_id"]
        assert server.status(job)["status"] == "completed"
        wait_until(lambda: server.client.get(f"/status/{job}").status_code == 404, 10)


@pytest.mark.parametrize("path", ["0" * 32, "x", "../jobs", "..%2f..%2fetc%2fpasswd", "%00", "' OR 1=1 --", "a" * 5000, "%ff%fe"])
def test_unknown_ids_and_path_tricks_are_404(tmp_path: Path, endpoint: Endpoint, server: Server, path: str) -> None:
    for method, prefix, suffix in (("GET", "/status/", ""), ("POST", "/jobs/", "/cancel"), ("DELETE", "/jobs/", "")):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.putrequest(method, (prefix + path + suffix).replace(" ", "%20"), skip_host=False)
        connection.putheader("Content-Length", "0")
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status in (404, 405), (method, path, answer.status)
        assert b"Traceback" not in answer.read() and server.answers()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that only look at answers."""
    shared = Endpoint()
    with serving(tmp_path_factory.mktemp("server"), shared) as made:
        yield made
    shared.close()


# --- invalid requests

JSON_TYPE = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"{", []),
        (b"[]", []),
        (b"null", []),
        (b'"text"', []),
        (b"\xff\xfe", []),
        (b'{"topic": NaN}', ["topic"]),
        (b"{}", ["topic"]),
        (b'{"topic": 3}', ["topic"]),
        (b'{"topic": null}', ["topic"]),
        (b'{"topic": ["a"]}', ["topic"]),
        (b'{"topic": "a", "tpoic": "b"}', ["tpoic"]),
        (b'{"topic": "a", "a": "the caller may not set what nodes write"}', ["a"]),
        (b'{"topic": "\\ud800"}', []),
        (b"[" * 20000, []),
    ],
)
def test_wrong_inputs_are_a_422_with_their_location(server: Server, body: bytes, where: list[str]) -> None:
    answer = server.client.post("/run", content=body, headers=JSON_TYPE)
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"][0]["loc"] == ["body", *where]


def test_all_wrong_inputs_are_reported_at_once_without_their_values(server: Server) -> None:
    answer = server.client.post("/run", json={"topic": 3, "password": "hunter2"})
    assert {tuple(one["loc"]) for one in answer.json()["detail"]} == {("body", "topic"), ("body", "password")}
    assert "hunter2" not in answer.text


def test_a_body_of_10_mb_is_refused_before_it_is_read(server: Server) -> None:
    big = b'{"topic": "' + b"x" * 10_000_000 + b'"}'
    announced = server.client.post("/run", content=big, headers=JSON_TYPE)
    assert announced.status_code == 413

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(big), 65536):
            yield big[start : start + 65536]

    chunked = server.client.post("/run", content=pieces(), headers=JSON_TYPE)
    assert chunked.status_code == 413 and server.run().status_code == 200


def test_other_bodies_and_methods_are_refused(server: Server) -> None:
    assert server.client.post("/run", content=b'{"topic": "a"}', headers={"Content-Type": "text/plain"}).status_code == 415
    assert server.client.post("/run", data={"topic": "a"}).status_code == 415
    assert server.client.post("/run").status_code == 415
    assert server.client.get("/run").status_code == 405 and server.client.get("/nothing").status_code == 404
    cross = server.client.post("/run", json={"topic": "a"}, headers={"Sec-Fetch-Site": "cross-site"})
    assert cross.status_code == 403
    assert server.client.get("/jobs?limit=0").status_code == server.client.get("/jobs?statsu=x").status_code == 422


def test_an_incomplete_request_does_not_block_others(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as stuck:
        stuck.sendall(b"POST /run HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        assert server.run().status_code == 200


# --- the queue limit


def test_requests_beyond_the_queue_are_a_429_and_accepted_ones_complete(tmp_path: Path, endpoint: Endpoint) -> None:
    endpoint.behave = lambda prompt: Reply(delay=0.3)
    with serving(tmp_path, endpoint, WORKFLOW_CONCURRENCY="2", WORKFLOW_QUEUE="3") as server, ThreadPoolExecutor(20) as pool:
        assert server.run("first").status_code == 200
        answers = list(pool.map(lambda n: server.run(str(n), Prefer="respond-async"), range(20)))
        refused = [answer for answer in answers if answer.status_code == 429]
        taken = [answer.json()["job_id"] for answer in answers if answer.status_code == 202]
        assert len(refused) + len(taken) == 20 and 3 <= len(taken) <= 8
        assert all(1 <= int(answer.headers["Retry-After"]) <= 60 for answer in refused)
        assert all(server.wait_for(job)["status"] == "completed" for job in taken)
        assert endpoint.most_open <= 2
        assert f'reason="busy"}} {len(refused)}.0' in server.client.get("/metrics").text


def test_a_thousand_jobs_at_once_each_run_once(tmp_path: Path, endpoint: Endpoint) -> None:
    with serving(tmp_path, endpoint, WORKFLOW_QUEUE="1000", WORKFLOW_CONCURRENCY="16") as server:
        limits = httpx.Limits(max_connections=64)
        with httpx.Client(base_url=server.url, timeout=120, limits=limits) as client, ThreadPoolExecutor(64) as pool:

            def submit(number: int) -> httpx.Response:
                return client.post("/run", json={"topic": f"#{number}#"}, headers={"Prefer": "respond-async"})

            answers = list(pool.map(submit, range(1000)))
        assert {answer.status_code for answer in answers} == {202}
        wait_until(lambda: "workflow_jobs_pending 0.0" in server.client.get("/metrics").text, 120, 0.3)
        jobs = [server.wait_for(answer.json()["job_id"]) for answer in answers]
        assert {job["status"] for job in jobs} == {"completed"} and endpoint.most_open <= 16
        assert sorted(endpoint.calls) == sorted(
            f"{node} #{number}#" for node in ("one", "two", "three") for number in range(1000)
        )


# --- the API key


def test_with_a_key_only_the_health_paths_are_open(tmp_path: Path, endpoint: Endpoint) -> None:
    (tmp_path / "key").write_text("first-key\nsecond-key\n")
    (tmp_path / "model-key").write_text("model-s3cret\n")
    keys = {"WORKFLOW_API_KEY_FILE": str(tmp_path / "key"), "OPENAI_API_KEY_FILE": str(tmp_path / "model-key")}
    with serving(tmp_path, endpoint, **keys) as server:
        for path in ("/livez", "/readyz", "/health"):
            assert server.client.get(path).status_code == 200
        for path in ("/", "/docs"):
            page = server.client.get(path)
            assert page.status_code == 200 and "three" not in page.text
        closed = [
            "/openapi.json",
            "/schema",
            "/metrics",
            "/jobs",
            "/status/" + "0" * 32,
            "/nothing",
            "/livez/",
        ]
        for path in closed:
            answer = server.client.get(path, headers={"Authorization": "Bearer wrong"})
            assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer", path
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", "//livez")
        assert connection.getresponse().status == 401 == server.run().status_code
        basic = base64.b64encode(b"anyone:second-key").decode()
        for headers in ({"Authorization": "Bearer first-key"}, {"X-API-Key": "second-key"}):
            assert server.client.post("/run", json={"topic": "t"}, headers=headers).status_code == 200
        for name, value in (("Authorization", f"Basic {basic}"), ("Authorization", "Basic ???"), ("Cookie", "key=second-key")):
            assert server.client.get("/schema", headers={name: value}).status_code == 401
        assert endpoint.keys == {"Bearer model-s3cret"}
        endpoint.close()
        wait_until(lambda: server.client.get("/readyz").status_code == 503, 10, 0.2)
        for path in ("/readyz", "/health"):
            told = [server.client.get(path, headers=headers).text for headers in ({}, {"X-API-Key": "first-key"})]
            assert [endpoint.url in text for text in told] == [False, True], told
        assert endpoint.url in server.log()
        for secret in ("first-key", "second-key", "model-s3cret"):
            assert secret not in server.log()
            assert secret.encode() not in (tmp_path / "jobs.sqlite").read_bytes() + (tmp_path / "jobs.sqlite-wal").read_bytes()


# --- endpoints that misbehave

GOOD = None


@pytest.mark.parametrize(
    "first",
    [
        Reply(status=500, raw=b"oops"),
        Reply(status=429, raw=b"{}", headers={"Retry-After": "0"}),
        Reply(raw=b"<html>garbage"),
        Reply(raw=b"[1, 2]"),
        Reply(raw=b'{"choices": []}'),
        Reply(raw=b'{"choices": [{"message": {"content": null}}]}'),
        Reply(raw=b'data: {"choices": [{"delta": {"content": "half'),
        Reply(text="   "),
        Reply(cut=True),
        Reply(raw=b"\x1f\x8b garbage", headers={"Content-Encoding": "gzip"}),
    ],
    ids=lambda reply: repr(reply.raw or reply.text or "cut")[:30],
)
def test_a_transient_fault_of_the_endpoint_is_retried(tmp_path: Path, endpoint: Endpoint, first: Reply) -> None:
    replies = [first]
    endpoint.behave = lambda prompt: replies.pop() if replies else GOOD
    with serving(tmp_path, endpoint) as server:
        answer = server.run()
        assert answer.status_code == 200, answer.text
        assert len(endpoint.calls) == 4 and answer.json()["usage"]["retries"] == 1


@pytest.mark.parametrize(
    ("reply", "words", "calls"),
    [
        (Reply(status=500, raw=b'{"error": {"message": "no memory"}}'), "HTTP 500: no memory after 3 calls", 3),
        (Reply(status=429, headers={"Retry-After": "0"}, raw=b""), "HTTP 429", 3),
        (Reply(status=401, raw=b'{"error": "bad key"}'), "HTTP 401: bad key", 1),
        (Reply(status=404, raw=b"no such model"), "HTTP 404: no such model", 1),
        (Reply(raw=b"garbage"), "the answer is not JSON", 3),
        (Reply(cut=True), "does not answer", 3),
    ],
    ids=lambda value: str(value)[:24] if isinstance(value, str) else "",
)
def test_a_permanent_fault_of_the_endpoint_is_a_502_with_its_reason(
    tmp_path: Path, endpoint: Endpoint, reply: Reply, words: str, calls: int
) -> None:
    endpoint.behave = lambda prompt: reply if prompt.startswith("two") else GOOD
    with serving(tmp_path, endpoint) as server:
        answer = server.run()
        error = answer.json()["error"]
        assert answer.status_code == 502 and words in error["message"] and error["node"] == "two" and error["kind"] == "model"
        assert endpoint.count("two") == calls and endpoint.count("three") == 0
        assert server.status(answer.json()["job_id"])["error"] == error


def test_a_run_with_a_slow_model_ends_at_the_time_limit(tmp_path: Path, endpoint: Endpoint) -> None:
    endpoint.behave = lambda prompt: Reply(delay=4) if prompt.startswith("two") else GOOD
    with serving(tmp_path, endpoint, THREE.replace("timeout: 60", "timeout: 1")) as server:
        began = time.monotonic()
        answer = server.run()
        assert answer.status_code == 504 and time.monotonic() - began < 3
        assert answer.json()["error"] == {
            "kind": "timeout",
            "message": "the run took longer than 1 s (config.execution.timeout)",
            "node": "two",
        }


def test_an_unreachable_endpoint_makes_the_server_unready_but_alive(tmp_path: Path, endpoint: Endpoint) -> None:
    with serving(tmp_path, endpoint) as server:
        assert server.client.get("/readyz").json() == {"status": "ready", "checks": {"store": "ok", "models": "ok"}}
        endpoint.close()
        answer = wait_until(lambda: (got := server.client.get("/readyz")).status_code == 503 and got, 10, 0.2)
        assert endpoint.url in answer.json()["checks"]["models"]
        assert server.client.get("/health").json()["status"] == "unhealthy" and server.client.get("/livez").status_code == 200
        failed = server.run()
        assert failed.status_code == 502 and "does not answer" in failed.json()["error"]["message"]


def test_a_secret_in_the_endpoints_url_is_not_shown(tmp_path: Path, endpoint: Endpoint) -> None:
    url = "http://user:url-s3cret@127.0.0.1:1/v1?key=query-s3cret"
    with serving(tmp_path, endpoint, OPENAI_BASE_URL=url) as server:
        told = server.client.get("/readyz").text + server.run().text + server.client.get("/health").text + server.log()
        assert "http://127.0.0.1:1/v1 does not answer" in told and "s3cret" not in told


# --- tools and callbacks


class Sink:
    """A service on loopback that records its requests. statuses: its next answers, then 200."""

    def __init__(self, *statuses: int) -> None:
        self.taken: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.statuses = list(statuses)
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_words: Any) -> None:
                return

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                sink.taken.append((body, dict(self.headers)))
                self.send_response(sink.statuses.pop(0) if sink.statuses else 200)
                self.end_headers()
                self.wfile.write(b"41 plus 1 is 42")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


def test_a_callback_is_retried_until_accepted_and_sent_only_to_allowed_hosts(tmp_path: Path, endpoint: Endpoint) -> None:
    sink = Sink(500)
    with serving(tmp_path, endpoint, WORKFLOW_CALLBACK_HOSTS="127.0.0.1") as server:
        job = server.run(Callback_URL=sink.url).json()["job_id"]
        wait_until(lambda: len(sink.taken) == 2, 20)
        assert [body["job_id"] for body, _unused in sink.taken] == [job, job] and sink.taken[1][0]["outputs"] == {
            "c": "said: three tea"
        }
        assert sink.taken[1][1]["Idempotency-Key"] == job
        for url in (
            "http://10.0.0.1/",
            "file:///etc/passwd",
            "http://127.0.0.1@10.0.0.1/",
            "http://127.0.0.1.evil/",
            "http://[",
            "x",
        ):
            assert server.run(Callback_URL=url).status_code == 400, url
    sink.server.shutdown()


TOOL = """
schema_version: "1.0"
flow: {name: tool}
state: {fields: {topic: {type: str, required: true}, out: {type: str}}}
nodes:
  - id: use
    prompt: "use {topic}"
    outputs: [out]
    output_schema: {type: object, fields: [{name: out, type: str}]}
    tools: [{name: http, config: {name: add_one, url: "${ADDER}", headers: {X-Key: "${ADDER_KEY}"}}}]
edges: [{from: START, to: use}, {from: use, to: END}]
config: {llm: {model: m}}
"""


def test_a_run_past_the_time_limit_calls_its_tool_once(tmp_path: Path, endpoint: Endpoint) -> None:
    sink = Sink()
    call = {"id": "1", "type": "function", "function": {"name": "add_one", "arguments": '{"n": 41}'}}
    asking = json.dumps({"choices": [{"message": {"content": None, "tool_calls": [call]}}]}).encode()
    replies = [Reply(text='{"out": "42"}', delay=1.5), Reply(raw=asking)]
    endpoint.behave = lambda prompt: replies.pop()
    with serving(tmp_path, endpoint, TOOL, WORKFLOW_TIMEOUT="0.5", ADDER=sink.url, ADDER_KEY="k") as server:
        answer = server.run()
        assert answer.status_code == 202
        assert server.wait_for(answer.json()["job_id"])["outputs"] == {"out": "42"}
        assert [body for body, _unused in sink.taken] == [{"n": 41}] and sink.taken[0][1]["X-Key"] == "k"
    sink.server.shutdown()


# --- starting


def start_and_read(folder: Path, **environment: str) -> tuple[int, str]:
    made = {"PATH": "/usr/bin", "PYTHONPATH": str(PACKAGE), **environment}
    done = subprocess.run(
        [sys.executable, "-m", "anvil_workflow", "serve"],
        env=made,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        check=False,
    )
    return done.returncode, done.stderr


def test_all_invalid_settings_are_reported_at_once(tmp_path: Path) -> None:
    code, said = start_and_read(
        tmp_path,
        PORT="x",
        WORKFLOW_TIMEOUT="-1",
        WORKFLOW_JOBS="mysql://x",
        WORKFLOW_API_KEY_FILE="/nothing",
        MLFLOW_TRACKING_URI="file:x",
    )
    assert code == 2 and "Traceback" not in said
    for name in ("PORT", "WORKFLOW_TIMEOUT", "WORKFLOW_JOBS", "WORKFLOW_API_KEY_FILE", "MLFLOW_TRACKING_URI"):
        assert name in said
    (tmp_path / "w.yaml").write_text(THREE)
    code, said = start_and_read(tmp_path, WORKFLOW_FILE="w.yaml", WORKFLOW_JOBS=f"sqlite:///{tmp_path}/j")
    assert code == 2 and "OPENAI_BASE_URL is not set" in said and "Traceback" not in said
    (tmp_path / "w.yaml").write_text(THREE.replace("to: two", "to: tow"))
    code, said = start_and_read(tmp_path, WORKFLOW_FILE="w.yaml")
    assert code == 2 and "did you mean two?" in said


def test_the_server_becomes_ready_and_uses_little_memory_when_idle(tmp_path: Path, endpoint: Endpoint) -> None:
    began = time.monotonic()
    with serving(tmp_path, endpoint) as server:
        wait_until(lambda: server.client.get("/readyz").status_code == 200, 5)
        seconds = time.monotonic() - began
        server.run()
        assert server.process is not None
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        resident = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]
        print(f"ready in {seconds:.2f} s, {resident:.0f} MiB")
        assert resident < 100


# --- the document and the examples


FRESH_KEYS = """
import uuid

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and 0 < len(key) <= 200:
        case.headers["Idempotency-Key"] = f"{key}{uuid.uuid4().hex}"
"""


def test_schemathesis_finds_no_deviation_from_the_openapi_document(tmp_path: Path, endpoint: Endpoint) -> None:
    text = (EXAMPLES / "extract.yaml").read_text()
    with serving(tmp_path, endpoint, text) as server:
        words = [
            "run",
            f"{server.url}/openapi.json",
            "--max-examples",
            "25",
            "--seed",
            "1",
            "--no-color",
            "--request-timeout",
            "30",
        ]
        tool = Path(sys.executable).parent / "schemathesis"
        # Schemathesis reuses a key with other inputs, and would report the refusal as a failure.
        (tmp_path / "hooks.py").write_text(FRESH_KEYS)
        hooked = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(
            [str(tool), *words], capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path, env=hooked
        )
        assert done.returncode == 0, done.stdout[-6000:]
        assert server.answers() and "Traceback" not in server.log()


@pytest.mark.parametrize(
    ("name", "inputs", "nodes"),
    [
        ("linear", {"topic": "tea"}, ["write", "find_title"]),
        ("review_loop", {"topic": "green tea", "depth": "long"}, ["plan", "write_draft", "review"]),
        ("extract", {"text": "Ada was in London."}, ["extract"]),
    ],
)
def test_the_examples_run(tmp_path: Path, endpoint: Endpoint, name: str, inputs: dict[str, Any], nodes: list[str]) -> None:
    with serving(tmp_path, endpoint, (EXAMPLES / f"{name}.yaml").read_text()) as server:
        answer = server.client.post("/run", json=inputs)
        assert answer.status_code == 200, answer.text
        assert [step["node"] for step in answer.json()["nodes"]] == nodes and all(answer.json()["outputs"].values()) is not None


def test_a_stop_answers_waiting_clients_and_the_next_start_continues_their_runs(tmp_path: Path, endpoint: Endpoint) -> None:
    endpoint.behave = lambda prompt: Reply(delay=3) if prompt.startswith("two") else GOOD
    with serving(tmp_path, endpoint, WORKFLOW_DRAIN="0.5") as server, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.run)
        wait_until(lambda: endpoint.count("two") == 1)
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        answer = waiting.result(10)
        assert answer.status_code == 202
        assert server.process.wait(10) in (0, -signal.SIGTERM)
        endpoint.behave = lambda prompt: GOOD
        server.start()
        ended = server.wait_for(answer.json()["job_id"])
        assert ended["status"] == "completed" and endpoint.count("one") == 1 and endpoint.count("two") == 2
