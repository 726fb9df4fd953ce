"""Faults of a workflow's server: kill -9 at any moment, a full disk, a replica that wakes after takeover, a killed database."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from anvil_workflow.stores.jobs import Store
from anvil_workflow.stores.postgres import PostgresStore
from bed import Bed
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from workflowserver import THREE, Endpoint, Reply, Server, free_port, serving, wait_until
from workflowstore import PROMISES, keep

# --- SQLite


def test_a_killed_run_continues_at_its_first_unfinished_node(tmp_path: Path, endpoint: Endpoint) -> None:
    endpoint.behave = lambda prompt: Reply(delay=30) if prompt.startswith("two") and endpoint.count("two") == 1 else None
    with serving(tmp_path, endpoint) as server:
        job = server.submit(Idempotency_Key="k")
        wait_until(lambda: endpoint.count("two") == 1)
        server.kill()
        server.start()
        ended = server.wait_for(job)
        assert ended["status"] == "completed" and ended["outputs"] == {"c": "said: three tea"}
        assert endpoint.calls == ["one tea", "two tea", "two tea", "three tea"]
        assert [step["node"] for step in ended["nodes"]] == ["one", "two", "three"]
        again = server.run(Idempotency_Key="k")
        assert again.status_code == 200 and again.json()["job_id"] == job and len(endpoint.calls) == 4


def test_kills_at_any_moment_lose_no_job_and_repeat_no_finished_node(tmp_path: Path, endpoint: Endpoint) -> None:
    """Ten kills under load. Every accepted job completes; no finished node of a job runs again; each kill may repeat one
    call for each run that was at a node then."""
    chance = random.Random(7)
    endpoint.behave = lambda prompt: Reply(delay=chance.uniform(0, 0.05))
    accepted: dict[int, str] = {}
    repeated_most = 0
    with serving(tmp_path, endpoint, WORKFLOW_CONCURRENCY="4") as server, ThreadPoolExecutor(8) as pool:
        number = 0
        for _unused in range(10):

            def submit(topic: int) -> tuple[int, str] | None:
                with contextlib.suppress(httpx.HTTPError):
                    headers = {"Prefer": "respond-async", "Idempotency-Key": f"k{topic}"}
                    answer = server.client.post("/run", json={"topic": f"#{topic}#"}, headers=headers)
                    if answer.status_code == 202:
                        return topic, answer.json()["job_id"]
                return None

            sent = [pool.submit(submit, number + n) for n in range(15)]
            number += 15
            time.sleep(chance.uniform(0.02, 0.4))
            assert server.process is not None
            server.process.send_signal(signal.SIGKILL)
            accepted.update(found for future in sent if (found := future.result()) is not None)
            server.kill()
            repeated_most += 4
            server.start()
        ended = {topic: server.wait_for(job, 60) for topic, job in accepted.items()}
        assert len(accepted) > 20 and {job["status"] for job in ended.values()} == {"completed"}
        assert {job["outputs"]["c"] for job in ended.values()} == {f"said: three #{topic}#" for topic in accepted}
        wait_until(lambda: server.client.get("/health").json()["jobs_running"] == 0)
        asked = Counter(endpoint.calls)
        assert sum(count - 1 for count in asked.values()) <= repeated_most
        assert all([step["node"] for step in job["nodes"]] == ["one", "two", "three"] for job in ended.values())
        for topic in accepted:
            order = [call.split()[0] for call in endpoint.calls if call.endswith(f"#{topic}#")]
            assert order == sorted(order, key=["one", "two", "three"].index), "a finished node ran again"
        for topic, job in list(accepted.items())[:5]:
            answer = server.client.post("/run", json={"topic": f"#{topic}#"}, headers={"Idempotency-Key": f"k{topic}"})
            assert answer.json()["job_id"] == job
        assert Counter(endpoint.calls) == asked


def test_a_run_that_is_faster_than_its_first_write_is_not_taken_over(tmp_path: Path, endpoint: Endpoint) -> None:
    """Another process locks the file: the run continues to its first save, and is not treated as lost at lease renewal."""
    with serving(tmp_path, endpoint, WORKFLOW_LEASE="1") as server, ThreadPoolExecutor(1) as pool:
        assert server.run().status_code == 200
        with contextlib.closing(sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = pool.submit(server.run, "late")
            wait_until(lambda: endpoint.count("one late") == 1)
            time.sleep(1)
            assert len(server.client.get("/jobs").json()["jobs"]) == 1 and endpoint.count("two late") == 0
            other.execute("ROLLBACK")
        assert waiting.result().status_code == 200 and endpoint.calls[3:] == ["one late", "two late", "three late"]


def test_a_run_that_repeatedly_ends_the_server_fails_with_its_reason(tmp_path: Path, endpoint: Endpoint) -> None:
    endpoint.behave = lambda prompt: Reply(delay=30) if "poison" in prompt else None
    with serving(tmp_path, endpoint) as server:
        job = server.submit("poison")
        for attempt in range(1, 4):
            wait_until(lambda asked=attempt: len(endpoint.calls) == asked)
            server.kill()
            if attempt == 1:
                with contextlib.closing(sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)) as file:
                    assert file.execute("UPDATE jobs SET attempts = attempts + 7 RETURNING attempts").fetchall() == [(8,)]
            server.start()
        ended = server.wait_for(job)
        assert ended["status"] == "failed" and "given up: the server ended 10 times" in ended["error"]["message"]
        assert server.run().status_code == 200


def test_a_full_disk_is_reported_and_loses_no_job(tmp_path: Path, endpoint: Endpoint) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    try:
        endpoint.behave = lambda prompt: Reply(delay=2) if prompt == "two held" else None
        with serving(tmp_path, endpoint, WORKFLOW_JOBS=f"sqlite:///{disk}/jobs.sqlite", WORKFLOW_TIMEOUT="1") as server:
            held = server.submit("held")
            wait_until(lambda: endpoint.count("two") == 1)
            ballast = disk / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
                while True:
                    stream.write(b"x" * 4096)
            refused = wait_until(lambda: (answer := server.run("x" * 9000)).status_code == 503 and answer, 20)
            assert "full" in refused.json()["error"]["message"] and refused.headers["Retry-After"] == "5"
            # A refused run is stopped, although it began while its job was being written.
            assert server.client.get("/health").json()["jobs_running"] == 1 and endpoint.count("two") == 1
            assert wait_until(lambda: server.client.get("/readyz").status_code == 503)
            assert server.client.get("/livez").status_code == 200 and server.status(held)["status"] == "running"
            wait_until(lambda: "a job waits for its store" in server.log(), 20)
            ballast.unlink()
            assert server.wait_for(held)["status"] == "completed" and endpoint.count("two held") == 1
            wait_until(lambda: server.client.get("/readyz").status_code == 200, 15)
            assert server.run().status_code == 200
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_dead_or_silent_mlflow_does_not_slow_a_run(tmp_path: Path, endpoint: Endpoint) -> None:
    """Medians of runs without tracing, with an MLflow that refuses, and with one that accepts connections and does not answer."""
    import socket

    silent = socket.create_server(("127.0.0.1", 0))

    def median(folder: Path, **environment: str) -> float:
        folder.mkdir()
        with serving(folder, endpoint, **environment) as server:
            times = []
            for _unused in range(40):
                began = time.monotonic()
                assert server.run().status_code == 200
                times.append(time.monotonic() - began)
            return sorted(times)[20]

    without = median(tmp_path / "without")
    dead = median(tmp_path / "dead", MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
    hanging = median(tmp_path / "hanging", MLFLOW_TRACKING_URI=f"http://127.0.0.1:{silent.getsockname()[1]}")
    silent.close()
    print(f"median run: {without * 1000:.1f} ms, dead MLflow {dead * 1000:.1f} ms, silent {hanging * 1000:.1f} ms")
    assert max(dead, hanging) < without * 2 + 0.05


class Collector:
    """Serves the addresses of MLflow that traces need; it parses received spans with OpenTelemetry's own messages. deletions: the
    requests to delete traces. refusing: it refuses them.
    """

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.deletions: list[dict[str, Any]] = []
        self.refusing = False
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_words: Any) -> None:
                return

            def do_GET(self) -> None:
                self.write(b'{"experiment": {"experiment_id": "7"}}')

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path.endswith("/delete-traces"):
                    collector.deletions.append(json.loads(body))
                    self.write(b'{"traces_deleted": 1}', 500 if collector.refusing else 200)
                    return
                read = ExportTraceServiceRequest.FromString(body)
                assert self.headers["x-mlflow-experiment-id"] == "7"
                collector.spans += read.resource_spans[0].scope_spans[0].spans
                self.write(b"{}")

            def write(self, body: bytes, status: int = 200) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


SILENT = THREE.replace('{id: two, prompt: "two {topic}"', '{id: two, log_prompts: false, prompt: "two {topic}"')


def test_a_resumed_run_is_one_trace_without_the_texts_of_a_silent_node(tmp_path: Path, endpoint: Endpoint) -> None:
    collector = Collector()
    endpoint.behave = lambda prompt: Reply(delay=3) if prompt.startswith("two") and endpoint.count("two") == 1 else None
    settings = {"MLFLOW_TRACKING_URI": collector.url, "WORKFLOW_DRAIN": "0.2"}
    with serving(tmp_path, endpoint, SILENT, **settings) as server:
        job = server.submit("a-topic-of-its-own")
        wait_until(lambda: endpoint.count("two") == 1)
        server.kill(signal.SIGTERM)
        server.start()
        server.wait_for(job)
        wait_until(lambda: any(not span.parent_span_id for span in collector.spans))
    assert {span.trace_id.hex() for span in collector.spans} == {job}
    roots = [span for span in collector.spans if not span.parent_span_id]
    assert len(roots) == 1 and {"one", "two", "three"} <= {span.name for span in collector.spans}
    ids = {span.span_id for span in collector.spans}
    assert all(span.parent_span_id in ids for span in collector.spans if span.parent_span_id)
    shown = [span.name for span in collector.spans if "a-topic-of-its-own" in str(span)]
    silent = {span.span_id for span in collector.spans if span.name == "two"}
    assert sorted(set(shown)) == ["model m", "one", "three"]
    assert not [span for span in collector.spans if span.parent_span_id in silent and "a-topic" in str(span)]
    collector.server.shutdown()


def test_without_log_prompts_no_text_of_others_reaches_a_trace(tmp_path: Path, endpoint: Endpoint) -> None:
    """Neither inputs nor answers, and no text of an error: an endpoint may repeat the prompt in it."""
    collector = Collector()
    endpoint.behave = lambda prompt: (
        Reply(status=400, raw=f'{{"error": "cannot answer {prompt}"}}'.encode()) if "two" in prompt else None
    )
    with serving(tmp_path, endpoint, MLFLOW_TRACKING_URI=collector.url, WORKFLOW_LOG_PROMPTS="false") as server:
        assert "cannot answer two a-topic-of-its-own" in server.run("a-topic-of-its-own").json()["error"]["message"]
        wait_until(lambda: any(not span.parent_span_id for span in collector.spans))
    assert {span.name for span in collector.spans} == {"three", "one", "two", "model m"}
    assert "of-its-own" not in str(collector.spans) and "said" not in str(collector.spans)
    assert {span.status.message for span in collector.spans if span.status.code == 2} == {"model", "HTTP 400"}
    collector.server.shutdown()


def test_a_trace_is_deleted_with_its_job_and_by_age(tmp_path: Path, endpoint: Endpoint) -> None:
    collector = Collector()
    collector.refusing = True
    with serving(tmp_path, endpoint, MLFLOW_TRACKING_URI=collector.url, WORKFLOW_JOB_TTL="600") as server:
        job = server.run().json()["job_id"]
        wait_until(lambda: any(not span.parent_span_id for span in collector.spans))
        assert server.client.delete(f"/jobs/{job}").status_code == 204
        wait_until(lambda: any("request_ids" in one for one in collector.deletions))
        ready = wait_until(lambda: (found := server.client.get("/readyz").json())["status"] == "degraded" and found)
        assert "HTTP 500 for the deletion of traces" in ready["checks"]["traces"]
        assert server.client.get("/readyz").status_code == server.client.get("/health").status_code == 200
        assert "workflow_traces_failing 1.0" in server.client.get("/metrics").text
        collector.refusing = False
        wait_until(lambda: [one for one in collector.deletions if "request_ids" in one][1:], 20)
        wait_until(lambda: server.client.get("/readyz").json()["status"] == "ready", 20)
        assert "workflow_traces_failing 0.0" in server.client.get("/metrics").text
        assert [server.log().count(line) for line in ("traces do not arrive", "traces arrive at MLflow again")] == [1, 1]
        wait_until(lambda: any("max_timestamp_millis" in one and one["max_traces"] == 100 for one in collector.deletions))
    named = [one for one in collector.deletions if "request_ids" in one]
    assert {tuple(one["request_ids"]) for one in named} == {(f"tr-{job}",)} and named[0]["experiment_id"] == "7"
    aged = next(one for one in collector.deletions if "max_timestamp_millis" in one)
    assert 590 <= time.time() - aged["max_timestamp_millis"] / 1000 <= 640
    collector.server.shutdown()


def test_runs_retry_after_a_kill_of_the_model_server(tmp_path: Path, clean_bed: Bed, models: Path) -> None:
    """The model server is real; it is paused until all runs are at their first node."""
    options = ["--detach", "--name", "model", "--publish", "127.0.0.1:30009:8080", "--volume", f"{models}:/models:ro"]
    words = "anvil.local/llama-server:1 --model /models/heavy.gguf --alias m --host 0.0.0.0 --port 8080 -c 4096 -np 4"
    clean_bed.docker("run", *options, *words.split())
    server = Server(tmp_path, THREE.replace("max_retries: 2", "max_retries: 8"), "http://127.0.0.1:30009/v1").start()
    try:
        wait_until(lambda: server.run().status_code == 200)
        clean_bed.docker("pause", "model")
        jobs = [server.submit(f"topic {number}") for number in range(4)]
        wait_until(lambda: server.client.get("/health").json()["jobs_running"] == 4)
        clean_bed.docker("kill", "model")
        clean_bed.docker("start", "model")
        ended = [server.wait_for(job, 60) for job in jobs]
        assert [(job["status"], job["outputs"]) for job in ended] == [("completed", {"c": "the heavy tier answers"})] * 4
        for job in ended:
            assert [step["node"] for step in job["nodes"]] == ["one", "two", "three"]
            assert [step["retries"] > 0 for step in job["nodes"]] == [True, False, False]
    finally:
        server.kill()


# --- PostgreSQL


class Postgres:
    """A PostgreSQL for this test alone. It runs as the user postgres, because it refuses root."""

    def __init__(self, folder: Path) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        assert found, "these tests need PostgreSQL: run tests/testbed/tools.sh, or make integration"
        self.bin, self.folder, self.port = found[-1].parent, folder, free_port()
        self.process: subprocess.Popen[bytes] | None = None
        shutil.chown(folder, "postgres")
        self._call("initdb", "--auth=trust", "--username=postgres", "--no-sync", "-D", str(folder / "data"))

    def _words(self, program: str, *words: str) -> list[str]:
        return ["runuser", "-u", "postgres", "--", str(self.bin / program), *words]

    def _call(self, program: str, *words: str) -> None:
        done = subprocess.run(self._words(program, *words), capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, done.stderr

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        words = ["-D", str(self.folder / "data"), "-p", str(self.port), "-k", "", "-c", "listen_addresses=127.0.0.1"]
        with (self.folder / "log").open("ab") as stream:
            self.process = subprocess.Popen(self._words("postgres", *words), stdout=stream, stderr=stream, cwd="/")
        wait_until(self.answers)

    def answers(self) -> bool:
        async def go() -> bool:
            with contextlib.suppress(OSError, asyncpg.PostgresError, TimeoutError):
                await (await asyncpg.connect(self.url, timeout=2)).close()
                return True
            return False

        return asyncio.run(go())

    def kill(self) -> None:
        """Kill all its processes at once, as the kill of its container does."""
        lines = (self.folder / "data" / "postmaster.pid").read_text().splitlines()
        main = int(lines[0])
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(main)], capture_output=True, text=True, check=False
        ).stdout.split()
        for pid in (main, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self.process is not None
        self.process.wait(10)

    def execute(self, statement: str) -> None:
        async def go() -> None:
            connection = await asyncpg.connect(self.url)
            await connection.execute(statement)
            await connection.close()

        asyncio.run(go())


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    folder = Path(
        subprocess.run(["mktemp", "-d", "/tmp/anvil-postgres-XXXXXX"], capture_output=True, text=True, check=True).stdout.strip()
    )
    made = Postgres(folder)
    made.start()
    yield made
    made.kill()
    shutil.rmtree(folder)


@pytest.fixture
def database(postgres: Postgres) -> Postgres:
    if not postgres.answers():
        postgres.start()
    postgres.execute("DROP TABLE IF EXISTS jobs, beat")
    return postgres


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_promises_of_postgres(promise: Callable[[Store], Awaitable[None]], database: Postgres) -> None:
    keep(promise, PostgresStore(database.url, "", 15))


@contextlib.contextmanager
def two_replicas(folder: Path, endpoint: Endpoint, database: Postgres, **more: str) -> Iterator[tuple[Server, Server]]:
    common = {"WORKFLOW_JOBS": database.url, "WORKFLOW_LEASE": "2", **more}
    with contextlib.ExitStack() as stack:
        servers = []
        for name in ("one", "two"):
            (folder / name).mkdir()
            servers.append(stack.enter_context(serving(folder / name, endpoint, WORKFLOW_REPLICA=name, **common)))
        yield servers[0], servers[1]


def test_any_replica_answers_and_a_key_runs_once_across_replicas(tmp_path: Path, endpoint: Endpoint, database: Postgres) -> None:
    endpoint.behave = lambda prompt: Reply(delay=0.1)
    with two_replicas(tmp_path, endpoint, database) as (first, second), ThreadPoolExecutor(50) as pool:
        job = first.submit()
        assert second.wait_for(job)["outputs"] == {"c": "said: three tea"}
        answers = list(pool.map(lambda n: (first, second)[n % 2].run("same", Idempotency_Key="k"), range(50)))
        assert {answer.status_code for answer in answers} == {200} and len({answer.json()["job_id"] for answer in answers}) == 1
        assert endpoint.calls.count("one same") == endpoint.calls.count("three same") == 1
        slow = first.submit("slow")
        endpoint.behave = lambda prompt: Reply(delay=8)
        wait_until(lambda: "two slow" in endpoint.calls or "one slow" in endpoint.calls)
        assert second.client.post(f"/jobs/{slow}/cancel").json()["status"] == "cancelled"
        wait_until(lambda: first.client.get("/health").json()["jobs_running"] == 0, 5)
        assert first.status(slow)["status"] == "cancelled"


def test_another_replica_takes_over_the_runs_of_a_killed_one(tmp_path: Path, endpoint: Endpoint, database: Postgres) -> None:
    endpoint.behave = lambda prompt: Reply(delay=30) if prompt.startswith("two") and endpoint.calls.count(prompt) == 1 else None
    with two_replicas(tmp_path, endpoint, database) as (first, second):
        jobs = [first.submit(f"#{number}#") for number in range(5)]
        wait_until(lambda: endpoint.count("two") == 5)
        first.kill()
        began = time.monotonic()
        ended = [second.wait_for(job) for job in jobs]
        print(f"taken over after {time.monotonic() - began:.1f} s with a lease of 2 s")
        assert {job["status"] for job in ended} == {"completed"}
        assert endpoint.count("one") == 5 and endpoint.count("two") == 10 and endpoint.count("three") == 5


def test_a_replica_that_wakes_after_a_takeover_writes_nothing(tmp_path: Path, endpoint: Endpoint, database: Postgres) -> None:
    """It receives its answer for node two after another replica has completed the job with its own answer."""
    texts = iter(["the zombie's", "the heir's"])
    endpoint.behave = lambda prompt: Reply(text=next(texts), delay=0.8) if prompt.startswith("two") else None
    with two_replicas(tmp_path, endpoint, database) as (first, second):
        job = first.submit()
        wait_until(lambda: endpoint.count("two") == 1)
        assert first.process is not None
        first.process.send_signal(signal.SIGSTOP)
        ended = second.wait_for(job)
        first.process.send_signal(signal.SIGCONT)
        wait_until(lambda: first.client.get("/health").json()["jobs_running"] == 0)
        time.sleep(0.5)
        assert ended["status"] == "completed" and second.status(job) == ended == first.status(job)
        assert endpoint.count("three") == 1 and endpoint.count("two") == 2


def test_runs_wait_for_a_killed_database_and_none_is_lost(tmp_path: Path, endpoint: Endpoint, database: Postgres) -> None:
    endpoint.behave = lambda prompt: Reply(delay=1) if prompt.startswith("two") and prompt != "two after" else None
    with two_replicas(tmp_path, endpoint, database) as (first, second):
        jobs = [server.submit(f"{number}") for server in (first, second) for number in range(4)]
        wait_until(lambda: endpoint.count("two") == 8)
        database.kill()
        refused = first.run("while it is down")
        assert refused.status_code == 503 and "PostgreSQL" in refused.json()["error"]["message"]
        assert first.client.get("/readyz").status_code == 503 and first.client.get("/livez").status_code == 200
        database.start()
        ended = [second.wait_for(job, 40) for job in jobs]
        assert {job["status"] for job in ended} == {"completed"}
        wait_until(lambda: first.client.get("/readyz").status_code == 200, 20)
        assert first.run("after").status_code == 200


def test_a_stopped_replica_hands_over_its_runs_at_once(tmp_path: Path, endpoint: Endpoint, database: Postgres) -> None:
    endpoint.behave = lambda prompt: Reply(delay=3) if prompt.startswith("two") and endpoint.calls.count(prompt) == 1 else None
    with two_replicas(tmp_path, endpoint, database, WORKFLOW_DRAIN="0.2", WORKFLOW_LEASE="60") as (first, second):
        job = first.submit()
        wait_until(lambda: endpoint.count("two") == 1)
        assert first.process is not None
        first.process.send_signal(signal.SIGTERM)
        assert second.wait_for(job, 10)["status"] == "completed" and endpoint.count("one") == 1


def test_the_database_password_is_read_from_a_file_and_never_shown(
    tmp_path: Path, endpoint: Endpoint, database: Postgres
) -> None:
    secret = tmp_path / "password"
    secret.write_text("a-database-s3cret\n")
    with serving(tmp_path, endpoint, WORKFLOW_JOBS=database.url, WORKFLOW_JOBS_PASSWORD_FILE=str(secret)) as server:
        assert server.run().status_code == 200
        assert server.process is not None
        shown = (
            Path(f"/proc/{server.process.pid}/cmdline").read_bytes() + Path(f"/proc/{server.process.pid}/environ").read_bytes()
        )
        database.kill()
        told = server.run().text + server.log() + server.client.get("/readyz").text
        assert b"s3cret" not in shown and "s3cret" not in told
