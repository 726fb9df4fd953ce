# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Promotion on a real engine with the real routers: which revision is live afterwards."""

from __future__ import annotations

import ast
import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.documents import read_container
from ansible_collections.anvil.serving.plugins.module_utils.promotion import volume_lock
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import hash_revision
from ansible_collections.anvil.serving.plugins.module_utils.promotion.volume_lock import lock_name
from conftest import REPO
from harness import run_module
from routersite import (
    CRASHING,
    NAMES,
    NEW_IMAGE,
    TIER,
    Site,
    assert_whole,
    gateway_config,
    journal_state,
    kill_before,
    new_site,
    profile_config,
    profile_text,
    wait_until,
)

# ------------------------------------------------------------------------------------------------------- the happy path


def test_check_mode_predicts_a_promotion_and_a_second_run_changes_nothing(running: Site) -> None:
    wanted = {"config": profile_config("2"), "profile": profile_text(0.5), "dry_boot": True}
    before = running.snapshot()

    predicted = running.promote(check=True, diff=True, **wanted)
    assert predicted["changed"]
    assert running.snapshot() == before
    assert {item["before_header"].split()[0] for item in predicted["diff"]} == set(NAMES)
    assert 'mapping_version = "1"' in predicted["diff"][0]["before"]
    assert 'mapping_version = "2"' in predicted["diff"][0]["after"]

    started = running.inspect()["State"]["StartedAt"]
    applied = running.promote(**wanted)
    assert applied["changed"] and applied["reloaded"], applied
    assert applied["revision"] == predicted["revision"]
    assert "tier heavy-local: no server answers at http://127.0.0.1:9/v1" in json.dumps(applied["warnings"])
    assert applied["verified"]["started_at"] == running.inspect()["State"]["StartedAt"] != started
    assert applied["verified"]["pid"] == running.inspect()["State"]["Pid"]
    assert running.live_files() == {"config.toml": wanted["config"], "profile.json": wanted["profile"]}

    for check in (True, False):
        again = running.promote(check=check, **wanted)
        assert not again["changed"] and again["actions"] == []
    assert running.inspect()["State"]["StartedAt"] == applied["verified"]["started_at"]


def test_first_promotion_without_a_container_is_live_for_its_first_start(site: Site) -> None:
    first = site.promote(config=profile_config(), profile=profile_text())
    assert first["changed"] and not first["reloaded"] and first["revision"]["old"] is None
    assert not site.promote(config=profile_config(), profile=profile_text())["changed"]
    site.start_router()
    site.wait_healthy()
    started = site.inspect()["State"]["StartedAt"]
    assert not site.promote(config=profile_config(), profile=profile_text())["changed"]
    assert site.inspect()["State"]["StartedAt"] == started


def test_an_unchanged_promotion_creates_no_container(running: Site) -> None:
    since = int(time.time()) + 1  # the engine counts whole seconds here
    wait_until(lambda: time.time() >= since)
    assert not running.promote(config=profile_config(), profile=profile_text())["changed"]
    seen = list(
        running.api.events(
            since=since, until=int(time.time()) + 1, filters={"type": "container", "event": ["create"]}, decode=True
        )
    )
    assert [event for event in seen if running.volume in json.dumps(event)] == []


def test_a_profile_alone_keeps_the_live_config_and_restarts_without_the_grace_period(running: Site) -> None:
    since = int(time.time())
    assert running.promote(profile=profile_text(0.4), grace=30)["changed"]
    assert running.live_files() == {"config.toml": profile_config(), "profile.json": profile_text(0.4)}
    kills = {"type": "container", "event": ["kill"], "container": [running.name]}
    seen = running.api.events(since=since, until=int(time.time()) + 1, filters=kills, decode=True)
    # The container sets no stop signal and the router ignores SIGTERM; with SIGTERM the restart would take the grace period.
    assert [event["Actor"]["Attributes"]["signal"] for event in seen] == [str(int(signal.SIGINT))]


def test_a_rendered_config_changes_under_a_promoted_profile(running: Site) -> None:
    """This holds also when the profile rates a tier that the config no longer has; the real loader accepts it."""
    inventory = {"rendered": True, "repeat": False, "config": profile_config("2"), "profile": profile_text(0.1)}
    running.promote(**inventory, config_from="inventory", profile_from="inventory")
    running.promote(profile=profile_text(0.4), by="jo")
    moved = running.promote(**{**inventory, "config": profile_config("2").replace("heavy-local", "other")})
    assert moved["changed"] and "rates tier heavy-local" in str(moved["warnings"]) and "tier other" in str(moved["warnings"])
    assert running.live_files()["profile.json"] == profile_text(0.4) and 'id = "other"' in running.live_files()["config.toml"]
    row = moved["history"][0]
    assert row["origin"] == "promoted" and row["sources"]["profile.json"]["by"] == "jo"
    assert row["sources"]["config.toml"]["kind"] == "rendered"

    # After a rollback of the inventory's config the next run keeps the older one, and a second rollback goes one further back.
    after = running.promote(**inventory)["revision"]
    assert running.promote(state="rolled_back", by="jo")["revision"] == {"old": after["new"], "new": after["old"]}
    for check in (True, False):
        kept = running.promote(check=check, diff=True, **inventory)
        assert not kept["changed"] and "config: the inventory's was rolled back" in kept["kept"][1]["text"], kept["kept"]
        assert '-mapping_version = "2"' not in kept["kept"][0]["text"] and "heavy-local" in kept["kept"][1]["text"]
    further = running.promote(state="rolled_back")["revision"]
    assert further["old"] == after["old"] and further["new"] != after["new"]
    assert running.promote(**{**inventory, "repeat": True})["revision"]["new"] != after["old"]


def test_a_promoted_config_stays_and_reads_no_profile_of_the_inventory(running: Site) -> None:
    inventory = {"rendered": True, "config": "# Rendered by anvil.serving\n" + profile_config("3"), "profile": profile_text(0.1)}
    # The volume comes from an earlier release: no source is recorded, but the config's header says that it was rendered.
    running.promote(config="# Rendered by anvil.serving\n" + profile_config("2"))
    name = running.snapshot().live
    running.engine.run_side_container(
        running.image, ["-c", f"rm /v/.anvil/revisions/{name}/meta.json"], entrypoint=["sh"], user="0",
        host_config={"binds": [f"{running.volume}:/v"], "network_mode": "none"},
    )  # fmt: skip
    upgraded = running.promote(**inventory)
    assert [each["file"] for each in upgraded["kept"]] == ["profile.json"] and running.live_files()["config.toml"].endswith(
        profile_config("3")
    )
    running.promote(**inventory, profile_from="inventory")

    hand = profile_config("mine", profile_path=None)
    running.promote(config=hand)
    assert running.live_files() == {"config.toml": hand}  # the config now live does not read the inventory's profile
    for check in (True, False):
        kept = running.promote(check=check, **inventory)
        assert not kept["changed"] and [each["file"] for each in kept["kept"]] == ["config.toml"], kept
    mine = running.promote(config=inventory["config"], profile=inventory["profile"], profile_from="inventory")
    assert mine["changed"] and "the next site.yml replaces it" in str(mine["warnings"])
    # The same bytes are live already: only their recorded source changes, and the router is not restarted.
    started = running.inspect()["State"]["StartedAt"]
    back = running.promote(**inventory, config_from="inventory", profile_from="inventory")
    assert back["changed"] and "belong to the inventory" in str(back["actions"]) and not back["reloaded"]
    assert not running.promote(**inventory)["changed"] and running.inspect()["State"]["StartedAt"] == started


def test_windows_line_ends_are_normalised(running: Site) -> None:
    assert not running.promote(config=profile_config().replace("\n", "\r\n"))["changed"]


def test_a_stopped_router_is_not_started(running: Site) -> None:
    running.api.stop(running.name, timeout=0)
    done = running.promote(profile=profile_text(0.3))
    assert done["changed"] and not done["reloaded"]
    assert running.inspect()["State"]["Status"] == "exited"


def test_reload_false_is_remembered_and_loaded_by_the_next_run(running: Site) -> None:
    started = running.inspect()["State"]["StartedAt"]
    written = running.promote(profile=profile_text(0.3), reload=False)
    assert written["changed"] and written["history"][0]["loaded"] is False and journal_state(running) == "written"
    assert running.inspect()["State"]["StartedAt"] == started and running.info()["router"]["loaded"] is False
    done = running.promote(profile=profile_text(0.3))
    assert done["changed"] and done["reloaded"]
    assert not running.promote(profile=profile_text(0.3))["changed"]


def test_gateway_router_is_promoted_without_a_profile(make_site: Callable[..., Site], tmp_path: Path) -> None:
    site = make_site(NEW_IMAGE)
    token = ["llm_token", "=", '"x"'][0].upper()
    server = f'[server]\nauth_env = "{token}"\n'
    assert site.promote(config=gateway_config(server=server), dry_boot=True)["changed"]
    site.start_router({token: "open sesame", "EMPTY_TOKEN": " ", "ANVIL_SERVING_HOME": "/tmp"})
    site.wait_healthy()
    before, state = site.snapshot(), site.inspect()["State"]
    site.engine.put_file(site.name, "/tmp", ".env", b"EMPTY_TOKEN=\nFILE_TOKEN='of a file' \n", 0o644)
    for variable in ("NO_SUCH_TOKEN", "EMPTY_TOKEN"):
        for check in (True, False):
            unset = site.promote(config=gateway_config("llm.unset", f'[server]\nauth_env = "{variable}"\n'), check=check)
            assert unset["failed"] and f"{variable} is not set, or empty" in unset["msg"] and "/tmp/.env" in unset["msg"], unset
    assert (site.snapshot(), site.inspect()["State"]) == (before, state)
    with_file = site.promote(config=gateway_config("llm.file", '[server]\nauth_env = "FILE_TOKEN"\n'))
    assert with_file["reloaded"] and site.healthz() == 200, with_file
    key = tmp_path / "key"
    models = {
        "path": "/v1/models",
        "token": False,
        "header_files": {"Authorization": str(key)},
        "json": {"data.0.id": "llm.other"},
    }
    given = {"config": gateway_config("llm.other", server), "dry_boot": True, "probes": [models]}
    key.write_text("Bearer wr0ng-key\n")
    refused = site.promote(**given)
    assert refused["failed"] and "status 401" in refused["msg"] and "nothing was changed" in refused["msg"], refused
    assert "wr0ng-key" not in json.dumps(refused)
    key.write_text("Bearer open sesame\n")
    done = site.promote(**given)
    assert done["changed"] and done["reloaded"], done
    told = site.info()["router"]
    assert (told["generation"], told["version"]) == ("gateway", "2.0.2")
    assert told["healthy"] and told["token_set"] and told["unauthorized_status"] == 401
    assert told["revision"] == done["revision"]["new"] and told["loaded"]
    refused = site.promote(config=gateway_config("llm.third", server), profile=profile_text())
    assert refused["failed"] and "reads no profile" in refused["msg"]


# ---------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"config": "[router\n"}, "loader refuses the file"),
        ({"config": gateway_config()}, "loader refuses the file"),
        ({"config": profile_config(profile_path=None)}, "would never be read"),
        ({"config": profile_config(profile_path="/etc/anvil/other.json")}, "would never be read"),
        ({"config": '[server]\nauth_env = "NO_SUCH_TOKEN"\n' + profile_config()}, "NO_SUCH_TOKEN is not set, or empty"),
        ({"config": '[server]\nauth_env = "EMPTY_TOKEN"\n' + profile_config()}, "EMPTY_TOKEN is not set, or empty"),
        ({"profile": "{"}, "profile.json"),
        ({"profile": "[]"}, "profile.json"),
        ({"profile": profile_text(tier_id="heavy-lokal")}, "did you mean heavy-local?"),
        ({"profile": profile_text(work_class="planing")}, "did you mean planning?"),
        ({"profile": profile_text(7.5)}, "0 to 1"),
        ({"profile": profile_text(decision="ALLOW")}, "unknown decision"),
    ],
)  # fmt: skip
def test_a_bad_candidate_changes_nothing(running_shared: Site, given: dict[str, str], said: str) -> None:
    before, container = running_shared.snapshot(), running_shared.inspect()
    refused = running_shared.promote(**given)
    assert refused["failed"] and said in refused["msg"], refused
    assert running_shared.snapshot() == before
    assert running_shared.inspect()["State"] == container["State"]


@pytest.fixture(scope="module")
def gateway_site() -> Iterator[Site]:
    site = new_site(NEW_IMAGE)
    yield site
    site.clean()


@pytest.fixture(scope="module")
def running_shared() -> Iterator[Site]:
    site = new_site()
    assert site.promote(config=profile_config(), profile=profile_text())["changed"]
    site.start_router({"EMPTY_TOKEN": ""})
    site.wait_healthy()
    yield site
    site.clean()


def test_all_findings_of_a_candidate_are_reported_at_once(running_shared: Site) -> None:
    entries = [json.loads(profile_text(score, tier_id=tier))["entries"][0] for score, tier in ((2, "a"), (0.5, "b"))]
    profile = json.dumps({**json.loads(profile_text()), "entries": [*entries, entries[1], {}]})
    refused = running_shared.promote(config=profile_config(profile_path="/x"), profile=profile)
    assert len(refused["problems"]) >= 6, refused["msg"]
    predicted = running_shared.promote(check=True, config=profile_config(profile_path="/x"), profile=profile)
    assert predicted["problems"] == refused["problems"]


def test_loader_errors_after_the_first_are_reported_too(running_shared: Site, make_site: Callable[..., Site]) -> None:
    twice = profile_config() + TIER.replace("8192", "-1").replace("heavy-local", "other") + TIER
    refused = running_shared.promote(config=twice.replace('["heavy-local"]', '["nowhere"]'), profile=profile_text(2, tier_id="x"))
    for mistake in ("duplicate tier id", "nowhere", "'other'", "unknown tier 'x'", "0 to 1"):
        assert mistake in refused["msg"], (mistake, refused["msg"])
    routes = gateway_config().replace("[router.model_routes]", '[router.model_routes]\n"llm.a" = "no-a"\n"llm.b" = "no-b"')
    refused = make_site(NEW_IMAGE).promote(config=routes + TIER)
    for mistake in ("duplicate tier id", "no-a", "no-b"):
        assert refused["msg"].count(mistake) == 1, (mistake, refused["msg"])


PURPOSE = '[[router.purpose_models]]\nid = "e"\nkind = "nonsense"\nmodel = "m"\nbase_url = "ftp://x"\n'
SPEECH = '[[router.audio_routes]]\nid = "a"\npurpose = "stt"\nmodel = ""\nbase_url = "ftp://y"\n'


@pytest.mark.parametrize(
    ("config", "mistakes"),
    [
        (
            TIER.replace("8192", "-1").replace('"openai"', '"smoke"').replace('"local"', '"cloudy"')
            + 'colour = "red"\nsize = 3\n',
            ["colour", "context_limit must", "dialect 'smoke'", "privacy 'cloudy'"],
        ),
        (TIER.replace('model = "fake"', "model = 3").replace('auth_env = "ANVIL_HEAVY_KEY"\n', ""), ["auth_env", "model must"]),
        (TIER + PURPOSE + SPEECH, ["kind 'nonsense'", "ftp://x", "ftp://y", "model must be a non-empty"]),
        (TIER.replace("8192", "0"), ["workload_host", "context_limit must", "api_keys_path must"]),
        (TIER.replace("8192", "0"), ["relay_timeout must", "exhaustion_status must", "context_limit must"]),
    ],
    ids=["tier", "missing", "lists", "server", "router"],
)
def test_every_mistake_in_one_table_is_reported_once(
    gateway_site: Site, config: str, mistakes: list[str], request: pytest.FixtureRequest
) -> None:
    case = request.node.callspec.id
    server = '[server]\nworkload_host = "-"\napi_keys_path = "keys"\n' if case == "server" else ""
    plain = "relay_timeout = -1\nexhaustion_status = 7\n" if case == "router" else ""
    refused = gateway_site.promote(config=f'{server}[router]\n{plain}{config}\n[router.model_routes]\n"llm.a" = "heavy-local"\n')
    reasons = [problem["why"] for problem in refused["problems"]]
    for mistake in mistakes:
        assert sum(mistake in why for why in reasons) == 1, (mistake, reasons)
    assert len(reasons) == len(mistakes), reasons


@pytest.mark.parametrize("name", [";rm -rf /", "$(id)", "../../etc/passwd", "a/../../images/json", "a\nb", "x" * 300, ""])
def test_hostile_names_are_refused(site: Site, name: str) -> None:
    for check in (True, False):
        for given in ({"volume": name}, {"container": name}, {"replicas": ["nowhere", name]}):
            answer = site.promote(config=profile_config(), check=check, **given)
            assert answer["failed"] and answer["problems"], (check, given, answer)
    for which, given in (
        ("anvil_router_info", {"container": name}),
        ("anvil_router_restart", {"replicas": [name]}),
        ("anvil_router_restart", {"replicas": ["nowhere"], "edge": name}),
        ("anvil_router_edge", {"container": name, "force": True}),
        ("anvil_router_tier", {"containers": [name], "token": "x"}),
    ):
        answer = run_module(which, **given)
        assert answer["failed"] and answer["problems"], (which, given, answer)


def test_a_prefix_of_another_containers_id_is_not_a_container_name(site: Site) -> None:
    stranger = site.start_router(command=["sleep", "600"])
    before = site.inspect()
    assert site.engine.inspect_container(stranger) == read_container(before)
    for name in (stranger[:1], stranger[:12], stranger[:63]):
        predicted, restarted = (
            run_module("anvil_router_restart", check=check, replicas=[name], grace=0) for check in (True, False)
        )
        assert predicted["problems"] == restarted["problems"]
        assert restarted["failed"] and "No such container: " + name in restarted["msg"], restarted
        told = site.info(container=name)
        assert not told["failed"] and told["router"]["state"] == "absent", told
        for act in (
            lambda name=name: site.engine.signal_container(name, "KILL"),
            lambda name=name: site.engine.rename_container(name, site.name + "-taken"),
            lambda name=name: site.engine.put_file(name, "/tmp", "x", b"x"),
            lambda name=name: site.engine.read_archive(name, "/etc"),
            lambda name=name: site.engine.exec_in(name, ["true"]),
            lambda name=name: site.engine.start_container(name),
            lambda name=name: site.engine.wait_container(name, 5),
        ):
            with pytest.raises(AnvilError, match="No such container"):
                act()
        assert site.engine.read_log(name) == [] and site.engine.read_log_frames(name, 5, 0) == b""
        site.engine.stop_container(name, 0)
        site.engine.remove_container(name)
    assert site.inspect() == before

    # A container whose full name is such a prefix is found and removed; the other container stays.
    made = site.engine.create_container(site.image, [], name=stranger[:12])
    found = site.engine.inspect_container(stranger[:12])
    assert found is not None and found["Id"] == made
    site.engine.remove_container(stranger[:12])
    assert site.engine.inspect_container(made) is None
    assert site.inspect() == before


@pytest.mark.parametrize("check", [True, False])
def test_config_and_profile_may_be_files_on_the_host(site: Site, tmp_path: Path, check: bool) -> None:
    config, profile = tmp_path / "any.toml", tmp_path / "any.json"
    config.write_text(profile_config())
    profile.write_text(profile_text())
    sources = {"config_src": str(config), "profile_src": str(profile)}
    done = site.promote(check=check, **sources)
    assert done["changed"] and done["revision"]["old"] is None, done
    written = {"config.toml": config.read_bytes(), "profile.json": profile.read_bytes()}
    assert done["revision"]["new"] == hash_revision(written)
    if not check:
        assert site.live_files() == {name: content.decode() for name, content in written.items()}
        assert not site.promote(config=profile_config(), profile=profile_text())["changed"]


@pytest.mark.parametrize("key", ["config_src", "profile_src"])
def test_an_unreadable_file_on_the_host_is_reported(site: Site, tmp_path: Path, key: str) -> None:
    text = tmp_path / "bytes"
    text.write_bytes(b"\xff\xfe")
    for path, why in ((tmp_path / "missing", "No such file"), (text, "not valid UTF-8"), (tmp_path, "Is a directory")):
        for check in (True, False):
            refused = site.promote(check=check, **{key: str(path)})
            problem = refused["problems"][0]
            assert refused["failed"] and why in problem["why"] and problem["where"] == f"{key}: {path}", refused
    twice = site.promote(**{key: str(text), key[: -len("_src")]: "x"})
    assert twice["failed"] and "mutually exclusive" in twice["msg"]
    assert site.engine.inspect_volume(site.volume) is None


def test_a_router_on_another_volume_is_reported(running_shared: Site) -> None:
    answer = running_shared.promote(config=profile_config(), volume="somebody-elses")
    assert answer["failed"] and running_shared.volume in answer["msg"]


def test_validate_only_writes_nothing(running_shared: Site) -> None:
    before = running_shared.snapshot()
    answer = running_shared.promote(config=profile_config("9"), validate_only=True, dry_boot=True)
    assert not answer["failed"] and not answer["changed"]
    assert running_shared.snapshot() == before


def test_a_missing_image_is_an_error_and_in_check_mode_a_warning(site: Site) -> None:
    assert site.promote(config=profile_config(), image="nowhere/router:1")["failed"]
    assert site.promote(config=profile_config(), image="")["failed"]
    for image in ("nowhere/router:1", ""):
        predicted = site.promote(check=True, config=profile_config(), image=image)
        assert predicted["changed"] and "nothing was validated" in json.dumps(predicted["warnings"])


# --------------------------------------------------------------------------------------------------------- rolled back


def test_a_candidate_that_crash_loops_is_rolled_back_and_the_old_one_verified(site: Site) -> None:
    assert site.promote(config=profile_config(profile_path=None))["changed"]
    site.start_router()
    site.wait_healthy()
    old = site.info()["router"]["revision"]
    failed = site.promote(config=CRASHING)
    assert failed["failed"] and "rolled back to " + old[:12] + ", verified" in failed["msg"], failed
    assert any("/nowhere/profile.json" in line for problem in failed["problems"] for line in problem["log"])
    assert site.live_files() == {"config.toml": profile_config(profile_path=None)}
    assert site.healthz() == 200
    assert site.inspect()["RestartCount"] == 0
    told = site.info()["router"]
    assert told["revision"] == old and told["loaded"] and told["in_flight"] is None
    assert not site.promote(config=profile_config(profile_path=None))["changed"]


def test_a_first_candidate_that_crash_loops_is_rolled_back_to_no_file(site: Site) -> None:
    site.api.create_volume(site.volume)
    site.start_router()
    wait_until(lambda: site.inspect()["RestartCount"] > 0)
    failed = site.promote(config=CRASHING)
    assert failed["failed"] and "rolled back: the files were removed" in failed["msg"], failed
    after = site.snapshot()
    assert after.stock == {} and after.live is None and after.observed() == {}


def test_a_good_candidate_ends_a_crash_loop(site: Site) -> None:
    site.api.create_volume(site.volume)
    site.write_plain({"config.toml": CRASHING})
    site.start_router()
    wait_until(lambda: site.inspect()["RestartCount"] > 0)
    healed = site.promote(config=profile_config(profile_path=None))
    assert healed["changed"] and healed["reloaded"], healed
    assert site.healthz() == 200


def test_a_rollback_goes_to_the_previous_revision_or_to_one_named_by_its_prefix(running: Site) -> None:
    first = running.info()["router"]["revision"]
    second = running.promote(profile=profile_text(0.5))["revision"]["new"]
    for check in (True, False):
        back = running.promote(state="rolled_back", check=check)
        assert back["changed"] and back["revision"] == {"old": second, "new": first}, back
    assert running.live_files()["profile.json"] == profile_text()
    assert not running.promote(state="rolled_back", revision=first[:8])["changed"]
    assert running.promote(state="rolled_back", revision=second[:8])["revision"]["new"] == second
    unknown = running.promote(state="rolled_back", revision="0000")
    assert unknown["failed"] and first[:12] in unknown["msg"]


def test_history_is_pruned_and_the_live_revision_is_kept(site: Site) -> None:
    for score in (0.1, 0.2, 0.3):
        done = site.promote(config=profile_config(), profile=profile_text(score), keep=2)
    assert len(done["history"]) == 2
    assert [row["live"] for row in done["history"]] == [True, False]
    assert len(site.snapshot().revisions) == 2


# ----------------------------------------------------------------------------------------------------------- taken over


def test_plain_files_are_valid_at_every_moment_of_a_takeover(site: Site) -> None:
    plain = {"config.toml": profile_config(), "profile.json": profile_text(), "profile.json.bak": "stale"}
    site.api.create_volume(site.volume)
    site.write_plain(plain)
    site.start_router()
    site.wait_healthy()
    known = {plain["config.toml"], plain["profile.json"], profile_text(0.5)}
    bad: list[str] = []
    stop = threading.Event()
    watcher = (
        "import pathlib\nwhile 1:\n for n in ('config.toml','profile.json'):\n"
        "  try: print(repr(pathlib.Path('/etc/anvil',n).read_text()))\n  except OSError as e: print(repr(str(e)))\n"
    )
    watched = DockerEngine(site.engine.docker_host).open_process(
        site.image,
        ["-uc", watcher],
        entrypoint=["python3"],
        host_config={"binds": [f"{site.volume}:/etc/anvil:ro"], "network_mode": "none"},
    )

    def watch() -> None:
        while not stop.is_set():
            seen = ast.literal_eval(watched.read_line(10).decode())
            if seen not in known:
                bad.append(seen)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        done = site.promote(profile=profile_text(0.5))
    finally:
        stop.set()
        thread.join()
        watched.close()
    assert done["changed"] and done["reloaded"], done
    assert bad == []
    assert [row["origin"] for row in done["history"]] == ["promoted", "taken over"]
    back = site.promote(state="rolled_back")
    assert back["reloaded"] and site.live_files() == {name: plain[name] for name in NAMES}


def test_taking_over_identical_plain_files_restarts_nothing(site: Site) -> None:
    site.api.create_volume(site.volume)
    site.write_plain({"config.toml": profile_config(), "profile.json": profile_text()})
    time.sleep(1.1)  # the age of a plain file has a resolution of one second
    site.start_router()
    site.wait_healthy()
    started = site.inspect()["State"]["StartedAt"]
    done = site.promote(config=profile_config(), profile=profile_text())
    assert done["changed"] and not done["reloaded"]
    assert site.inspect()["State"]["StartedAt"] == started
    assert not site.promote(config=profile_config(), profile=profile_text())["changed"]


# ------------------------------------------------------------------------------------------- killed runs, and the lock

# The run is killed (SIGKILL) before its Nth write. The test's launcher counts the writes, not the product.
DIE = """
volume_writer = importlib.import_module(base + 'module_utils.promotion.volume_writer')
original, count = volume_writer.Writer._request, 0
def counted(self, request):
    global count
    if request['action'] != 'read_clock':
        count += 1
        if count == {nth}:
            os.kill(os.getpid(), signal.SIGKILL)
    return original(self, request)
volume_writer.Writer._request = counted
"""


def test_a_run_killed_before_any_write_is_resolved_by_the_next_run(running: Site) -> None:
    cases = [(1, "same"), (3, "same"), (5, "same"), (4, "other"), (5, "other")]
    for number, (nth, then) in enumerate(cases):
        old = running.live_files()
        new = {**old, "profile.json": profile_text(0.5 + number / 100)}
        killed = running.spawn(DIE.format(nth=nth), profile=new["profile.json"])
        assert killed.wait(30) == -signal.SIGKILL, (nth, then)
        assert_whole(running, old, new)
        wait_until(lambda: running.healthz() == 200)
        wanted = new if then == "same" else {**old, "profile.json": profile_text(0.3 + number / 100)}
        done = running.promote(config=wanted["config.toml"], profile=wanted["profile.json"])
        assert done["changed"] and not done["failed"], (nth, then, done)
        assert running.live_files() == wanted and running.healthz() == 200, (nth, then)
        assert not running.promote(config=wanted["config.toml"], profile=wanted["profile.json"])["changed"], (nth, then)


@pytest.mark.parametrize(("state", "pause"), [("switching", 0.0), ("switching", 1.0), ("going back", 0.0)])
def test_a_bad_candidate_whose_run_is_killed_in_reload_or_verify_is_undone_by_the_next_run(
    site: Site, state: str, pause: float
) -> None:
    good = profile_config(profile_path=None)
    assert site.promote(config=good)["changed"]
    site.start_router()
    site.wait_healthy()
    # The run would notice a crash within the pause, so a candidate that starts well keeps the verification waiting.
    candidate = CRASHING if pause == 0.0 else profile_config("2", None)
    killed = site.spawn(config=candidate, settle=5)
    wait_until(lambda: journal_state(site) == state, every=0.002)
    time.sleep(pause)
    killed.kill()
    killed.wait(10)
    assert_whole(site, {"config.toml": good}, {"config.toml": candidate})
    done = site.promote(config=good)
    assert not done["failed"], done
    assert "interrupted" in json.dumps(done["warnings"])
    assert site.live_files() == {"config.toml": good}
    assert site.healthz() == 200
    assert not site.promote(config=good)["changed"]


@pytest.mark.parametrize("nth", range(2, 9))
def test_a_killed_takeover_leaves_the_old_files_or_the_new_ones(site: Site, nth: int) -> None:
    plain = {"config.toml": profile_config(), "profile.json": profile_text()}
    new = {**plain, "profile.json": profile_text(0.5)}
    site.api.create_volume(site.volume)
    site.write_plain(plain)
    killed = site.spawn(DIE.format(nth=nth), profile=new["profile.json"])
    assert killed.wait(30) == -signal.SIGKILL
    assert_whole(site, plain, new)
    done = site.promote(profile=new["profile.json"])
    assert not done["failed"], done
    assert site.live_files() == new


def test_the_lock_is_released_when_its_owner_dies(site: Site) -> None:
    holder = site.spawn(DIE.format(nth=2), config=profile_config(), profile=profile_text())
    assert holder.wait(30) == -signal.SIGKILL
    wait_until(lambda: site.engine.inspect_container(lock_name(site.volume)) is None, seconds=5)


@pytest.mark.parametrize("ended", [False, True])
def test_a_lock_without_an_owner_is_taken_over_and_reported(site: Site, monkeypatch: pytest.MonkeyPatch, ended: bool) -> None:
    """The lock's owner died before the lock started, or the engine stopped before the lock was removed."""
    monkeypatch.setattr(volume_lock, "UNSTARTED_GRACE", 1.0)
    left = site.engine.create_container(
        site.image,
        [],
        name=lock_name(site.volume),
        entrypoint=["true"],
        labels={"anvil.serving.lock": site.volume, "anvil.serving.owner": "ghost pid 1"},
    )
    if ended:
        site.engine.start_container(left)
        site.engine.wait_container(left, 20)
    done = site.promote(config=profile_config(), profile=profile_text())
    assert done["changed"] and "ghost pid 1" in json.dumps(done["warnings"]), done


def test_another_container_with_the_name_of_the_lock_is_reported_and_kept(site: Site) -> None:
    stranger = site.engine.create_container(site.image, [], name=lock_name(site.volume), entrypoint=["/nothing"])
    refused = site.promote(config=profile_config(), profile=profile_text())
    assert refused["failed"] and "another container already uses the name of the lock" in refused["msg"]
    assert site.engine.inspect_container(stranger) is not None


def test_a_run_waits_for_a_held_lock_and_then_reports_its_holder(running: Site) -> None:
    holder = running.spawn(profile=profile_text(0.5), settle=3)
    wait_until(lambda: journal_state(running) == "switching", every=0.01)
    refused = running.promote(profile=profile_text(0.6), lock_timeout=0.5)
    assert refused["failed"] and f"pid {holder.pid}" in refused["msg"], refused
    assert holder.wait(30) == 0
    assert running.live_files()["profile.json"] == profile_text(0.5)


# -------------------------------------------------------------------------------------------------------- other faults


def test_altered_files_of_the_live_revision_are_restored(running: Site) -> None:
    live = running.info()["router"]["revision"]
    script = "import sys;open('/v/.anvil/revisions/%s/profile.json' % sys.argv[1],'a').write(' ')"
    host_config = {"binds": [f"{running.volume}:/v"], "network_mode": "none"}
    running.engine.run_side_container(
        running.image, ["-c", script, live], entrypoint=["python3"], user="0", host_config=host_config
    )
    done = running.promote(config=profile_config(), profile=profile_text())
    assert done["changed"] and running.live_files()["profile.json"] == profile_text(), done
    assert not running.promote(config=profile_config(), profile=profile_text())["changed"]


def test_an_unreadable_journal_is_an_error_until_the_operator_discards_it(running: Site) -> None:
    first = running.info()["router"]["revision"]
    assert running.promote(profile=profile_text(0.6))["changed"]
    script = "open('/v/.anvil/journal','w').write('{')"
    host_config = {"binds": [f"{running.volume}:/v"], "network_mode": "none"}
    running.engine.run_side_container(running.image, ["-c", script], entrypoint=["python3"], user="0", host_config=host_config)
    refused = running.promote(profile=profile_text(0.5))
    assert refused["failed"] and "discard_journal=true" in refused["msg"]
    told = running.info()["router"]
    assert "cannot be read" in told["in_flight"] and first in [row["revision"] for row in told["history"]]
    back = {"state": "rolled_back", "revision": first, "discard_journal": True}
    assert running.promote(check=True, **back)["changed"]
    assert running.promote(**back)["changed"] and running.healthz() == 200
    assert running.live_files()["profile.json"] == profile_text() and running.info()["router"]["in_flight"] is None
    assert not running.promote(**back)["changed"]


def test_an_engine_that_does_not_answer_is_an_error_without_a_traceback(site: Site) -> None:
    for module in ("anvil_router_promote", "anvil_router_info"):
        given = {"config": profile_config()} if module.endswith("promote") else {}
        answer = run_module(module, docker_host="unix:///nowhere.sock", **given)
        assert answer["failed"] and "does not answer" in answer["msg"]


def test_info_of_an_absent_router_succeeds_and_a_request_to_it_fails(site: Site) -> None:
    assert not site.info(image="")["failed"]
    told = site.info()
    assert not told["failed"] and not told["router"]["exists"] and told["router"]["state"] == "absent"
    asked = site.info(ask=["planning"])
    assert asked["failed"] and "no request can be sent to the router" in asked["msg"]


def test_asking_a_router_without_a_backend_names_every_tier_and_no_token(running: Site) -> None:
    asked = running.info(ask=["planning", "chat"], token="s3cret-token", ask_timeout=2)
    assert asked["failed"] and len(asked["problems"]) == 2
    assert "s3cret-token" not in json.dumps({**asked, "invocation": None})


def test_going_back_to_a_revision_does_not_rewrite_it(running: Site) -> None:
    first = running.info()["router"]["revision"]
    path = f".anvil/revisions/{first}/profile.json"
    written = running.snapshot().inner[path]
    assert running.promote(profile=profile_text(0.5))["changed"]
    time.sleep(1.0)  # ages have a resolution of one second
    assert running.promote(state="rolled_back")["revision"]["new"] == first
    assert running.snapshot().inner[path] == written


def test_a_pointer_moved_by_hand_is_noticed_and_loaded(running: Site) -> None:
    first = running.info()["router"]["revision"]
    assert running.promote(profile=profile_text(0.5))["changed"]
    time.sleep(1.1)  # ages have a resolution of one second
    script = (
        "import os,sys\nos.symlink('../revisions/'+sys.argv[1],'/v/.anvil/by-hand')\n"
        "os.rename('/v/.anvil/by-hand','/v/.anvil/live/'+sys.argv[2])"
    )
    running.engine.run_side_container(
        running.image,
        ["-c", script, first, running.name],
        entrypoint=["python3"],
        user="0",
        host_config={"binds": [f"{running.volume}:/v"], "network_mode": "none"},
    )
    assert running.info()["router"]["loaded"] is False
    done = running.promote(profile=profile_text())
    assert done["changed"] and done["reloaded"], done
    assert running.info()["router"]["loaded"] is True
    assert not running.promote(profile=profile_text())["changed"]


def test_an_operator_recovers_by_hand(running: Site) -> None:
    """The test runs the command of docs/promotion.md that only looks, and the modules of the playbooks that the page names."""
    page = (REPO / "docs/promotion.md").read_text().partition("## Recover by hand")[2]
    (look,) = [line.strip() for line in page.splitlines() if line.startswith("    docker ")]
    first = running.info()["router"]["revision"]
    words = {"V": running.volume, "IMAGE": running.image}
    assert kill_before(running.spawn, ("router.promoted_container", "PromotedContainer", "verify", 1), profile=profile_text(0.5))
    command = re.sub(r"\b(V|IMAGE)\b", lambda match: words[match.group()], look)
    said = subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True).stdout
    assert '"state": "switching"' in said and first in said and "profile.json -> .anvil/live/" in said
    running.engine.remove_container("anvil-promote-" + running.volume)
    back = running.promote(state="rolled_back", revision=first)
    assert back["changed"] and running.healthz() == 200, back
    assert running.live_files()["profile.json"] == profile_text() and running.info()["router"]["in_flight"] is None
    assert running.promote(profile=profile_text(0.6))["changed"]

    live = running.live_files()
    assert not running.promote(profile=profile_text(0.6), layout="plain")["failed"]
    snapshot = running.snapshot()
    assert snapshot.inner == {} and {entry.kind for entry in snapshot.stock.values()} == {"file"}
    assert running.live_files() == live and not running.promote(profile=profile_text(0.7))["failed"]


def test_an_image_that_is_about_to_replace_the_running_one_validates(running: Site) -> None:
    given = {"image": NEW_IMAGE, "reload": False}
    refused = running.promote(config=profile_config(), **given)
    assert refused["failed"] and "loader refuses the file" in refused["msg"]
    done = running.promote(config=gateway_config(), **given)
    assert done["changed"] and not done["reloaded"], done
    assert running.live_files() == {"config.toml": gateway_config()}
    assert not running.promote(config=gateway_config(), **given)["changed"]


class Backend(BaseHTTPRequestHandler):
    """An OpenAI-style model server that repeats the message that it receives."""

    def do_POST(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = f"{said['model']} heard {said['messages'][-1]['content']}"
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        body = {"id": "1", "object": "chat.completion", "model": said["model"], "choices": [choice], "usage": usage}
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_args: object) -> None:
        pass


def test_asking_goes_through_the_router_with_its_token(site: Site) -> None:
    gateway = site.api.inspect_network("bridge")["IPAM"]["Config"][0]["Gateway"]
    server = ThreadingHTTPServer((gateway, 0), Backend)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        auth = '[server]\nauth_env = "ROUTER_TOKEN"\n'
        config = auth + profile_config().replace("127.0.0.1:9/", f"{gateway}:{server.server_port}/")
        assert site.promote(config=config, profile=profile_text())["changed"]
        site.start_router({"ROUTER_TOKEN": "open sesame"})
        site.wait_healthy()
        told = site.info(ask=["planning"], token="open sesame", prompt="marco")
        assert not told["failed"], told
        assert told["answers"]["planning"]["text"] == "fake heard marco"
        assert told["router"]["token_set"] and told["router"]["unauthorized_status"] == 401
        assert "open sesame" not in json.dumps(told)
        for token in ("wrong", None, "bad\ntoken"):
            refused = site.info(ask=["planning"], token=token)
            assert refused["failed"] and "token" in json.dumps(refused["problems"]), refused
    finally:
        server.shutdown()
        server.server_close()
