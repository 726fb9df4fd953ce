# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two replicas behind the edge: a promotion rolls over them, a bad candidate stops at the first, and no request fails."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from replicas import STOCK, Rolled, config, make_load, profile
from routersite import kill_before, wait_until


@pytest.fixture(scope="module")
def rolled() -> Iterator[Rolled]:
    address = os.environ.get("DOCKER_HOST")
    if not address:
        pytest.fail("DOCKER_HOST must name the engine of the test-bed: tests/testbed/bed.py run -- pytest ...")
    made = Rolled(docker.APIClient(base_url=address, version="1.43"), DockerEngine(address), subnet="10.213.78")
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
def test_a_bad_candidate_stops_at_the_first_replica(rolled: Rolled, dry_boot: bool) -> None:
    good = rolled.live()
    first, second = rolled.started()
    failed = rolled.promote(config=config("9", STOCK), profile=profile(0.5), probes=[
        {"path": "/v1/route", "method": "POST", "body": {"model": "heavy", "messages": []}, "json": {"provider": "cloud"}}
    ], dry_boot=dry_boot)  # fmt: skip
    assert failed["failed"] and "provider is 'heavy'" in failed["msg"], failed
    assert rolled.live() == good and rolled.is_up()
    assert rolled.started()[1] == second, "the second replica was never touched"
    assert (rolled.started()[0] == first) == dry_boot


def test_no_request_fails_during_a_good_or_a_bad_promotion(rolled: Rolled) -> None:
    load = make_load(rolled.url(), 16, stream_seconds=1.0)
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


def test_a_replica_that_cannot_be_drained_keeps_its_requests(rolled: Rolled) -> None:
    good, before = rolled.live(), rolled.started()
    load = make_load(rolled.url(), 4, streams=1.0, stream_seconds=6.0).start()
    wait_until(lambda: rolled.edge.read_servers()[0].sessions > 0)
    failed = rolled.promote(config=config("10", STOCK), profile=profile(0.5), drain_timeout=0.5)
    report = load.stop()
    assert failed["failed"] and "was not drained within 0.5 s" in failed["msg"], failed
    assert report.failed == 0 and report.streams >= 4, report
    assert rolled.live() == good and rolled.started() == before and rolled.is_up()


def test_a_replica_that_dies_while_the_next_is_promoted_causes_a_rollback_of_all(rolled: Rolled) -> None:
    good = rolled.live()
    spawned = rolled.spawn("", config=config("11", STOCK), profile=profile(0.5), dry_boot=False, settle=1.0)
    wait_until(lambda: rolled.edge.read_servers()[1].status == "MAINT")
    os.kill(rolled.api.inspect_container(rolled.routers[0])["State"]["Pid"], signal.SIGKILL)
    answer = json.loads(spawned.communicate(timeout=60)[0])
    assert answer["failed"] and "did not stay up" in answer["msg"] and "rolled back to" in answer["msg"], answer
    assert rolled.live() == good
    wait_until(rolled.is_up)


CLOSE = ("promotion.locked_run", "PromotionRun", "_close", 1)
FIRST = [
    ("promotion.volume_writer", "Writer", "_request", 8),
    ("router.edge_traffic", "EdgeTraffic", "drain", 1),
    ("router.promoted_container", "PromotedContainer", "reload", 1),
]
# With a good candidate the second reload is that of the second replica; with a bad one it belongs to the rollback.
SECOND = [
    ("router.promoted_container", "PromotedContainer", "verify", 1),
    ("router.edge_traffic", "EdgeTraffic", "readmit", 1),
    ("router.promoted_container", "PromotedContainer", "reload", 2),
    ("router.promoted_container", "PromotedContainer", "verify", 2),
]
# A bad candidate takes the same steps as a good one until its verification.
STEPS = {"good": [*FIRST, *SECOND, ("router.edge_traffic", "EdgeTraffic", "drain", 2), CLOSE], "bad": SECOND}


@pytest.mark.parametrize("kind", ["good", "bad"])
def test_a_promotion_killed_before_any_step_is_resolved_by_the_next_run(rolled: Rolled, kind: str) -> None:
    quick: dict[str, Any] = {"settle": 0.1, "grace": 1, "dry_boot": False}
    live, other = "6", "7"
    assert not rolled.promote(config=config(live, STOCK), profile=profile(), **quick)["failed"]
    probes = [{"path": "/nowhere"}] if kind == "bad" else []
    for step in STEPS[kind]:
        assert kill_before(rolled.spawn, step, config=config(other, STOCK), profile=profile(), probes=probes, **quick), step
        assert all(files in (expected(live), expected(other)) for files in rolled.live()), step
        # The next run promotes the old config (and undoes the killed run) or the new one (and completes it); both succeed.
        if kind == "good" and step[3] == 2:
            live, other = other, live
        back = rolled.promote(config=config(live, STOCK), profile=profile(), **quick)
        assert not back["failed"], (step, back)
        assert rolled.live() == [expected(live)] * 2 and rolled.is_up(), step


def test_a_first_promotion_killed_before_any_step_is_completed_by_the_next_run(rolled: Rolled) -> None:
    """Neither the replicas nor the volume exist yet."""
    new = expected("1")
    # sweep, a link for each file, revision, reserve, journal, a pointer for each replica, journal
    for number, step in enumerate(
        [*(("promotion.volume_writer", "Writer", "_request", nth) for nth in (2, 3, 4, 6, 7, 9, 10, 11, 12)), CLOSE]
    ):
        names = [f"{rolled.name}-first-{number}-{each}" for each in "ab"]
        first = Rolled(rolled.api, rolled.engine, name=names[0])
        given = {"replicas": names, "edge": "", "volume": names[0] + "-cfg", "config": config("1", STOCK), "profile": profile()}
        try:
            assert kill_before(first.spawn, step, **given, dry_boot=False), step
            for name in names:
                assert first.live_of(name) in ({}, new), step
            done = first.promote(**given, dry_boot=False)
            assert not done["failed"], (step, done)
            assert [first.live_of(name) for name in names] == [new, new], step
            assert not first.promote(**given)["changed"], step
        finally:
            first.forget_volume()


def test_a_replica_that_does_not_run_in_its_own_folder_is_reported(rolled: Rolled) -> None:
    answer = rolled.promote(config=config("8", STOCK), profile=profile(), replicas=[rolled.name + "-backend"])
    assert answer["failed"] and rolled.name + "-backend" in answer["msg"]
