# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""anvil-watch over real llama-servers: stopped by a signal, saturated, stopped by an operator, converging."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core import files
from harness import run_module
from serving import HEAVY_GPU, PYTHON_IMAGE, Field, scripted

# Shorter than the defaults by the same factor, so that the tests take seconds.
LIMITS = {"tick": 0.5, "stall": 2, "stall_busy": 15, "confirm": 4, "confirm_busy": 30, "probe_idle": 2, "probe_deadline": 3}
PORT = 9419


@dataclass
class Watched:
    """Two serves and a watch that runs as a process of the test."""

    field: Field
    data: Path
    lines: list[str] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None

    def install(self, check: bool = False, **params: Any) -> dict[str, Any]:
        defaults = {"root": str(self.field.root), "data": str(self.data), "limits": LIMITS, "runs_in": "container"}
        image = {"image": "anvil.local/router:0.13.2", "port": PORT}
        given = {**defaults, **image, **params}
        return run_module("anvil_watch", check=check, project=self.field.project(), **given)

    def start(self) -> None:
        folder = self.field.root / "anvil-watch"
        argv = [sys.executable, str(folder / "anvil-watch.pyz"), str(folder / "settings.json")]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.lines.append(line.rstrip())

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(20)

    def state(self, name: str) -> str:
        status, text = get("/state")
        return str(json.loads(text)[name]["state"]) if status == 200 else "no answer"

    def wait(self, name: str, states: str, seconds: float = 25) -> float:
        """Wait until the serve has one of these states (words); returns the seconds it took."""
        began = time.monotonic()
        while self.state(name) not in states.split():
            assert time.monotonic() - began < seconds, (self.state(name), self.ledger(), self.lines[-10:])
            time.sleep(0.05)
        return time.monotonic() - began

    def until_told(self, name: str, part: str, seconds: float = 40) -> None:
        end = time.monotonic() + seconds
        while part not in self.acts(name):
            assert time.monotonic() < end, (part, self.acts(name), self.lines[-10:])
            time.sleep(0.1)

    def ledger(self) -> dict[str, Any]:
        path = self.data / "watch" / "state.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def acts(self, name: str) -> str:
        return "\n".join(one["line"] for one in self.ledger().get("acts", []) if one["serve"] == name)


def get(path: str, port: int = PORT) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    except OSError:
        return 0, ""
    finally:
        connection.close()


def complete(port: int, tokens: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({"prompt": "hello", "n_predict": tokens, "ignore_eos": True})
    try:
        connection.request("POST", "/completion", body, {"Content-Type": "application/json"})
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        pass
    finally:
        connection.close()


def keep_busy(port: int, enough: threading.Event) -> None:
    while not enough.is_set():
        complete(port, 900)


def pid_of(watched: Watched, container: str) -> list[int]:
    """The processes of a container but its init, which forwards signals."""
    found = watched.field.bed.docker("top", container, "-o", "pid,comm").splitlines()[1:]
    return [int(line.split()[0]) for line in found]


@pytest.fixture
def watched(field: Field, tmp_path: Path) -> Iterator[Watched]:
    made = Watched(field, tmp_path / "data")
    yield made
    made.stop(signal.SIGKILL)
    run_module("anvil_watch", state="absent", root=str(field.root))


def put_files(watched: Watched, **params: Any) -> None:
    """The program and settings on the host, without what runs them."""
    watched.install(**params)
    watched.field.bed.docker("rm", "-f", "anvil-watch")


def test_stopped_servers_are_healed_and_a_saturated_one_is_left_alone(watched: Watched) -> None:
    """One is idle when it is stopped, one computes; before that the second has more requests than it can take."""
    field = watched.field
    assert not field.run()["failed"]
    put_files(watched)
    watched.start()
    watched.wait("heavy", "alive busy")
    watched.wait("fast", "alive busy")
    assert get("/alive/heavy")[0] == 200 and get("/alive/nothing")[0] == 404
    before = field.bed.started()

    enough = threading.Event()
    loads = [threading.Thread(target=keep_busy, args=(30003, enough), daemon=True) for _ in range(12)]
    for load in loads:
        load.start()
    watched.wait("fast", "busy")
    until = time.monotonic() + 5
    while time.monotonic() < until:
        assert watched.state("fast") == "busy", watched.lines
        time.sleep(0.1)
    stopped = time.monotonic()
    for name in ("bed-heavy", "bed-fast"):
        for pid in pid_of(watched, name):
            os.kill(pid, signal.SIGSTOP)
    watched.wait("fast", "suspect hung")
    assert time.monotonic() - stopped < 8
    enough.set()
    watched.wait("heavy", "suspect hung")
    assert get("/alive/heavy")[0] == 503
    for name in ("heavy", "fast"):
        watched.until_told(name, "is healed: ")
        told = watched.acts(name)
        for part in ("suspect (was ", "hung (was suspect)", "incident saved: ", "restarts: "):
            assert part in told
        folder = Path(watched.ledger()["serves"][name]["incident"])
        assert "\tT" in (folder / "processes.txt").read_text()  # the state of a stopped process
        assert (folder / "log.txt").read_text().count("\n") > 5
        assert get(f"/alive/{name}")[0] == 200
    assert set(field.bed.started()) == set(before)  # the same containers, started again
    text = get("/metrics")[1]
    assert 'anvil_serve_restarts_total{serve="fast",engine="llama_cpp"} 1.0' in text
    assert 'anvil_serve_state{serve="fast",engine="llama_cpp",state="hung"} 0.0' in text
    assert 'anvil_serve_ready_seconds{serve="fast",engine="llama_cpp"}' in text
    # The status of the host says the same.
    status = run_module("anvil_serve_info", project=field.project(), secrets=field.secrets, overview=True)["watch"]
    assert status["serves"]["fast"]["restarts"] == 1 and status["silent"] is None
    assert any("is healed" in act["line"] for act in status["acts"])


def test_who_stops_or_converges_a_serve_is_left_alone_and_a_killed_watch_goes_on(watched: Watched) -> None:
    field = watched.field
    # Lists its model and answers no completion.
    field.edit("fast", **{**scripted(SERVES="fast", STREAMS="3600"), "secrets": {}})
    assert not field.run()["failed"]
    put_files(watched, limits={**LIMITS, "load": 8})
    watched.start()
    watched.wait("heavy", "alive")
    with files.hold_lock(field.project()["directory"], 5):
        for pid in pid_of(watched, "bed-heavy"):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(5)
        assert not [line for line in watched.lines if "hung" in line or "restarts" in line], watched.lines
    watched.until_told("heavy", "hung (was suspect)")
    watched.stop(signal.SIGKILL)  # at whatever step it is
    watched.start()
    watched.until_told("heavy", "is healed: ")
    assert not [line for line in watched.lines if "was not started" in line], watched.lines
    watched.until_told("fast", "restarts: ")
    assert watched.ledger()["serves"]["heavy"]["total"] <= 2
    field.bed.docker("stop", "-t", "0", "bed-heavy")
    watched.wait("heavy", "stopped")
    time.sleep(3)
    assert watched.state("heavy") == "stopped"


def test_it_is_installed_changed_and_removed_as_a_container(watched: Watched) -> None:
    """A run of the container itself: what it needs of the host is mounted, and it stays far below its limits."""
    field = watched.field
    assert not field.run()["failed"]
    predicted, done = watched.install(check=True), watched.install()
    assert predicted["changes"] == done["changes"] == ["program", "settings", "started"]
    assert not watched.install()["changed"] and not watched.install(check=True)["changed"]
    watched.wait("heavy", "alive")
    started = field.bed.started()["anvil-watch"]
    assert watched.install(restarts_per_hour=5)["changes"] == ["settings"]
    for pid in pid_of(watched, "bed-heavy"):
        os.kill(pid, signal.SIGSTOP)
    watched.until_told("heavy", "restarts: ")
    assert field.bed.started()["anvil-watch"] == started
    metrics = dict(line.rsplit(" ", 1) for line in get("/metrics")[1].splitlines() if line.startswith("process_"))
    assert float(metrics["process_resident_memory_bytes"]) < 60 * 2**20
    assert run_module("anvil_watch", state="absent", root=str(field.root))["changed"]
    assert not run_module("anvil_watch", state="absent", root=str(field.root))["changed"]
    assert "anvil-watch" not in field.bed.started() and not (field.root / "anvil-watch").exists()


def run_experiment(watched: Watched, name: str, project: str, ttl: int) -> None:
    """A container with the labels of an experiment."""
    labels = {"anvil.serving.experiment": name, "com.docker.compose.project": project, "anvil.serving.ttl": str(ttl)}
    words = [word for key, value in labels.items() for word in ("--label", f"{key}={value}")]
    watched.field.bed.docker("run", "-d", "--name", name, *words, PYTHON_IMAGE, "sleep", "600")


def test_idle_serves_stop_and_experiments_end_by_themselves_and_the_cards_are_shown(watched: Watched) -> None:
    field, bed = watched.field, watched.field.bed
    field.edit("heavy", **{**scripted(SERVES="heavy"), "secrets": {}})
    field.edit("fast", residency="on_demand", idle=4)
    assert not field.run(serves=["heavy", "fast"])["failed"]
    run_experiment(watched, "over", "anvil-experiment-over", 1)
    run_experiment(watched, "lasts", "anvil-experiment-lasts", 3600)
    run_experiment(watched, "copied", "another-project", 1)
    put_files(watched, limits={**LIMITS, "host_tick": 1, "leave": 2})
    watched.start()
    watched.wait("fast", "alive busy")
    until = time.monotonic() + 8
    while time.monotonic() < until:  # longer than idle, and each request shorter than the time between two looks
        complete(30003, 2)
        time.sleep(0.5)
    assert "leaves the rotation" not in watched.acts("fast")
    watched.until_told("fast", "stops: no request for 4 s (idle)", 90)  # a loaded machine makes it a suspect now and then
    watched.wait("fast", "stopped")
    assert "leaves the rotation: no request for 4 s (idle)" in watched.acts("fast") and get("/alive/fast")[0] == 503
    assert "its time to live is over" in watched.acts("experiment over")
    assert {"lasts", "copied"} <= set(bed.started()) and "over" not in bed.docker("ps", "-a", "--format", "{{.Names}}").split()

    # It stays stopped: no run starts it again, nor recreates it for a change of its definition. It starts by name.
    before = bed.started()
    for environment in ({}, {"MORE": "1"}):
        field.edit("fast", environment=environment)
        done = field.run()
        assert done["serves"]["fast"]["reasons"] == ["on_demand"] and bed.started() == before
    assert not field.run(serves=["fast"])["failed"]
    watched.wait("fast", "alive busy")

    bed.set_health(HEAVY_GPU, "<gpu_recovery_action>Reset</gpu_recovery_action>")
    end = time.monotonic() + 10
    while f'uuid="{HEAVY_GPU}",state="out"}} 1.0' not in get("/metrics")[1]:
        assert time.monotonic() < end
        time.sleep(0.2)
    assert any("out: recovery action Reset" in act["line"] for act in watched.ledger()["acts"])
    assert 'anvil_disk_free_bytes{place="docker"' in get("/metrics")[1]
    bed.docker("rm", "-f", "lasts", "copied")
    run_experiment(watched, "alone", "anvil-experiment-alone", 1)  # the last one takes the network of experiments with it
    watched.until_told("experiment alone", "its time to live is over")
