# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a promotion decides: recovery, history, and what is wrong with a candidate."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.core.http_request import Reply
from ansible_collections.anvil.serving.plugins.module_utils.core.module import DEFAULT_SOCKET
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.revisions import Entry, Place, Snapshot, hash_revision
from ansible_collections.anvil.serving.plugins.module_utils.router.candidate import (
    Facts,
    check_paths,
    check_profile,
    encode_text,
    judge,
)
from ansible_collections.anvil.serving.plugins.module_utils.router.promotion import (
    DONE,
    GOING_BACK,
    SWITCHING,
    WRITTEN,
    Crew,
    Journal,
    Lived,
    Member,
    Order,
    Verdict,
    View,
    choose_pruned,
    decide_recovery,
    find_revision,
    is_proven,
    list_history,
    parse_journal,
)
from ansible_collections.anvil.serving.plugins.module_utils.router.tier_answers import read_answer
from ansible_collections.anvil.serving.plugins.module_utils.router.verbs import Router, RouterSetting, parse_time
from hypothesis import given
from hypothesis import strategies as st

PLACE = Place("cfg", "/etc/anvil", "router", ("config.toml", "profile.json"))
A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)
FACTS = Facts(
    generation="profile",
    tier_ids=("heavy-local", "fast-local"),
    work_classes=("chat", "planning"),
    decisions=("allow", "deny"),
    profile_path="/etc/anvil/profile.json",
)


def journal(state: str, old: str | None = A, new: str | None = B, history: tuple[Lived, ...] = ()) -> Journal:
    return Journal(state, old, new, 1000.0, "host pid 1", history)


def up(started_at: float, status: str = "running") -> View:
    return View(exists=True, status=status, started_at=started_at)


# ------------------------------------------------------------------------------------------------------------ recovery


@pytest.mark.parametrize(
    ("record", "live", "wanted", "view", "act", "reload"),
    [
        (None, None, A, up(0), "nothing", False),
        (journal(DONE), B, C, up(2000), "nothing", False),
        (journal(WRITTEN), B, C, up(2000), "nothing", False),
        # killed after the switch: the same candidate goes on, any other is first undone
        (journal(SWITCHING), B, B, up(900), "adopt", True),
        (journal(SWITCHING), B, B, up(2000), "adopt", True),
        (journal(SWITCHING), B, B, View(exists=False), "adopt", False),
        (journal(SWITCHING), B, C, up(2000), "undo", True),
        (journal(SWITCHING), B, C, up(2000, "restarting"), "undo", True),
        # nothing had read the new files yet: no restart is needed to take them back
        (journal(SWITCHING), B, C, up(900), "undo", False),
        (journal(SWITCHING), B, C, View(exists=True, status="exited"), "undo", False),
        # killed between the journal and the switch
        (journal(SWITCHING), A, B, up(900), "undo", False),
        # started just before: it may have read the files after
        (journal(SWITCHING), B, C, up(990), "undo", True),
        (journal(GOING_BACK), A, B, up(900), "undo", True),
        (journal(GOING_BACK), B, A, up(2000), "undo", True),
    ],
)
def test_an_interrupted_promotion_is_finished_or_undone(
    record: Journal | None, live: str | None, wanted: str, view: View, act: str, reload: bool
) -> None:
    decided = decide_recovery(record, live, wanted, view)
    assert (decided.act, decided.reload) == (act, reload)
    assert bool(decided.reason) == (act != "nothing")


@given(
    st.builds(
        Journal,
        st.sampled_from([SWITCHING, GOING_BACK, WRITTEN, DONE]),
        st.none() | st.just(A),
        st.none() | st.just(B),
        st.floats(0, 1e10),
        st.text(),
        st.lists(st.builds(Lived, st.sampled_from([A, B]), st.floats(0, 1e10))).map(tuple),
    )
)
def test_a_journal_reads_back_as_it_was_written(record: Journal) -> None:
    assert parse_journal(record.as_bytes(), "") == record


NOW = 5000.0
LIVE = {"config.toml": b"one", "profile.json": b"{}"}


@pytest.mark.parametrize(
    ("files", "view", "proved_by", "proven"),
    [
        # the process that runs has lived on this config; another profile is only looked things up in
        ({**LIVE, "profile.json": b"[]"}, {"started_at": 4000.0}, "", True),
        ({**LIVE, "config.toml": b"two"}, {"started_at": 4000.0}, "", False),
        # it has not lived for long; it runs another image; it has not read these files; it does not run
        (LIVE, {"started_at": 4995.0}, "", False),
        (LIVE, {"started_at": 4000.0, "image_id": "other"}, "", False),
        (LIVE, {"started_at": 900.0}, "", False),
        (LIVE, {"started_at": 4000.0, "status": "exited"}, "", False),
        # it was watched before, by this image or by another
        (LIVE, {"started_at": 4995.0}, "image", True),
        (LIVE, {"started_at": 4995.0}, "other", False),
        # a crash loop speaks against it
        (LIVE, {"started_at": 4995.0, "restarts": 3}, "image", False),
        (LIVE, {"started_at": 4995.0, "status": "restarting"}, "image", False),
        ({"config.toml": b"two"}, {"started_at": 4995.0, "restarts": 3}, "", False),
    ],
)
def test_what_speaks_for_a_candidate(files: dict[str, bytes], view: dict[str, Any], proved_by: str, proven: bool) -> None:
    live = hash_revision(LIVE)
    folder = ".anvil/revisions/" + live
    inner = {
        ".anvil/live/router": Entry("link", target="../revisions/" + live),
        folder: Entry("folder"),
        folder + "/meta.json": Entry("file", content=b'{"proved_by": "%s"}' % proved_by.encode()),
        **{f"{folder}/{name}": Entry("file", content=content) for name, content in LIVE.items()},
    }
    stock = {name: Entry("link", target=".anvil/live/router/" + name) for name in LIVE}
    snapshot = Snapshot(PLACE, stock, inner, {})
    router = Router(DockerEngine(DEFAULT_SOCKET), RouterSetting("router", "cfg", "/etc/anvil"), Order(files={}))
    seen = View(**{"exists": True, "status": "running", "image_id": "image", **view})
    crew = Crew((Member("router", router),))
    verdict = Verdict("", files, {"image": "image"})
    assert is_proven(crew, snapshot, journal(DONE, new=live), {"router": seen}, verdict, NOW) == proven


STRANGE = [
    b"{}",
    b"[]",
    b"null",
    b'{"schema": 1}',
    b'{"schema": 1, "state": "x"}',
    b'{"schema": 2, "state": "done", "old": null, "new": null, "at": 0, "owner": "", "history": []}',
    b'{"schema": 1, "state": "done", "old": null, "new": null, "at": 0, "owner": "", "history": [1]}',
]


@given(st.binary() | st.sampled_from(STRANGE))
def test_a_journal_of_somebody_else_is_an_error_and_never_nothing_in_flight(content: bytes) -> None:
    with pytest.raises(AnvilError, match="journal"):
        parse_journal(content, "")


# ------------------------------------------------------------------------------------------------------------- history


def volume(live: str | None, *revisions: str) -> Snapshot:
    inner = {f".anvil/revisions/{name}": Entry("folder") for name in revisions}
    if live:
        inner[".anvil/live/router"] = Entry("link", target="../revisions/" + live)
    return Snapshot(PLACE, {}, inner, {})


HISTORY = (Lived(A, 1.0), Lived(B, 2.0), Lived(C, 3.0))


def test_previous_is_what_was_verified_live_before() -> None:
    assert find_revision("previous", volume(C, A, B, C), journal(DONE, B, C, HISTORY)) == B


def test_previous_skips_what_was_pruned() -> None:
    assert find_revision("previous", volume(C, A, C), journal(DONE, B, C, HISTORY)) == A


def test_previous_of_an_interrupted_switch_is_before_its_base() -> None:
    assert find_revision("previous", volume(D, A, B, C, D), journal(SWITCHING, C, D, HISTORY)) == B


@pytest.mark.parametrize("asked", ["previous", "ffff", "a"])
def test_what_cannot_be_gone_back_to_is_told_with_what_is_held(asked: str) -> None:
    other = "a" * 63 + "b"
    with pytest.raises(AnvilError, match="a" * 12):
        find_revision(asked, volume(A, A, other), journal(DONE, None, A, (Lived(A, 1.0),)))


def test_the_history_begins_with_the_live_revision() -> None:
    rows = list_history(volume(B, A, B, C), journal(DONE, C, B, HISTORY))
    assert [row["revision"] for row in rows] == [B, C, A]


@given(st.sets(st.sampled_from([A, B, C, D, "e" * 64, "f" * 64])), st.integers(2, 8))
def test_pruning_keeps_the_live_revision_and_the_one_before(held: set[str], keep: int) -> None:
    held |= {A, B}
    pruned = choose_pruned(volume(B, *held), journal(DONE, A, B, HISTORY), keep)
    assert not {A, B} & set(pruned)
    assert len(held) - len(pruned) == min(len(held), keep)


# ----------------------------------------------------------------------------------------------------------- candidates


def entry(**changes: Any) -> dict[str, Any]:
    good = {
        "tier_id": "heavy-local",
        "work_class": "planning",
        "decision": "allow",
        "quality_score": 0.9,
        "sample_n": 4,
    }
    return {**good, **changes}


@pytest.mark.parametrize(
    ("entries", "where"),
    [
        ([], "entries"),
        ({}, "entries"),
        ([{}], "entries[0]"),
        ([entry(tier_id="heavy")], "entries[0].tier_id"),
        ([entry(work_class="planing")], "entries[0].work_class"),
        ([entry(decision="Allow")], "entries[0].decision"),
        ([entry(quality_score=1.01)], "entries[0].quality_score"),
        ([entry(quality_score=-0.1)], "entries[0].quality_score"),
        ([entry(quality_score=float("nan"))], "entries[0].quality_score"),
        ([entry(quality_score=True)], "entries[0].quality_score"),
        ([entry(quality_score="0.9")], "entries[0].quality_score"),
        ([entry(sample_n=-1)], "entries[0].sample_n"),
        ([entry(), entry(decision="deny")], "entries[1]"),
    ],
)
def test_what_the_loader_lets_through_is_found(entries: Any, where: str) -> None:
    found = check_profile({"entries": entries}, FACTS)
    assert [problem.where for problem in found] == ["profile.json: " + where]


def test_a_good_profile_has_no_findings() -> None:
    assert check_profile({"entries": [entry(), entry(work_class="chat"), entry(tier_id="fast-local")]}, FACTS) == []


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
VALUES = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(max_size=5), SCALARS, max_size=2)
ENTRIES = st.lists(VALUES | st.fixed_dictionaries({}, optional=dict.fromkeys(entry(), VALUES)), max_size=3)


@given(VALUES | st.fixed_dictionaries({"entries": VALUES | ENTRIES}))
def test_no_profile_brings_the_checks_down(profile: Any) -> None:
    for problem in check_profile(profile, FACTS):
        assert problem.what and problem.where


@pytest.mark.parametrize(
    ("said", "has_profile", "problems", "warnings"),
    [
        ("/etc/anvil/profile.json", True, 0, 0),
        (None, False, 0, 0),
        (None, True, 1, 0),
        ("/etc/anvil/other.json", True, 1, 0),
        ("/etc/anvil/profile.json", False, 1, 0),
        ("/var/lib/profile.json", False, 0, 1),
    ],
)
def test_the_profile_must_be_read_from_where_it_is_written(
    said: str | None, has_profile: bool, problems: int, warnings: int
) -> None:
    found, warned = check_paths(Facts("profile", profile_path=said), has_profile, "/etc/anvil/profile.json")
    assert (len(found), len(warned)) == (problems, warnings)


def test_all_findings_are_reported_at_once() -> None:
    facts = Facts("profile", errors=(("config.toml", "ConfigError: no"), ("profile.json", "ValueError: no")))
    with pytest.raises(AnvilError) as failure:
        judge(facts, {"config.toml": b"", "profile.json": b'{"entries": []}'}, ("config.toml",), "/etc/anvil", "sha256:1")
    assert len(failure.value.problems) == 3


def test_a_gateway_router_drops_a_profile_kept_from_before_but_refuses_one_that_is_given() -> None:
    files = {"config.toml": b"c", "profile.json": b"{}"}
    assert set(judge(Facts("gateway"), files, ("config.toml",), "/etc/anvil", "sha256:1").files) == {"config.toml"}
    with pytest.raises(AnvilError, match="reads no profile"):
        judge(Facts("gateway"), files, ("profile.json",), "/etc/anvil", "sha256:1")


def test_an_image_that_is_no_router_is_told() -> None:
    with pytest.raises(AnvilError, match="no anvil-serving router"):
        judge(Facts(None, errors=(("image", "ImportError: x"),)), {"config.toml": b""}, (), "/etc/anvil", "sha256:1")


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(AnvilError, match="UTF-8"):
        encode_text("config", "a\udcffb")


# --------------------------------------------------------------------------------------------------- the engine's words


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:01.5Z", 1.5),
        ("2026-07-04T10:00:00.123456789Z", 1783159200.123456789),
        ("2026-07-04T10:00:00Z", 1783159200.0),
        ("0001-01-01T00:00:00Z", 0.0),
        ("", 0.0),
    ],
)
def test_times_of_the_engine(text: str, seconds: float) -> None:
    assert parse_time(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("status", "body", "ok"),
    [
        (200, '{"choices": [{"message": {"content": "hello"}}]}', True),
        (200, '{"choices": [{"message": {"content": " "}}]}', False),
        (200, '{"choices": [{"message": {"content": null}}]}', False),
        (200, '{"choices": []}', False),
        (200, "[]", False),
        (200, "", False),
        (503, '{"choices": [{"message": {"content": "hello"}}]}', False),
        (0, "refused", False),
    ],
)
def test_only_a_completion_with_text_is_an_answer(status: int, body: str, ok: bool) -> None:
    assert read_answer(Reply(status, body), 0.1).ok == ok
