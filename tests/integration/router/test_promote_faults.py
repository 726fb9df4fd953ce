# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fault matrix: when any process dies or fails during a promotion, the volume holds the old revision or the new one."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.promotion import crash_loops
from ansible_collections.anvil.serving.plugins.module_utils.promotion.journal import parse_journal
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import OBSERVATION
from ansible_collections.anvil.serving.plugins.module_utils.router import module_parameters
from ansible_collections.anvil.serving.plugins.module_utils.router.container_state import parse_time
from ansible_collections.anvil.serving.plugins.module_utils.router.promoted_container import PromotedContainer
from bed import Bed
from harness import run_module
from routersite import (
    ALTER,
    CRASHING,
    NEW_IMAGE,
    OLD_IMAGE,
    Site,
    assert_whole,
    halt_before,
    journal_state,
    kill_before,
    make_folder_after_the_first_failure,
    profile_config,
    profile_text,
    wait_until,
)

CUT_STREAM = """
side_containers = importlib.import_module(base + 'module_utils.docker.side_containers')
send, calls = side_containers.SideProcess.send, []
def cut(self, content):
    if b'put_folder' in content:
        self._socket.sendall(content[:len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    send(self, content)
side_containers.SideProcess.send = cut
"""
Step = tuple[str, str, str, int]


def writes(*numbers: int) -> list[Step]:
    """The steps before these requests to the writer. Requests for the time are not counted: they change nothing."""
    return [("promotion.volume_writer", "Writer", "_request", number) for number in numbers]


BEGIN: list[Step] = [
    ("router.router_container", "RouterContainer", "validate", 1),
    ("router.router_container", "RouterContainer", "start_dry_boot", 1),
    ("promotion.promote", "", "open_writer", 1),
]
VERIFY: Step = ("router.promoted_container", "PromotedContainer", "verify", 1)
# sweep, revision, reserve, journal, pointer
SWITCH: list[Step] = [*writes(2, 4, 5, 7, 8), ("router.promoted_container", "PromotedContainer", "reload", 1), VERIFY]
STEPS: dict[str, list[Step]] = {
    "good": [*BEGIN, *SWITCH, *writes(9), ("promotion.locked_run", "PromotionRun", "_close", 1)],
    # A bad candidate takes the same steps as a good one until it is loaded. journal, pointer; journal
    "bad": [
        VERIFY,
        *writes(10, 11),
        ("router.promoted_container", "PromotedContainer", "reload", 2),
        ("router.promoted_container", "PromotedContainer", "verify", 2),
        *writes(12),
    ],
    # sweep, a link for each file, revision, reserve, journal, pointer, journal
    "first": [*BEGIN, *writes(2, 3, 4, 6, 7, 9, 10, 11), ("promotion.locked_run", "PromotionRun", "_close", 1)],
}
BARE = profile_config(profile_path=None)
QUICK = {"settle": 0.1, "grace": 1}


@pytest.mark.parametrize("kind", ["good", "bad"])
def test_a_promotion_killed_before_any_step_is_resolved_by_the_next_run(site: Site, kind: str) -> None:
    assert site.promote(config=BARE)["changed"]
    site.start_router()
    site.wait_healthy()
    candidate = profile_config("2", profile_path=None) if kind == "good" else CRASHING
    for step in STEPS[kind]:
        # A dry boot would stop the bad candidate before the steps that are tested here.
        assert kill_before(site.spawn, step, config=candidate, dry_boot=step[2] == "start_dry_boot", **QUICK), step
        assert_whole(site, {"config.toml": BARE}, {"config.toml": candidate})
        if kind == "good":
            wait_until(lambda: site.healthz() == 200)
        back = site.promote(config=BARE, **QUICK)
        assert not back["failed"], (step, back)
        assert site.live_files() == {"config.toml": BARE} and site.healthz() == 200, step
        assert not site.promote(config=BARE)["changed"], step


def test_a_first_promotion_killed_before_any_step_is_completed_by_the_next_run(make_site: Callable[..., Site]) -> None:
    for step in STEPS["first"]:
        site = make_site()
        assert kill_before(site.spawn, step, config=BARE, dry_boot=step[2] == "start_dry_boot"), step
        assert_whole(site, {}, {"config.toml": BARE})
        done = site.promote(config=BARE)
        assert not done["failed"], (step, done)
        assert site.live_files() == {"config.toml": BARE}
        site.clean()


@pytest.mark.parametrize(
    "change",
    ["described['content'] = described['content'][:len(described['content']) // 8 * 4]", "described['sha256'] = '0' * 64"],
    ids=["truncated", "wrong hash"],
)  # fmt: skip
def test_a_file_that_arrives_altered_is_refused_and_changes_nothing(running: Site, change: str) -> None:
    old, state = running.live_files(), running.inspect()["State"]
    answer = answer_of(running.spawn(ALTER.format(change=change), profile=profile_text(0.5), **QUICK))
    assert answer["failed"] and "arrived altered" in str(answer["msg"]), answer
    assert_whole(running, old)
    assert running.inspect()["State"] == state
    assert running.promote(profile=profile_text(0.5), **QUICK)["changed"]


def test_a_stream_cut_in_the_middle_of_a_write_changes_nothing(running: Site) -> None:
    old = running.live_files()
    killed = running.spawn(CUT_STREAM, profile=profile_text(0.5))
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert_whole(running, old)
    assert running.promote(profile=profile_text(0.5), **QUICK)["changed"]


# ------------------------------------------------------------------------------------------------------------- volumes


def hold(site: Site) -> str:
    """Start a container that mounts the volume: a tmpfs exists only while a container mounts it."""
    name = site.name + "-holder"
    site.engine.create_container(
        site.image,
        ["-c", "import time; time.sleep(600)"],
        name=name,
        entrypoint=["python3"],
        host_config={"binds": [f"{site.volume}:/v"], "auto_remove": True},
    )
    site.engine.start_container(name)
    return name


def fill(site: Site) -> None:
    """Write into the volume until it is full."""
    code = "try:\n f = open('/v/fill', 'ab', 0)\n while f.write(bytes(4096)): pass\nexcept OSError: pass"
    site.engine.exec_in(site.name + "-holder", ["python3", "-c", code], user="0")


def test_a_full_volume_changes_nothing(site: Site) -> None:
    site.api.create_volume(site.volume, "local", {"type": "tmpfs", "device": "tmpfs", "o": "size=256k"})
    hold(site)
    try:
        assert site.promote(config=profile_config(), profile=profile_text())["changed"]
        site.start_router()
        site.wait_healthy()
        old = site.live_files()
        fill(site)
        failed = site.promote(profile=profile_text(0.5), **QUICK)
        assert failed["failed"] and "No space left" in failed["msg"], failed
        assert_whole(site, old)
        assert site.healthz() == 200
        site.engine.exec_in(site.name + "-holder", ["rm", "/v/fill"], user="0")
        assert site.promote(profile=profile_text(0.5), **QUICK)["changed"]
    finally:
        site.engine.remove_container(site.name + "-holder")


def test_a_volume_that_fills_up_after_the_switch_does_not_stop_the_rollback(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.api.create_volume(site.volume, "local", {"type": "tmpfs", "device": "tmpfs", "o": "size=256k"})
    holder = hold(site)
    reload, fills = PromotedContainer.reload, [True, False]

    def fill_and_reload(self: PromotedContainer, patient: bool) -> bool:
        if fills.pop(0):
            fill(site)
        return reload(self, patient)

    monkeypatch.setattr(PromotedContainer, "reload", fill_and_reload)
    try:
        assert site.promote(config=BARE)["changed"]
        site.start_router()
        site.wait_healthy()
        failed = site.promote(config=CRASHING, **QUICK)
        assert failed["failed"] and "rolled back to" in failed["msg"] and "journal" not in failed["msg"], failed
        assert site.live_files() == {"config.toml": BARE} and site.healthz() == 200 and journal_state(site) == "done"
        # The run cannot reserve space for a rollback, so it switches nothing.
        assert "No space left" in site.promote(config=profile_config("2", None), **QUICK)["msg"]
        # When the volume is full again at once, the pointer still moves back, and the next run closes the journal.
        site.engine.exec_in(holder, ["rm", "/v/fill"], user="0")
        fills[:] = [True, True]
        failed = site.promote(config=CRASHING, **QUICK)
        assert failed["failed"] and "rolled back to" in failed["msg"], failed
        assert site.live_files() == {"config.toml": BARE} and site.healthz() == 200
        site.engine.exec_in(holder, ["rm", "/v/fill"], user="0")
        fills[:] = [False] * 3
        assert not site.promote(config=BARE, **QUICK)["failed"]
        assert journal_state(site) == "done" and not site.promote(config=BARE, **QUICK)["changed"]
    finally:
        site.engine.remove_container(holder)


def test_a_read_only_volume_is_reported(site: Site) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "config.toml").write_text(BARE)
        site.api.create_volume(site.volume, "local", {"type": "none", "device": folder, "o": "bind,ro"})
        site.start_router()
        site.wait_healthy()
        failed = site.promote(config=profile_config("2", None), **QUICK)
        assert failed["failed"] and "Read-only" in failed["msg"], failed
        assert site.healthz() == 200
        assert [path.name for path in Path(folder).iterdir()] == ["config.toml"]
        site.clean()


def test_a_missing_volume_is_created_only_for_a_good_candidate(site: Site) -> None:
    for given in ({"config": "[router\n"}, {"config": CRASHING}):
        refused = site.promote(**given, dry_boot=True)
        assert refused["failed"] and site.engine.inspect_volume(site.volume) is None, refused
    assert site.promote(config=BARE)["changed"] and site.engine.inspect_volume(site.volume) is not None


def test_a_volume_whose_folder_is_gone_is_an_error_and_the_router_serves_on(running: Site) -> None:
    folder = Path(running.api.inspect_volume(running.volume)["Mountpoint"])
    state = running.inspect()["State"]
    folder.rename(folder.with_name("away"))
    try:
        for given in ({"profile": profile_text(0.5)}, {"config": profile_config(), "profile": profile_text(0.5)}):
            failed = running.promote(**given, **QUICK)
            assert failed["failed"] and failed["problems"], failed
        assert "no such file or directory" in failed["msg"], failed
        assert running.inspect()["State"] == state and running.healthz() == 200
    finally:
        if folder.exists():
            folder.rmdir()
        folder.with_name("away").rename(folder)
    assert running.promote(profile=profile_text(0.5), **QUICK)["changed"] and running.healthz() == 200


# -------------------------------------------------------------------------------------------------- during a promotion


def begin(site: Site, **given: object) -> object:
    """Start a promotion in a process of its own and return while it verifies."""
    spawned = site.spawn(**{"settle": 3, "profile": profile_text(0.5), **given})
    wait_until(lambda: journal_state(site) == "switching", every=0.005)
    return spawned


def answer_of(spawned: object) -> dict[str, object]:
    said: dict[str, object] = json.loads(spawned.communicate(timeout=60)[0])  # type: ignore[attr-defined]
    return said


def test_a_promotion_fails_cleanly_when_its_router_is_removed(running: Site) -> None:
    old = running.live_files()
    spawned = begin(running)
    running.engine.remove_container(running.name)
    answer = answer_of(spawned)
    assert answer["failed"] and answer["problems"], answer
    assert_whole(running, old, {**old, "profile.json": profile_text(0.5)})
    done = running.promote(profile=profile_text(0.6))
    assert done["changed"] and not done["reloaded"], done
    assert_whole(running, {**old, "profile.json": profile_text(0.6)})


def test_a_promotion_fails_cleanly_when_its_router_is_paused(running: Site) -> None:
    old, started = running.live_files(), running.inspect()["State"]["StartedAt"]
    spawned = begin(running)
    # Pause the new process: the restart would end a pause of the old one.
    wait_until(lambda: running.inspect()["State"]["StartedAt"] != started and running.healthz() == 200)
    running.api.pause(running.name)
    answer = answer_of(spawned)
    if running.inspect()["State"]["Paused"]:  # the roll-back's restart ends a pause
        running.api.unpause(running.name)
    assert answer["failed"], answer
    assert_whole(running, old, {**old, "profile.json": profile_text(0.5)})
    done = running.promote(config=old["config.toml"], profile=old["profile.json"], **QUICK)
    assert not done["failed"] and running.live_files() == old and running.healthz() == 200
    assert not running.promote(config=old["config.toml"], profile=old["profile.json"])["changed"]


def test_a_paused_router_is_not_reloaded(running: Site) -> None:
    running.api.pause(running.name)
    done = running.promote(profile=profile_text(0.5), **QUICK)
    assert done["changed"] and not done["reloaded"] and "paused" in json.dumps(done["actions"]), done
    running.api.unpause(running.name)
    assert running.info()["router"]["loaded"] is False
    assert running.promote(profile=profile_text(0.5), **QUICK)["reloaded"]


def test_the_running_image_validates_when_its_tag_is_moved(site: Site) -> None:
    tag = "anvil.local/" + site.name
    site.api.tag(OLD_IMAGE, tag, "1")
    site.image = tag + ":1"
    assert site.promote(config=BARE)["changed"]
    site.start_router()
    site.wait_healthy()
    site.api.tag(NEW_IMAGE, tag, "1")
    try:
        # Move the tag again after validation and before the first write.
        halted = halt_before(site.spawn, "promotion.promote", "", "open_writer", config=profile_config("2", None), **QUICK)
        site.api.tag("anvil.local/edge:1", tag, "1")
        done = halted.finish()
        assert done["changed"] and "validated with the image that runs" in json.dumps(done["warnings"]), done
        assert site.healthz() == 200
    finally:
        site.api.remove_image(site.image, force=True)
        site.image = OLD_IMAGE


@pytest.mark.parametrize(("sig", "back"), [(signal.SIGTERM, False), (signal.SIGKILL, False), (signal.SIGTERM, True)])
def test_a_promotion_fails_cleanly_when_the_engine_stops(running: Site, bed: Bed, sig: signal.Signals, back: bool) -> None:
    """back: whether the engine is started again while the promotion still runs."""
    old = running.live_files()
    spawned = begin(running, settle=20 if back else 3)
    bed.stop_engine(sig)
    if back:
        bed.start_engine()
    answer = answer_of(spawned)
    bed.start_engine()
    assert answer["failed"] and "Traceback" not in json.dumps(answer), answer
    # An engine that dies between the stop and the start of a restart leaves the container down: the next run starts it.
    assert_whole(running, old, {**old, "profile.json": profile_text(0.5)})
    done = running.promote(profile=profile_text(0.5), **QUICK)
    assert not done["failed"] and running.live_files()["profile.json"] == profile_text(0.5), done
    assert running.healthz() == 200


# ---------------------------------------------------------------------------------------------------------- candidates

# The mapping version of the candidate's config tells this router how to fail.
ACTOR = r"""
import json, os, re, subprocess, sys, time
version = re.search('mapping_version = "([^"]*)"', open("/etc/anvil/config.toml").read()).group(1)
act, _, seconds = version.partition(" ")
if act == "say":
    said = os.environ["SAY_TOKEN"]
    print(said, json.dumps(said), repr(said), json.dumps({"line": json.dumps({"key": said})}))
    sys.exit(7)
if act in ("refuse", "mute"):
    import http.server
    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if act == "mute":
                time.sleep(600)
            self.send_error(503)
        do_POST = do_GET
    http.server.ThreadingHTTPServer(("", 8000), Refuse).serve_forever()
router = subprocess.Popen(["anvil-serving", "router", "run", "--host", "0.0.0.0", "--port", "8000", "--config",
                           "/etc/anvil/config.toml"])
if act == "mortal":
    while not os.path.exists("/tmp/die"):
        time.sleep(0.1)
    router.kill()
    sys.exit(7)
try:
    router.wait(float(seconds) if act == "die" or (act == "stateful" and os.path.exists("/state/state")) else None)
except subprocess.TimeoutExpired:
    router.kill()
    sys.exit(7)
"""


@pytest.fixture
def actor(site: Site) -> Site:
    """A router that fails as its config tells it to; with the config BARE it is the real one."""
    assert site.promote(config=BARE)["changed"]
    site.start_router(command=["python3", "-c", ACTOR])
    site.wait_healthy()
    return site


@pytest.mark.parametrize(
    ("version", "settle", "why"),
    [
        ("die 0", 0.4, "the container did not come up"),
        ("die 1", 2.0, "the container did not come up"),
        ("die 5", None, "the container did not come up"),
        ("refuse", 0.4, "did not answer"),
        ("mute", 0.4, "did not answer"),
    ],
)
def test_a_candidate_that_fails_later_is_rolled_back(actor: Site, version: str, settle: float | None, why: str) -> None:
    # The rollback gives the old config the same time to come up.
    start = 4.0 if why == "did not answer" else 30.0
    failed = actor.promote(config=profile_config(version, None), settle=settle, start_timeout=start, grace=1)
    assert failed["failed"] and why in failed["msg"] and "rolled back to" in failed["msg"], failed
    assert "verified" in failed["msg"]
    assert actor.live_files() == {"config.toml": BARE} and actor.healthz() == 200


def test_a_log_in_a_failure_shows_no_secret_of_the_router(site: Site) -> None:
    secret = "zq\"zq\\z'özq"
    assert site.promote(config=BARE)["changed"]
    site.start_router({"SAY_TOKEN": secret}, command=["python3", "-c", ACTOR])
    site.wait_healthy()
    for dry_boot in (True, False):
        failed = site.promote(config=profile_config("say", None), dry_boot=dry_boot, **QUICK)
        assert failed["failed"] and "<hidden>" in str(failed["problems"]), failed
        assert "zq" not in str([each["log"] for each in failed["problems"]]), failed


@pytest.mark.parametrize("version", ["die 0", "die 1", "die 5", "refuse", "mute"])
def test_a_candidate_that_does_not_come_up_never_reaches_the_volume(actor: Site, version: str) -> None:
    before, state = actor.snapshot(), actor.inspect()["State"]
    failed = actor.promote(config=profile_config(version, None), start_timeout=2.0, settle=None, dry_boot=True)
    assert failed["failed"] and "nothing was changed" in failed["msg"], failed
    assert actor.snapshot() == before and actor.inspect()["State"] == state and actor.healthz() == 200


def test_a_router_that_dies_after_verification_is_rolled_back_by_the_next_run(
    actor: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crash_loops, "SHORTEST_TRUST", 3.0)
    late = {"config": profile_config("mortal", None), **QUICK}
    assert actor.promote(**late)["changed"]
    actor.engine.exec_in(actor.name, ["touch", "/tmp/die"], user="0")
    wait_until(lambda: actor.inspect()["RestartCount"] > 1)
    assert "is in a restart loop: restarted" in str(actor.info()["restarts"])
    predicted = actor.promote(check=True, **late)
    assert predicted["changed"] and "if it does not keep running, go back to" in str(predicted["actions"]), predicted
    assert "verify" not in predicted["actions"] and "is in a restart loop" in str(predicted["warnings"])
    seen = actor.promote(**late)
    assert seen["failed"] and "does not keep running" in seen["msg"] and "rolled back to" in seen["msg"], seen
    assert actor.live_files() == {"config.toml": BARE} and actor.healthz() == 200 and actor.inspect()["RestartCount"] == 0
    # The next run observes this config longer than its ended processes lived, whatever the settle time.
    actor.engine.exec_in(actor.name, ["rm", "/tmp/die"], user="0")
    again = actor.promote(**late)
    assert again["changed"] and again["verified"]["seconds"] >= 3, again
    assert not actor.promote(**late)["changed"] and actor.info()["restarts"] == []


def test_a_restart_that_does_not_last_fails(actor: Site) -> None:
    assert actor.promote(config=profile_config("stateful 1.5", None), **QUICK)["changed"]
    restart = {"replicas": [actor.name], "grace": 1}
    done = run_module("anvil_router_restart", **restart)
    assert done["changed"] and done["seconds"][actor.name] >= 2, done
    actor.engine.exec_in(actor.name, ["sh", "-c", "mkdir -p /state && touch /state/state"], user="0")
    failed = run_module("anvil_router_restart", **restart)
    assert failed["failed"] and "did not stay up after the restart" in failed["msg"], failed


def test_a_candidate_that_fails_only_with_the_volumes_of_the_router_is_rolled_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dry boot mounts empty volumes in place of the router's, so it does not find the failure."""
    monkeypatch.setattr(module_parameters, "OBSERVATION", 4.0)
    assert site.promote(config=BARE)["changed"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        Path(folder, "state").touch()
        site.start_router(command=["python3", "-c", ACTOR], mounts=[{"Type": "bind", "Source": folder, "Target": "/state"}])
        site.wait_healthy()
        failed = site.promote(config=profile_config("stateful 3", None), settle=None, dry_boot=True)
        assert failed["failed"] and "did not come up" in failed["msg"] and "rolled back to" in failed["msg"], failed
        assert site.live_files() == {"config.toml": BARE} and site.healthz() == 200


def test_a_config_observed_in_full_is_observed_more_briefly_the_next_time(actor: Site) -> None:
    other = profile_config("2", None)
    began = time.monotonic()
    first = actor.promote(config=other, settle=None, dry_boot=True)
    assert first["changed"] and time.monotonic() - began >= OBSERVATION, first
    # Back to a config with no evidence; without a dry boot the router itself is observed.
    back = actor.promote(config=BARE, settle=None)
    assert back["verified"]["seconds"] >= OBSERVATION, back
    # Each was observed in full before.
    for given in ({"config": other}, {"config": BARE}):
        again = actor.promote(**given, settle=None)
        assert again["changed"] and 2.0 <= again["verified"]["seconds"] < OBSERVATION, again


def test_successive_profiles_on_a_config_with_earlier_evidence_are_verified_quickly(running: Site) -> None:
    wait_until(lambda: time.time() - parse_time(running.inspect()["State"]["StartedAt"]) > OBSERVATION)
    # Evidence for the first is the process that runs; for the second, the note in the meta.json of the first.
    for score in (0.5, 0.6):
        done = running.promote(profile=profile_text(score), settle=None)
        assert done["changed"] and 2.0 <= done["verified"]["seconds"] < OBSERVATION, done


def test_a_failed_restart_is_reported_and_the_next_run_continues(site: Site) -> None:
    assert site.promote(config=BARE)["changed"]
    folder = tempfile.mkdtemp()
    site.start_router(mounts=[{"Type": "bind", "Source": folder, "Target": "/extra", "ReadOnly": True}])
    site.wait_healthy()
    shutil.rmtree(folder)  # now no start can succeed, neither that of the candidate nor that of the rollback
    failed = site.promote(config=profile_config("2", None), **QUICK)
    assert failed["failed"] and "the roll back to" in failed["msg"], failed
    journal = parse_journal(site.snapshot().journal, "")
    assert journal is not None and journal.state == "going back"
    assert_whole(site, {"config.toml": BARE})
    Path(folder).mkdir()
    site.api.start(site.name)
    done = site.promote(config=profile_config("2", None), **QUICK)
    assert done["changed"] and site.healthz() == 200 and "this run continues it" in json.dumps(done["warnings"]), done
    shutil.rmtree(folder)


def test_a_restart_that_fails_once_is_rolled_back_and_verified(site: Site) -> None:
    assert site.promote(config=BARE)["changed"]
    folder = tempfile.mkdtemp()
    site.start_router(mounts=[{"Type": "bind", "Source": folder, "Target": "/extra", "ReadOnly": True}])
    site.wait_healthy()
    shutil.rmtree(folder)
    before = make_folder_after_the_first_failure(folder)
    answer = answer_of(site.spawn(before, config=profile_config("2", None), **QUICK))
    assert answer["failed"] and "rolled back to" in str(answer["msg"]) and "verified" in str(answer["msg"]), answer
    assert site.live_files() == {"config.toml": BARE} and site.healthz() == 200
    shutil.rmtree(folder)


def test_a_broken_old_revision_does_not_block_a_good_candidate(site: Site) -> None:
    site.api.create_volume(site.volume)
    site.write_plain({"config.toml": CRASHING})
    site.start_router()
    wait_until(lambda: site.inspect()["RestartCount"] > 0)
    assert kill_before(site.spawn, ("router.promoted_container", "PromotedContainer", "verify", 1), config=BARE)
    done = site.promote(config=profile_config("3", None), **QUICK)
    assert done["changed"] and site.healthz() == 200, done
    assert "does not come up" in json.dumps(done["warnings"])


def test_eight_concurrent_promotions_are_serialised(running: Site) -> None:
    scores = [number / 100 for number in range(11, 19)]
    with ThreadPoolExecutor(8) as pool:
        ended = list(pool.map(lambda score: running.spawn(profile=profile_text(score), **QUICK).communicate()[0], scores))
    answers = [json.loads(text) for text in ended]
    assert all(answer.get("changed") and answer["reloaded"] for answer in answers), answers
    pairs = {answer["revision"]["new"]: answer["revision"]["old"] for answer in answers}
    assert len(set(pairs.values())) == 8, "each replaced what another had made live"
    journal = parse_journal(running.snapshot().journal, "")
    assert journal is not None and set(pairs) <= {verified.revision for verified in journal.history}
    assert running.healthz() == 200


def test_side_containers_have_no_config_volume_no_ports_and_no_capabilities(site: Site) -> None:
    assert site.promote(config=BARE)["changed"]
    site.start_router({"MARK": "of the router"})
    site.wait_healthy()
    image, seen = site.inspect()["Image"], []
    halted = halt_before(
        site.spawn, "docker.side_containers", "SideProcess", "read_line", config=profile_config("2", None), dry_boot=True
    )
    owned = {"label": [f"anvil.serving.owner={socket.gethostname()} pid {halted.process.pid}"]}
    for number in range(2):
        if number:
            halted.go_on()
        seen.append([site.api.inspect_container(each["Id"]) for each in site.api.containers(all=True, filters=owned)])
    halted.kill()
    (validator,) = seen[0]
    host = validator["HostConfig"]
    assert (host["NetworkMode"], host["ReadonlyRootfs"], host["CapDrop"]) == ("none", True, ["ALL"])
    assert validator["Config"]["User"] == "65534:65534" and validator["Mounts"] == []
    (boot,) = [each for each in seen[1] if each["Config"]["Labels"].get("anvil.serving.dry-boot")]
    assert boot["HostConfig"]["CapDrop"] == ["ALL"] and "MARK=of the router" in boot["Config"]["Env"]
    for each in (validator, boot):
        assert each["Image"] == image and not each["HostConfig"]["PortBindings"] and not each["HostConfig"]["Privileged"]
        assert site.volume not in json.dumps(each["Mounts"]) + json.dumps(each["HostConfig"]["Binds"])
        assert not any(each["NetworkSettings"]["Ports"].values())
    wait_until(lambda: not site.api.containers(all=True, filters=owned))


def test_dry_boot_containers_of_a_killed_run_are_removed(running: Site) -> None:
    label = {"label": ["anvil.serving.dry-boot"]}
    assert kill_before(running.spawn, ("promotion.promote", "", "open_writer", 1), profile=profile_text(0.5), dry_boot=True)
    wait_until(lambda: not running.api.containers(all=True, filters=label), seconds=5)

    # A container that was created and never started does not end by itself; the next run removes it with its volumes.
    owned = {"label": ["anvil.serving.owner"]}
    start = ("docker.containers", "Containers", "start_container", 2)
    assert kill_before(running.spawn, start, profile=profile_text(0.6), dry_boot=True)
    assert running.api.containers(all=True, filters=label) and running.api.volumes(filters=owned)["Volumes"]
    assert running.promote(profile=profile_text(0.6), **QUICK)["changed"]
    assert not running.api.containers(all=True, filters=label) and not running.api.volumes(filters=owned)["Volumes"]
