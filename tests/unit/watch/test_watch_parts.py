# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Counters of the engines, probes, the file of the program, settings, metrics and the listener."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.core.http_request import Reply, send_request
from ansible_collections.anvil.serving.plugins.module_utils.core.program_archive import pack_program
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Project
from ansible_collections.anvil.serving.plugins.module_utils.watch import counters, installation, settings
from ansible_collections.anvil.serving.plugins.module_utils.watch.exposition import OwnFigures, ServeFigures, format_metrics
from ansible_collections.anvil.serving.plugins.module_utils.watch.host_engine import read_frames
from ansible_collections.anvil.serving.plugins.module_utils.watch.host_look import HostFigures
from ansible_collections.anvil.serving.plugins.module_utils.watch.host_survey import NOTHING
from ansible_collections.anvil.serving.plugins.module_utils.watch.installation_request import read_limits
from ansible_collections.anvil.serving.plugins.module_utils.watch.listener import build_listener, build_socket_listener
from ansible_collections.anvil.serving.plugins.module_utils.watch.liveness import SILENT, TOKENS, UNKNOWN, WRONG_ANSWER
from ansible_collections.anvil.serving.plugins.module_utils.watch.programs import anvil_watch
from ansible_collections.anvil.serving.plugins.module_utils.watch.serve_requests import ServeClient, looks_broken
from ansible_collections.anvil.serving.plugins.module_utils.watch.settings import WatchedServe, WatchSettings
from ansible_collections.anvil.serving.plugins.module_utils.watch.watched_serves import list_watched
from ansible_collections.anvil.serving.plugins.plugin_utils.report.status_report import list_watch_notes

VLLM = """\
# HELP vllm:num_requests_running x
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_running{engine="1",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 190.0
vllm:generation_tokens_total{engine="0",model_name="m"} 1.5e+03
vllm:generation_tokens_total{engine="1",model_name="m"} 500.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
"""
LLAMA = "llamacpp:requests_processing 1\nllamacpp:requests_deferred 4\nllamacpp:n_decode_total {0}\n"
SERVE = WatchedServe("heavy", "c", "vllm", "127.0.0.1", 1, "org/heavy")


def test_counters_of_several_engines_behind_one_server_add_up() -> None:
    found = counters.read_metrics("vllm", VLLM)
    assert found is not None
    assert (found.counters.running, found.counters.waiting) == (5, 190)
    assert (found.values["generated"], found.values["kv_use"]) == (2000, 0.75)


def test_llama_counts_batches_before_a_request_ends() -> None:
    texts = [counters.read_metrics("llama_cpp", LLAMA.format(number)) for number in (7, 7, 8)]
    progress = [one.counters.progress for one in texts if one]
    assert progress[0] == progress[1] != progress[2]


@pytest.mark.parametrize("text", ["", "vllm:num_requests_running 1\n", "<html>", "vllm:generation_tokens_total 5\n"])
def test_a_text_without_what_is_needed_is_no_report(text: str) -> None:
    assert counters.read_metrics("vllm", text) is None
    assert counters.read_slots(text) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"id_task": 1, "next_token": {"n_decoded": 3}}, {"id_task": 1, "next_token": {"n_decoded": 4}}),
        ({"id_task": 1, "next_token": [{"n_decoded": 3}]}, {"id_task": 1, "next_token": [{"n_decoded": 4}]}),
        ({"id_task": 1, "n_decoded": 3}, {"id_task": 2, "n_decoded": 3}),
    ],
)
def test_slots_of_each_year_move_with_a_token(before: dict[str, Any], after: dict[str, Any]) -> None:
    found = [counters.read_slots(json.dumps([{"is_processing": True, **slot}])) for slot in (before, before, after)]
    assert [one.counters.running for one in found if one] == [1, 1, 1]
    assert found[0] == found[1] != found[2]


def chat(text: str, model: str = "org/heavy") -> Reply:
    return Reply(200, json.dumps({"model": model, "choices": [{"message": {"content": text}}]}))


@pytest.mark.parametrize(
    ("replies", "outcome"),
    [
        ([chat("Hello")], TOKENS),
        ([chat("Hello", "heavy")], TOKENS),
        ([chat("Hello", "other")], WRONG_ANSWER),
        ([chat("!"), chat("! I am here")], TOKENS),
        ([chat("!"), chat("!" * 16)], WRONG_ANSWER),
        ([Reply(0, "TimeoutError: timed out")], SILENT),
        ([Reply(503, "overloaded")], SILENT),
        ([Reply(401, "")], UNKNOWN),
        ([Reply(404, '{"error": {"message": "The model `org/heavy` does not exist."}}')], WRONG_ANSWER),
        ([Reply(404, '{"detail":"Not Found"}')], UNKNOWN),
        ([Reply(400, "no chat template")], UNKNOWN),
        ([Reply(500, "EngineDeadError")], WRONG_ANSWER),
        ([Reply(200, "<html>")], WRONG_ANSWER),
    ],
)
def test_what_a_probe_proves(replies: list[Reply], outcome: str) -> None:
    left = list(replies)
    client = ServeClient(SERVE, "key", lambda *_words, **_more: left.pop(0))
    assert client.probe(5).outcome == outcome
    assert not left


def test_a_serve_that_unloads_itself_is_only_asked_for_what_does_not_wake_it() -> None:
    asked: list[str] = []

    def send(_where: object, _method: str, path: str, *_more: object, **_rest: object) -> Reply:
        asked.append(path)
        return Reply(200, '{"is_sleeping": true}')

    client = ServeClient(WatchedServe("a", "c", "llama_cpp", "h", 1, "a", sleeps=True), "", send)
    assert client.look().asleep and client.probe(5).outcome == UNKNOWN
    assert asked == ["/props"]


@pytest.mark.parametrize(("text", "broken"), [("!!!!!!!!", True), ("", False), ("Hi!!!!!!!", False), ("aaaaaaaaa", False)])
def test_broken_answers(text: str, broken: bool) -> None:
    assert looks_broken(text, 8) is broken


@pytest.mark.slow
def test_the_program_is_one_file_that_runs_with_an_old_python_and_without_libraries(tmp_path: Path) -> None:
    assert anvil_watch.__name__ == installation.PROGRAM
    code = pack_program(installation.PROGRAM)
    assert code == pack_program(installation.PROGRAM) and len(code) < 200_000
    path = tmp_path / "anvil-watch.pyz"
    path.write_bytes(code)
    pythons = ["python3", *(name for name in ("python3.9",) if subprocess.run(["which", name], check=False).returncode == 0)]
    for python in pythons:
        told = subprocess.run([python, "-S", str(path)], capture_output=True, text=True, check=False, cwd=tmp_path)
        if "pyenv" in told.stderr:  # a name without a version behind it
            continue
        assert (told.returncode, told.stderr[:6]) == (2, "usage:"), told.stderr


def test_settings_come_back_as_they_were_written() -> None:
    wanted = WatchSettings("p", "/d", "/data", "unix:///s", 9419, 3, (SERVE,), {"stall": 9.0})
    assert settings.parse_settings(settings.format_settings(wanted), "f") == wanted
    assert wanted.build_limits(SERVE).stall == 9.0
    for text in ("", "[]", "{}", '{"format": 2}'):
        with pytest.raises(AnvilError, match="the settings of watch cannot be read"):
            settings.parse_settings(text, "f")


def test_mistakes_in_limits_are_told_at_once() -> None:
    with pytest.raises(AnvilError) as caught:
        read_limits({"stal": 3, "stall": -1, "tick": "x", "confirm": 5})
    assert [problem.where for problem in caught.value.problems] == ["limits.stal", "limits.stall", "limits.tick"]


def test_no_secret_is_among_the_serves_and_custom_servers_get_no_probe() -> None:
    ready = {"kind": "models", "timeout": 900, "key": "api"}
    common = {"served_name": "heavy", "ready": ready, "secrets": {"VLLM_API_KEY": "api"}}
    ports = (("0.0.0.0", 30002, "8000/tcp"),)
    services = {
        "a": Service("a", "c-a", "i", ports=ports, anvil={**common, "engine": "vllm"}),
        "b": Service("b", "c-b", "i", ports=ports, anvil={**common, "engine": "custom"}),
        "c": Service("c", "c-c", "i", ports=ports, anvil={**common, "engine": "vllm", "residency": "off"}),
        "d": Service("d", "c-d", "i", anvil={**common, "engine": "vllm"}),
    }
    found = {one.name: one for one in list_watched(Project("p", "/d", "", services, {"api": "s3cret"}))}
    assert sorted(found) == ["a", "b"]
    assert (found["a"].key_variable, found["a"].kind, found["b"].kind) == ("VLLM_API_KEY", "chat", "")
    assert found["a"].load_seconds == 1800 and "s3cret" not in repr(found)


def test_the_log_of_a_container_without_a_terminal_comes_in_frames() -> None:
    assert read_frames(b"\1\0\0\0\0\0\0\4one\n\2\0\0\0\0\0\0\4two\n") == ["one", "two"]
    assert read_frames(b"plain\nlines") == ["plain", "lines"] and read_frames(b"") == []


def test_metrics_group_their_samples_and_escape_names() -> None:
    one = ServeFigures('a"b', "vllm", "busy", True, 1.5, None, None, 2, 0, 1, False, {"running": 3.0})
    text = format_metrics([one, one], OwnFigures(True, 1.0, 2.0, 3.0), NOTHING, HostFigures())
    assert 'anvil_serve_state{serve="a\\"b",engine="vllm",state="busy"} 1.0' in text
    assert text.count("# TYPE anvil_serve_restarts_total counter") == 1
    assert "anvil_serve_ready_seconds" not in text and "anvil_serve_kv_cache" not in text


def test_the_listener_answers_for_the_serves_it_knows() -> None:
    server = build_listener(("127.0.0.1", 0), lambda: "m 1\n", lambda: {"a": (True, "alive"), "b": (False, "hung")})
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    try:
        found = {}
        for path in ("/alive/a", "/alive/b", "/alive/c", "/metrics", "/state", "/"):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{server.server_address[1]}{path}", timeout=5) as reply:
                    found[path] = reply.status
            except urllib.error.HTTPError as exc:
                found[path] = exc.code
    finally:
        server.shutdown()
        server.server_close()
    assert found == {"/alive/a": 200, "/alive/b": 503, "/alive/c": 404, "/metrics": 200, "/state": 200, "/": 404}


def test_the_edge_gets_the_metrics_and_nothing_else_on_a_socket_that_outlives_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "watch-socket" / "metrics.sock"
    for text in ("first 1\n", "second 1\n"):  # the second one finds the socket of the first
        server = build_socket_listener(str(path), lambda answer=text: answer)  # type: ignore[misc]
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        assert path.stat().st_mode & 0o777 == 0o666
        found = {}
        for asked in ("/metrics", "/alive/a", "/"):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.sendall(f"GET {asked} HTTP/1.0\r\n\r\n".encode())
                found[asked] = client.makefile("rb").read().decode()
        assert found["/metrics"].endswith(text) and " 404 " in found["/"] and " 404 " in found["/alive/a"]
        server.shutdown()
        server.server_close()
    path.unlink()
    path.write_text("not a socket")
    with pytest.raises(OSError, match="in use"):
        build_socket_listener(str(path), lambda: "")


def test_the_status_tells_what_watch_says() -> None:
    row = {"state": "hung", "why": "no token for 90 s", "since": 940.0, "restarts": 3, "given_up": True}
    acts = [{"time": 0.0, "serve": "a", "line": "restarts"}]
    lines = list_watch_notes({"trouble": "", "silent": 300.0, "serves": {"a": row}, "acts": acts}, 1000.0)
    assert lines[0].startswith("watch: it last wrote 5 min ago and does not run")
    assert lines[1] == "watch: a is hung for 1 min, 3 restarts in the last hour, not restarted again: no token for 90 s"
    assert lines[2] == "watch: 1970-01-01 00:00 UTC a: restarts"
    assert list_watch_notes({}, 1000.0) == []


class Systemd:
    """What systemctl is told, and whether the unit runs."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.active = self.enabled = False

    def __call__(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        words = " ".join(word for word in argv[1:] if not word.startswith("--"))
        status = {"is-active anvil-watch": self.active, "is-enabled anvil-watch": self.enabled}.get(words)
        if status is None:
            self.calls.append(words)
        self.active = self.active or words.startswith("restart")
        self.enabled = self.enabled or words.startswith("enable")
        if words.startswith("disable"):
            self.active = self.enabled = False
        return subprocess.CompletedProcess(list(argv), 0 if status is not False else 3, "", "")


@pytest.mark.slow
def test_the_unit_is_written_once_and_restarted_only_for_new_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "UNIT", str(tmp_path / "anvil-watch.service"))
    systemd = Systemd()

    class NoContainers:
        docker_host = "unix:///run/docker.sock"

        def inspect_container(self, _name: str) -> None:
            return None

    docker: Any = NoContainers()

    def converge(check: bool = False, restarts: int = 3) -> list[str]:
        given = WatchSettings("p", "/d", str(tmp_path / "data"), docker.docker_host, 9419, restarts, (SERVE,))
        wanted = installation.Installation(str(tmp_path / "root"), given, "systemd", "")
        systemd.calls.clear()
        return installation.install(docker, wanted, check, systemd)

    first = ["program", "settings", "unit", "started"]
    assert converge(check=True) == first and not systemd.calls and not (tmp_path / "root").exists()
    assert converge() == first and systemd.calls == ["daemon-reload", "enable anvil-watch", "restart anvil-watch"]
    assert converge(check=True) == converge() == [] and not systemd.calls
    assert converge(restarts=5) == ["settings"] and not systemd.calls
    monkeypatch.setattr(installation, "pack_program", lambda _name: b"newer")
    assert converge(restarts=5) == ["program", "restarted"] and systemd.calls == ["restart anvil-watch"]
    systemd.active = systemd.enabled = False
    assert converge(restarts=5) == ["started", "enabled"]
    removed = ["unit removed", "files"]
    assert installation.remove(docker, str(tmp_path / "root"), True, systemd) == removed
    assert installation.remove(docker, str(tmp_path / "root"), False, systemd) == removed
    assert installation.remove(docker, str(tmp_path / "root"), False, systemd) == []
    assert (tmp_path / "data").exists()


def test_a_server_that_sends_a_byte_now_and_then_is_cut_off() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def trickle() -> None:
        with contextlib.suppress(OSError):
            client, _address = listener.accept()
            client.recv(4096)
            client.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
            while True:
                client.sendall(b"data: {}\n")
                time.sleep(0.05)

    threading.Thread(target=trickle, daemon=True).start()
    began = time.monotonic()
    reply = send_request(listener.getsockname()[:2], "POST", "/", 0.4, headers={}, content=b"{}", whole=True)
    listener.close()
    assert (reply.status, time.monotonic() - began < 2) == (0, True)
