# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two replicas behind the edge: a promotion rolls, a bad candidate does not get past the first, and no client notices."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from ansible_collections.anvil.serving.plugins.module_utils.edge import SOCKET
from ansible_collections.anvil.serving.plugins.module_utils.engine import Engine
from ansible_collections.anvil.serving.plugins.module_utils.volume import Place, hash_revision, lock_name, read_snapshot_aside
from harness import run_module
from load import Load
from replicas import BACKEND, ROUTER_CONFIG, ROUTER_IMAGE, TOKEN, Replicas
from routersite import DIE_BEFORE, NAMES, spawn_promotion, wait_until


def config(version: str, profile_path: str = "") -> str:
    line = f'profile_path = "{profile_path}"\n' if profile_path else ""
    return ROUTER_CONFIG.replace('mapping_version = "1"\n', f'mapping_version = "{version}"\n{line}')


def profile(score: float = 0.9) -> str:
    entry = {"tier_id": "heavy", "work_class": "chat", "decision": "allow", "quality_score": score,
             "sample_n": 4, "last_measured": "2026-07-04T00:00:00Z", "fingerprint": None}  # fmt: skip
    return json.dumps({"schema": "anvil-serving.router.profile_bootstrap/v2", "mode": "live", "entries": [entry]})


# The loader accepts it, and no start does. (What names our own place is put right for replicas.)
CRASHING = config("2", "/nowhere/profile.json")
STOCK = "/etc/anvil/profile.json"


class Rolled(Replicas):
    """The replicas on one config volume, each in the folder of its own pointer."""

    @property
    def volume(self) -> str:
        return self.name + "-cfg"

    @property
    def parameters(self) -> dict[str, Any]:
        return {"replicas": self.routers, "edge": self.name + "-edge", "volume": self.volume, "image": ROUTER_IMAGE,
                "settle": 0.3, "grace": 5, "drain_timeout": 20}  # fmt: skip

    def promote(self, **given: Any) -> dict[str, Any]:
        return run_module("anvil_router_promote", **{**self.parameters, **given})

    def spawn(self, before: str, **given: Any) -> subprocess.Popen[str]:
        return spawn_promotion(before, {**self.parameters, **given})

    def start(self) -> None:
        pool = docker.types.IPAMPool(subnet=self.subnet + ".0/24")
        self.api.create_network(self.name, ipam=docker.types.IPAMConfig(pool_configs=[pool]))
        start = {"entrypoint": ["python3", "-c", BACKEND]}
        self.run(self.name + "-backend", ROUTER_IMAGE, self.subnet + ".5", {}, ("backend",), **start)
        first = self.promote(config=config("1", STOCK), profile=profile())
        assert first["changed"], first
        command = ["router", "run", "--host", "0.0.0.0", "--port", "8000", "--config"]
        for number, router in enumerate(self.routers):
            folder = f"/etc/anvil/.anvil/live/{router}"
            self.run(
                router,
                ROUTER_IMAGE,
                f"{self.subnet}.{10 + number}",
                {},
                command=[*command, folder + "/config.toml"],
                working_dir=folder,
                environment={"ANVIL_ROUTER_TOKEN": TOKEN, "ANVIL_HEAVY_KEY": "x"},
                stop_signal="SIGINT",
                host={"restart_policy": {"Name": "unless-stopped"}, "binds": [f"{self.volume}:/etc/anvil:ro"]},
            )
        servers = [{"container": router, "address": f"{self.subnet}.{10 + number}"} for number, router in enumerate(self.routers)]
        values = {"socket": SOCKET, "longest": 330, "certificates": "", "tls_folder": "", "check_path": "/healthz",
                  "check_token": False, "revision": "1", "replicas": servers}  # fmt: skip
        from ansible_collections.anvil.serving.plugins.plugin_utils.render import render_template

        self.start_edge(render_template("edge/haproxy.cfg.j2", plan={"host": "test"}, edge=values))
        wait_until(self.is_up)

    def is_up(self) -> bool:
        try:
            return [server.status for server in self.edge.read_servers()] == ["UP", "UP"]
        except Exception:
            return False

    def started(self) -> list[str]:
        return [str(self.api.inspect_container(router)["State"]["StartedAt"]) for router in self.routers]

    def live(self) -> list[dict[str, str]]:
        """The files that each replica sees; its revision is what its name says."""
        seen = []
        for router in self.routers:
            snapshot = read_snapshot_aside(self.engine, ROUTER_IMAGE, Place(self.volume, "/etc/anvil", router, NAMES))
            files = snapshot.files_of(snapshot.live or "")
            assert snapshot.live is None or hash_revision(files) == snapshot.live
            seen.append({name: content.decode() for name, content in files.items()})
        return seen

    def clean(self) -> None:
        super().clean()
        self.engine.remove_container(lock_name(self.volume))
        self.api.remove_volume(self.volume, force=True)


@pytest.fixture(scope="module")
def rolled() -> Iterator[Rolled]:
    address = os.environ.get("DOCKER_HOST")
    if not address:
        pytest.fail("DOCKER_HOST must name the engine of the test-bed: tests/testbed/bed.py run -- pytest ...")
    made = Rolled(docker.APIClient(base_url=address, version="1.43"), Engine(address), subnet="10.213.78")
    try:
        made.start()
        yield made
    finally:
        made.clean()


def expected(version: str, score: float = 0.9) -> dict[str, str]:
    return {"config.toml": config(version, "profile.json"), "profile.json": profile(score)}


def test_a_promotion_rolls_and_the_second_run_does_nothing(rolled: Rolled) -> None:
    before = rolled.started()
    done = rolled.promote(config=config("3", STOCK), profile=profile(0.5))
    assert done["changed"] and done["reloaded"], done
    assert [action for action in done["actions"] if "serves" in action] == [
        f"{router} serves {done['revision']['new'][:12]}" for router in rolled.routers
    ]
    assert rolled.live() == [expected("3", 0.5)] * 2 and rolled.is_up()
    assert all(new != old for new, old in zip(rolled.started(), before, strict=True))
    for check in (True, False):
        again = rolled.promote(check=check, config=config("3", STOCK), profile=profile(0.5))
        assert not again["changed"] and not again["failed"], again


@pytest.mark.parametrize("dry_boot", [True, False])
def test_a_bad_candidate_does_not_get_past_the_first(rolled: Rolled, dry_boot: bool) -> None:
    good = rolled.live()
    first, second = rolled.started()
    failed = rolled.promote(config=config("9", STOCK), profile=profile(0.5), probes=[
        {"path": "/v1/route", "method": "POST", "body": {"model": "heavy", "messages": []}, "json": {"provider": "cloud"}}
    ], dry_boot=dry_boot)  # fmt: skip
    assert failed["failed"] and "provider is 'heavy'" in failed["msg"], failed
    assert rolled.live() == good and rolled.is_up()
    assert rolled.started()[1] == second, "the second replica was never touched"
    assert (rolled.started()[0] == first) == dry_boot


def test_no_client_notices_a_good_candidate_nor_a_bad_one(rolled: Rolled) -> None:
    load = Load(rolled.url(), clients=16, stream_seconds=1.0, token=TOKEN)
    load.start()
    try:
        done = rolled.promote(config=config("4", STOCK), profile=profile(0.6))
        bad = rolled.promote(config=config("5", STOCK), profile=profile(0.6), dry_boot=False, probes=[{"path": "/nowhere"}])
    finally:
        load.stop()
    report = load.report()
    assert done["changed"] and bad["failed"] and "rolled back to" in bad["msg"], (done, bad)
    assert rolled.live() == [expected("4", 0.6)] * 2
    assert report.failed == 0 and report.streams > 10 and report.short > 100, report


STEPS = [
    ("promotion", "", "open_writer", 1),
    ("volume", "Writer", "_ask", 7),
    ("router", "EdgeGate", "close", 1),
    ("router", "Reader", "reload", 1),
    ("router", "Reader", "verify", 1),
    ("router", "EdgeGate", "open", 1),
    ("router", "EdgeGate", "close", 2),
    ("router", "Reader", "reload", 2),
    ("router", "Reader", "verify", 2),
    ("promotion", "_Promotion", "_close", 1),
]


@pytest.mark.parametrize("kind", ["good", "bad"])
def test_killed_before_every_step_the_next_run_finishes(rolled: Rolled, kind: str) -> None:
    quick: dict[str, Any] = {"settle": 0.1, "grace": 1, "dry_boot": False}
    base = {"config": config("6", STOCK), "profile": profile()}
    assert not rolled.promote(**base, **quick)["failed"]
    reached = []
    probes = [{"path": "/nowhere"}] if kind == "bad" else []
    for room, owner, name, nth in STEPS:
        before = DIE_BEFORE.format(room=room, owner=owner, name=name, nth=nth)
        killed = rolled.spawn(before, config=config("7", STOCK), profile=profile(), probes=probes, **quick)
        killed.communicate(timeout=90)
        if killed.returncode == -signal.SIGKILL:
            reached.append((name, nth))
        assert all(files in (expected("6"), expected("7")) for files in rolled.live()), (name, nth)
        # Undone for the good one's sake, finished for its own: both ways the next run ends well.
        version = "7" if kind == "good" and nth == 2 else "6"
        back = rolled.promote(config=config(version, STOCK), profile=profile(), **quick)
        assert not back["failed"], (name, nth, back)
        assert rolled.live() == [expected(version)] * 2 and rolled.is_up(), (name, nth)
        if version == "7":
            assert not rolled.promote(**base, **quick)["failed"]
    assert len(reached) >= (7 if kind == "good" else 5), reached


def test_a_replica_that_does_not_run_in_its_own_folder_is_named(rolled: Rolled) -> None:
    answer = rolled.promote(config=config("8", STOCK), profile=profile(), replicas=[rolled.name + "-backend"])
    assert answer["failed"] and rolled.name + "-backend" in answer["msg"]
