"""The version of the API is negotiated with engines of every age, at the cost of one request where it can be."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker import connection
from ansible_collections.anvil.serving.plugins.module_utils.docker.connection import choose_api_version, name_engine
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine

HOST = "unix:///run/docker.sock"


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


Start = Callable[..., tuple[DockerEngine, list[str]]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a stand-in for an engine of another year: it refuses the API versions that the engine refuses, with its words."""
    servers = []

    def begin(newest: str, oldest: str, answers: Any = ()) -> tuple[DockerEngine, list[str]]:
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                asked.append(self.path)
                found = re.match(r"/v(\d+\.\d+)/", self.path)
                wanted = tuple(map(int, found[1].split("."))) if found else ()
                body: Any = (
                    {"Version": "x", "ApiVersion": newest, "MinAPIVersion": oldest} if "/version" in self.path else answers
                )
                status = 200
                if wanted and wanted < tuple(map(int, oldest.split("."))):
                    status, body = 400, {"message": f"client version is too old. Minimum supported API version is {oldest}"}
                if wanted and wanted > tuple(map(int, newest.split("."))):
                    status, body = 400, {"message": f"client version is too new. Maximum supported API version is {newest}"}
                text = body if isinstance(body, bytes) else json.dumps(list(body) if body == () else body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *words: object) -> None:
                pass

            def address_string(self) -> str:
                return "unix"

        path = os.path.join(tempfile.mkdtemp(dir="/tmp"), "s")
        servers.append(Server(path, Handler))
        threading.Thread(target=servers[-1].serve_forever, args=[0.01], daemon=True).start()
        return DockerEngine("unix://" + path), asked

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("newest", "oldest", "requests"),
    [
        ("1.44", "1.24", ["/v1.44/containers/json"]),  # Docker Engine 25
        ("1.45", "1.24", ["/v1.44/containers/json"]),  # 26
        ("1.52", "1.44", ["/v1.44/containers/json"]),  # 29.0
        ("1.52", "1.40", ["/v1.44/containers/json"]),  # 29.3
        ("1.43", "1.12", ["/v1.44/containers/json", "/version", "/v1.43/containers/json"]),  # 24
        ("1.60", "1.48", ["/v1.44/containers/json", "/version", "/v1.48/containers/json"]),
    ],
)
def test_every_supported_engine_is_spoken_to_in_a_version_that_it_takes(
    start: Start, newest: str, oldest: str, requests: list[str]
) -> None:
    engine, asked = start(newest, oldest)
    assert engine.list_containers() == []
    assert [path.partition("?")[0] for path in asked] == requests
    assert engine.list_containers() == [] and len(asked) == len(requests) + 1
    assert engine.api.api_version == engine.api_version == requests[-1].split("/")[1][1:] and len(asked) == len(requests) + 1


@pytest.mark.parametrize(
    ("newest", "oldest", "word"), [("1.41", "1.12", "too old"), ("1.24", "1.12", "too old"), ("1.70", "1.60", "too new")]
)
def test_an_engine_that_is_too_old_or_too_new_is_named_as_such(start: Start, newest: str, oldest: str, word: str) -> None:
    engine, _asked = start(newest, oldest)
    for call in (engine.list_containers, lambda: engine.api):
        with pytest.raises(AnvilError) as refused:
            call()
        (problem,) = refused.value.problems
        assert word in problem.what and newest in problem.why and oldest in problem.why and problem.hint


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ({"Version": "29.1.2", "Components": [{"Name": "Engine"}]}, "Docker Engine 29.1.2"),
        ({"Version": "5.2.2", "Components": [{"Name": "Podman Engine"}, {"Name": "Conmon"}]}, "Podman 5.2.2"),
        ({"Components": None}, "Docker Engine of unknown version"),
        ({"Version": "1", "Components": ["x", {}]}, "Docker Engine 1"),
    ],
)
def test_an_engine_is_named_as_what_it_is(told: dict[str, Any], name: str) -> None:
    assert name_engine(told) == name


@pytest.mark.parametrize("answer", [b"<html>", b"", 7, "text", ["a"]])
def test_an_answer_of_the_wrong_kind_is_one_sentence(start: Start, answer: Any) -> None:
    engine, _asked = start("1.45", "1.24", answer)
    for call in (lambda: engine.inspect_image("i"), engine.info, *[engine.list_containers] * (answer != ["a"])):
        with pytest.raises(AnvilError, match="refused to"):
            call()


@pytest.mark.parametrize(
    ("told", "chosen"),
    [
        (("", "", ""), "1.44"),  # it tells nothing: go on
        (("29", "1.52", ""), "1.44"),
        (("x", "odd", "odd"), "1.44"),
        (("24.0.9", "1.43", "1.12"), "1.43"),
        (("31", "1.55", "1.52"), "1.52"),
    ],
)
def test_what_an_engine_does_not_tell_is_no_reason_to_refuse_it(told: tuple[str, str, str], chosen: str) -> None:
    assert choose_api_version(told, HOST) == chosen


def test_nobody_who_may_not_use_the_docker_engine_can_hold_the_lock_of_the_host(tmp_path: Path) -> None:
    """Any user can open the folder of the socket, and so hold its lock for ever."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "docker.sock"))
    os.chown(tmp_path / "docker.sock", -1, os.getgid())
    engine = DockerEngine(f"unix://{tmp_path}/docker.sock")
    stranger = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(stranger, fcntl.LOCK_EX)
    with engine.lock_host():
        seen = (tmp_path / "anvil-serving.lock").stat()
        assert (seen.st_mode & 0o7777, seen.st_gid) == (0o660, os.getgid())
        other = os.open(tmp_path / "anvil-serving.lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    os.close(stranger)


def test_an_answer_of_any_size_does_not_fill_the_memory(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LARGEST_ANSWER", 1000)
    monkeypatch.setattr(connection, "PIECE", 1000)
    engine, asked = start("1.47", "1.24", {"Name": "x" * 50_000})
    with pytest.raises(AnvilError, match="its answer is not JSON"):
        engine.info()
    with pytest.raises(AnvilError, match="its answer is not JSON"):
        engine.info()
    assert len(asked) == 2


def test_an_announced_answer_is_read_by_its_request_and_dropped_by_any_other(start: Start) -> None:
    one, two = "a" * 64, "b" * 64
    engine, asked = start("1.45", "1.24", {"Id": one})
    engine.announce_inspect(one)
    assert asked == []  # there is no connection yet
    assert engine.inspect_container(one) and len(asked) == 1
    engine.announce_inspect(one)
    engine.announce_inspect(two)  # one at a time
    assert engine.inspect_container(one) and len(asked) == 2
    engine.announce_inspect(two)
    assert engine.inspect_container(one)
    assert [path.split("/")[3] for path in asked] == [one, one, two, one]
    engine.announce_inspect("../../version")
    assert len(asked) == 4


def test_a_connection_that_ends_after_an_announcement_costs_another_request_only(start: Start) -> None:
    container = "a" * 64
    engine, asked = start("1.45", "1.24", {"Id": container})
    assert engine.inspect_container(container)
    assert engine._connection is not None
    engine._connection.sock.shutdown(socket.SHUT_RDWR)
    engine.announce_inspect(container)
    found = engine.inspect_container(container)
    assert found is not None and found["Id"] == container and len(asked) == 2
