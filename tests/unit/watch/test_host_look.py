# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The slow look at a host: each change is told once; and when a serve on demand is idle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.host.disk_places import Disk, describe_low, read_disks
from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_health import judge_card
from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_health_on_host import HostHealth
from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_snapshot import CardSnapshot
from ansible_collections.anvil.serving.plugins.module_utils.watch.exposition import OwnFigures, format_metrics
from ansible_collections.anvil.serving.plugins.module_utils.watch.host_look import SILENT_PAUSE, HostLook
from ansible_collections.anvil.serving.plugins.module_utils.watch.host_survey import NOTHING
from ansible_collections.anvil.serving.plugins.module_utils.watch.idleness import Idleness, follow
from ansible_collections.anvil.serving.plugins.module_utils.watch.ledger import Ledger
from ansible_collections.anvil.serving.plugins.module_utils.watch.liveness import Counters
from ansible_collections.anvil.serving.plugins.module_utils.watch.settings import WatchSettings

GIB = 1 << 30


class SilentEngine:
    """A Docker Engine that does not answer."""

    def read_data_root(self) -> str:
        raise fail("no answer")


class Host:
    """A host whose cards a test decides."""

    def __init__(self, folder: Path) -> None:
        self.now, self.asked = 1000.0, 0
        self.health: HostHealth | None = None
        self.lines: list[str] = []
        settings = WatchSettings("p", str(folder / "p"), str(folder), "unix:///x", 1, weights=(str(folder / "none"),))
        ledger = Ledger(str(folder), self.lines.append, lambda: self.now)
        self.look = HostLook(settings, SilentEngine(), ledger, self.read, lambda: self.now, lambda: self.now)

    def read(self) -> HostHealth | None:
        self.asked += 1
        return self.health

    def show(self, **fields: Any) -> list[str]:
        """The lines that a look at this card adds."""
        self.health = HostHealth((judge_card(CardSnapshot(0, "GPU-1", "H100", **fields)),))
        self.lines.clear()
        self.look.look()
        return list(self.lines)


def test_a_card_is_told_when_it_becomes_sick_and_when_it_is_well_again(tmp_path: Path) -> None:
    host = Host(tmp_path)
    assert host.show() == [] and host.show(temperature=90.0, slowdown_temperature=95.0) == []
    (line,) = host.show(recovery="recovery_reset", recovery_words="Reset")
    assert line.startswith("GPU 0 (H100, GPU-1): out: recovery action Reset")
    assert host.show(recovery="recovery_reset", recovery_words="Reset", temperature=50.0) == []
    (line,) = host.show(throttles=("hw_thermal",), temperature=91.0)
    assert "doubtful: its clocks are lowered" in line and host.show(throttles=("hw_thermal",), temperature=92.0) == []
    assert host.show() == ["GPU 0 (H100, GPU-1): has no trouble any more"]


def test_a_driver_that_does_not_answer_is_asked_again_later_and_its_metrics_say_so(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.health = HostHealth(trouble="the NVIDIA driver does not answer in time: 120 s", hint="x")
    for _time in range(3):
        host.look.look()
        host.now += 60
    assert host.asked == 1 and [line for line in host.lines if line.startswith("driver: ")] == [host.lines[0]]
    text = format_metrics([], OwnFigures(True, 1.0, 2.0, 3.0), NOTHING, host.look.figures)
    assert "anvil_gpu_read_up 0.0" in text and "anvil_gpu_info" not in text
    host.now += SILENT_PAUSE
    assert host.show() == ["driver: the driver answers again"]
    text = format_metrics([], OwnFigures(True, 1.0, 2.0, 3.0), NOTHING, host.look.figures)
    assert "anvil_gpu_read_up 1.0" in text
    assert 'anvil_gpu_health_state{gpu="0",uuid="GPU-1",state="ok"} 1.0' in text and "anvil_gpu_power_watts" not in text
    places = [line for line in text.splitlines() if line.startswith("anvil_disk_free_bytes")]
    assert ['place="data"' in places[0], 'place="weights"' in places[1]] == [True, True] and len(places) == 2


@pytest.mark.parametrize(
    ("free", "size", "low"),
    [(GIB, 10 * GIB, False), (GIB // 4, 10 * GIB, True), (60 * GIB, 4000 * GIB, False), (40 * GIB, 4000 * GIB, True)],
)
def test_when_a_disk_is_low(free: int, size: int, low: bool) -> None:
    disks = [Disk("docker", "/var/lib/docker", free, size, 7), Disk("data", "/var/lib/anvil", free, size, 7)]
    assert [line.count("(data, docker)") for line in describe_low(disks)] == [1] * low


def test_a_folder_that_is_not_there_counts_as_its_parent(tmp_path: Path) -> None:
    (one,) = read_disks([("weights", str(tmp_path / "a" / "b"))])
    assert one.size and one.folder.endswith("/a/b")


class Requests:
    """Looks at a serve, 3 s apart; each look is (running, tokens so far, whether watch sent a probe)."""

    def __init__(self) -> None:
        self.known, self.now, self.acts = Idleness(), 0.0, ""

    def look(self, running: int = 0, tokens: int | None = 0, probed: bool = False, times: int = 1) -> str:
        act = ""
        for _time in range(times):
            self.now += 3
            counters = None if tokens is None else Counters(running, 0, str(tokens))
            self.known, act = follow(self.known, "c1", counters, probed, self.now, 60, 15)
        return act


def test_a_serve_without_a_request_leaves_the_rotation_and_stops() -> None:
    serve = Requests()
    assert serve.look(times=20) == "" and serve.look() == "leave"
    assert serve.look(times=4) == "" and serve.look() == "stop"


def test_requests_keep_a_serve_also_short_ones_that_no_look_sees_run() -> None:
    serve = Requests()
    for number in range(10):
        assert serve.look(tokens=number, times=15) == ""
    assert serve.look(running=1, tokens=9, times=100) == ""


def test_a_request_while_it_leaves_brings_it_back() -> None:
    serve = Requests()
    assert serve.look(times=21) == "leave" and serve.look(running=1) == "return"
    assert serve.look(times=20) == "leave" and serve.look(tokens=None) == "return"


def test_probes_of_watch_are_no_requests_and_a_serve_without_counters_is_never_idle() -> None:
    serve = Requests()
    for number in range(6):
        act = serve.look(tokens=number, probed=True)
        act = act or serve.look(tokens=number + 1, times=3)
        if act:
            break
    assert act == "leave"
    serve = Requests()
    assert serve.look(tokens=None, times=1000) == ""


def test_a_probe_in_the_look_of_the_stop_only_delays_it() -> None:
    serve = Requests()
    assert serve.look(times=21) == "leave" and serve.look(times=4) == ""
    assert serve.look(probed=True) == "" and serve.look(tokens=1) == "stop"
