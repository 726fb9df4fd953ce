# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One watched serve over a simulated host: healing, its budget, kills at every step, operators, locks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.watch import incidents, keeper
from ansible_collections.anvil.serving.plugins.module_utils.watch.counters import EngineCounters
from ansible_collections.anvil.serving.plugins.module_utils.watch.healing import GIVE_UP, RESTART, WAIT, decide
from ansible_collections.anvil.serving.plugins.module_utils.watch.keeper import Keeper, describe_absence
from ansible_collections.anvil.serving.plugins.module_utils.watch.ledger import Ledger
from ansible_collections.anvil.serving.plugins.module_utils.watch.liveness import SILENT, TOKENS, Counters, Probe
from ansible_collections.anvil.serving.plugins.module_utils.watch.serve_requests import Look
from ansible_collections.anvil.serving.plugins.module_utils.watch.settings import WatchedServe, WatchSettings

SERVE = WatchedServe("heavy", "t-heavy", "vllm", "127.0.0.1", 30002, "heavy", key_variable="KEY")


class KilledError(BaseException):
    """The process ends here."""


@dataclass
class World:
    """A host with one serve. broken: it hangs again after every restart. kill_at: the step before or after which watch dies."""

    now: float = 1.8e9
    started: float = 1.7e9
    status: str = "running"
    hangs: bool = False
    broken: bool = False
    held: bool = False
    policy: str = "unless-stopped"
    restarts: int = 0
    starts: int = 0
    steps: int = 0
    kill_at: int = -1
    keys: list[str] = field(default_factory=list)

    def clock(self) -> float:
        self.now += 0.01
        return self.now

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.kill_at:
            raise KilledError

    # the Docker Engine
    def inspect_container(self, name: str) -> dict[str, Any]:
        labels = {"com.docker.compose.project": "p", "com.docker.compose.service": "heavy"}
        moment = datetime.fromtimestamp(self.started, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        state = {"Status": self.status, "StartedAt": moment, "ExitCode": 137, "OOMKilled": False}
        config = {"Labels": labels, "Env": ["KEY=k3y"]}
        return {"Id": "c" * 64, "State": state, "Config": config, "HostConfig": {"RestartPolicy": {"Name": self.policy}}}

    def read_processor_seconds(self, _id: str) -> float:
        return 5.0

    def read_masked_log(self, _found: Any, _lines: int) -> list[str]:
        return ["the log"]

    def list_processes(self, _id: str, _columns: Any) -> list[list[str]]:
        return [["1", "T", "do_signal_stop", "0:01", "server"]]

    def restart(self, _id: str) -> None:
        self.step()
        self.restarts, self.started, self.hangs = self.restarts + 1, self.now, self.broken
        self.step()

    def start(self, _id: str) -> None:
        self.starts, self.started, self.status, self.hangs = self.starts + 1, self.now, "running", False

    # the serve
    def client(self, _serve: WatchedServe, key: str) -> World:
        self.keys.append(key)
        return self

    def look(self) -> Look:
        if self.hangs:
            self.now += 3
            return Look(False)
        return Look(True, engine=EngineCounters(Counters(0, 0, str(self.started)), {}))

    def is_asleep(self) -> str:
        return ""

    def probe(self, seconds: float) -> Probe:
        return Probe(SILENT if self.hangs else TOKENS)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        if self.held:
            raise fail("another run is converging this project")
        yield


class SteppedLedger(Ledger):
    """A ledger whose every write may be the last thing that the process does."""

    world: World | None = None

    def write(self) -> bool:
        if self.world is None:
            return super().write()
        self.world.step()
        done = super().write()
        self.world.step()
        return done


def make_keeper(world: World, folder: Path, kills: bool = False) -> Keeper:
    ledger = SteppedLedger(str(folder), lambda _line: None, world.clock)
    ledger.load()
    ledger.world = world if kills else None
    settings = WatchSettings("p", "/p", str(folder), "unix:///x", 1)
    return Keeper(SERVE, settings, world, ledger, world.lock, world.clock, world.clock, world.client)


def run(watch: Keeper, world: World, seconds: float) -> None:
    end = world.now + seconds
    while world.now < end:
        watch.tick()
        world.now += 3


def lines(watch: Keeper) -> str:
    return "\n".join(one["line"] for one in watch.ledger.acts)


def test_a_hung_serve_is_saved_restarted_and_alive_again(tmp_path: Path) -> None:
    world = World()
    watch = make_keeper(world, tmp_path)
    run(watch, world, 10)
    assert watch.record.state == "alive" and world.keys == ["k3y"]
    world.hangs = True
    run(watch, world, 60)
    assert (world.restarts, watch.record.state) == (1, "alive")
    order = ["suspect (was alive)", "hung (was suspect)", "incident saved: ", "restarts: ", "is healed: "]
    places = [lines(watch).index(one) for one in order]
    assert places == sorted(places)
    [folder] = (tmp_path / "incidents").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["counters.txt", "evidence.json", "log.txt", "processes.txt"]
    assert "k3y" not in "".join(path.read_text() for path in folder.iterdir())


@pytest.mark.slow
def test_killed_at_every_step_of_healing_the_next_watch_ends_it_and_keeps_the_budget(tmp_path: Path) -> None:
    for kill_at in range(1, 40):
        folder = tmp_path / str(kill_at)
        world = World()
        run(make_keeper(world, folder), world, 10)
        world.hangs, world.kill_at = True, kill_at
        try:
            run(make_keeper(world, folder, kills=True), world, 60)
            assert kill_at > 10, "no step was reached"
            break
        except KilledError:
            pass
        world.kill_at = -1
        watch = make_keeper(world, folder)
        run(watch, world, 150)
        assert watch.record.state == "alive", kill_at
        assert world.restarts == 1, kill_at
        assert len(watch.ledger.get("heavy").restarts) <= 2, kill_at
        assert not watch.ledger.get("heavy").healing, kill_at
    else:
        pytest.fail("healing has more steps than this test kills")


def test_a_serve_that_always_hangs_uses_up_its_budget_and_stays_down_until_somebody_starts_it(tmp_path: Path) -> None:
    world = World(broken=True)
    watch = make_keeper(world, tmp_path)
    run(watch, world, 10)
    world.hangs = True
    run(watch, world, 6 * 3600)
    assert world.restarts == 3
    assert watch.record.state == "hung" and watch.ledger.get("heavy").given_up
    assert lines(watch).count("is not restarted again: 3 restarts in a row after which no token came") == 1
    world.broken = world.hangs = False
    world.started = world.now
    run(watch, world, 10)
    assert watch.record.state == "alive" and not watch.ledger.get("heavy").given_up


def test_a_serve_that_hangs_again_and_again_after_some_tokens_has_three_restarts_an_hour(tmp_path: Path) -> None:
    world = World()
    watch = make_keeper(world, tmp_path)
    for _time in range(6):
        world.hangs = False
        run(watch, world, 10)
        world.hangs = True
        run(watch, world, 400)
    assert world.restarts == 3 and "3 restarts in the last hour" in lines(watch)


@pytest.mark.parametrize("status", ["exited", "paused"])
def test_what_an_operator_stopped_is_not_healed(tmp_path: Path, status: str) -> None:
    world = World()
    watch = make_keeper(world, tmp_path)
    run(watch, world, 10)
    world.status = status
    run(watch, world, 600)
    assert (world.restarts, world.starts, watch.record.state) == (0, 0, "stopped")


def test_what_is_being_converged_is_not_healed(tmp_path: Path) -> None:
    world = World()
    watch = make_keeper(world, tmp_path)
    run(watch, world, 10)
    world.hangs = world.held = True
    run(watch, world, 900)
    assert world.restarts == 0
    world.held = False
    run(watch, world, 60)
    assert world.restarts == 1


def test_a_restart_that_left_the_container_stopped_is_finished_but_not_after_ten_minutes(tmp_path: Path) -> None:
    for late, starts in ((10.0, 1), (700.0, 0)):
        folder = tmp_path / str(late)
        world = World(hangs=True)
        first = make_keeper(world, folder)
        with pytest.raises(KilledError):
            world.kill_at = 1  # in restart(), before the Docker Engine does anything
            run(first, world, 3000)
        world.kill_at, world.status, world.now = -1, "exited", world.now + late
        run(make_keeper(world, folder), world, 10)
        assert world.starts == starts


def test_a_full_disk_does_not_stop_the_healing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keeper, "save_incident", full)
    world = World()
    watch = make_keeper(world, tmp_path)
    run(watch, world, 10)
    world.hangs = True
    run(watch, world, 60)
    assert world.restarts == 1 and "its incident could not be saved: No space left on device" in lines(watch)


def test_incidents_are_bounded_in_number_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incidents, "MOST", 3)
    for number in range(5):
        path = Path(incidents.save_incident(str(tmp_path), f"s{number}", {"log.txt": "x" * 10}))
        os.utime(path, (number, number))
    assert sorted(path.name.split("-")[1] for path in tmp_path.iterdir()) == ["s2", "s3", "s4"]
    monkeypatch.setattr(incidents, "MOST_BYTES", 25)
    incidents.save_incident(str(tmp_path), "s5", {"log.txt": "x" * 10})
    assert sorted(path.name.split("-")[1] for path in tmp_path.iterdir()) == ["s4", "s5"]


@pytest.mark.parametrize(
    ("restarts", "now", "act"),
    [
        ((), 5000, RESTART),
        ((4990,), 5000, WAIT),
        ((4900,), 5000, RESTART),
        ((4000, 4900), 5000, WAIT),
        ((4000, 4600), 5000, RESTART),
        ((4000, 4300, 4600), 5000, GIVE_UP),
        ((1000, 1200, 4600), 5000, RESTART),
        ((9000, 9001, 9002), 5000, GIVE_UP),  # the clock was set back
    ],
)
def test_the_budget(restarts: tuple[float, ...], now: float, act: str) -> None:
    assert decide(restarts, now, 3).act == act


@pytest.mark.parametrize(
    ("fields", "policy", "restarts", "stopped", "dead"),
    [
        ({"Status": "running"}, "always", 0, "", ""),
        ({"Status": "exited", "ExitCode": 1}, "unless-stopped", 0, "stopped", ""),
        ({"Status": "exited", "ExitCode": 1}, "no", 0, "", "exit code 1"),
        ({"Status": "exited", "ExitCode": 143}, "no", 0, "stopped", ""),
        ({"Status": "exited", "ExitCode": 137, "OOMKilled": True}, "no", 0, "", "out of memory"),
        ({"Status": "restarting", "ExitCode": 3}, "always", 9, "", "restart loop"),
        ({"Status": "paused"}, "always", 0, "paused", ""),
    ],
)
def test_why_a_container_does_not_run(fields: dict[str, Any], policy: str, restarts: int, stopped: str, dead: str) -> None:
    state = {"StartedAt": "2026-01-01T00:00:00Z", **fields}
    found = {"State": state, "RestartCount": restarts, "HostConfig": {"RestartPolicy": {"Name": policy}}}
    seen = describe_absence(found, 1.9e9)
    assert (stopped in seen[0], bool(seen[0])) == (True, bool(stopped))
    assert (dead in seen[1], bool(seen[1])) == (True, bool(dead))
