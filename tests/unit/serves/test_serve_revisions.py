"""Revisions of serves: names, the cut of a compose file, histories, and which definition a pin replaces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import LABEL_SPEC, Service
from ansible_collections.anvil.serving.plugins.module_utils.serves import serve_revision_files
from ansible_collections.anvil.serving.plugins.module_utils.serves.serve_revisions import (
    MOST_REVISIONS,
    Pin,
    ReadyEntry,
    Revision,
    ServeHistory,
    cut_service,
    decide_on_failure,
    fingerprint,
    is_rejected,
    revision_from_text,
    take_over,
    use_image,
)

COMPOSE = """---
# Rendered.
name: "anvil-serves"

services:
  "heavy":
    image: "llm:1"
    command:
      - "heavy:"
      - |
        fast:
          x
    labels:
      "anvil.serving.spec": "2:abc"
  "fast":
    image: "llm:2"
  'plain-1':
    image: llm:3

networks:
  "anvil":
    external: true
"""
HEAVY = Service(
    name="heavy", container="anvil-heavy", image="llm:1", labels={LABEL_SPEC: "2:abc"}, ports=(("127.0.0.1", 1, "1/tcp"),)
)


def entry(name: str) -> ReadyEntry:
    return ReadyEntry(name, "identity-" + name, "llm:1", "sha256:" + name, 1)


@pytest.mark.parametrize("name", ["heavy", "fast", "plain-1"])
@pytest.mark.parametrize("layout", ["rendered", "dumped"])
def test_the_cut_of_a_compose_file_has_one_service_and_everything_around_it(name: str, layout: str) -> None:
    whole = yaml.safe_load(COMPOSE)
    text = COMPOSE if layout == "rendered" else yaml.safe_dump(whole)
    assert yaml.safe_load(cut_service(text, name)) == {**whole, "services": {name: whole["services"][name]}}


def test_a_revision_is_named_by_its_content_and_read_back_as_it_was(tmp_path: Path) -> None:
    one = Revision(HEAVY, "sha256:1", cut_service(COMPOSE, "heavy"), {"models/heavy.ini": "x"})
    assert revision_from_text(one.as_text()) == one
    assert len({one.name, replace(one, image_id="sha256:2").name, replace(one, files={}).name}) == 3
    serve_revision_files.write_revision(str(tmp_path), one)
    assert serve_revision_files.read_revision(str(tmp_path), one.name) == (one, "")
    path = tmp_path / ".revisions" / f"{one.name}.json"
    path.write_text(replace(one, image_id="sha256:3").as_text())
    assert "was changed" in serve_revision_files.read_revision(str(tmp_path), one.name)[1]
    path.write_text("{")
    assert "cannot be read" in serve_revision_files.read_revision(str(tmp_path), one.name)[1]
    path.unlink()
    assert "is not there" in serve_revision_files.read_revision(str(tmp_path), one.name)[1]


def test_the_index_keeps_what_it_names_and_removes_the_rest(tmp_path: Path) -> None:
    kept, other = (Revision(HEAVY, f"sha256:{number}", COMPOSE) for number in "12")
    for one in (kept, other):
        serve_revision_files.write_revision(str(tmp_path), one)
    history = ServeHistory((entry(kept.name),), Pin(kept.name, "r", "sha256:9", "salt", 5, by="ada"))
    serve_revision_files.write_index(str(tmp_path), {"heavy": history})
    assert serve_revision_files.read_index(str(tmp_path)) == ({"heavy": history}, "")
    assert sorted(path.name for path in (tmp_path / ".revisions").iterdir()) == sorted([f"{kept.name}.json", "index.json"])
    for broken in ("[]", "{", '{"heavy": {"ready": [{}]}}', '{"heavy": 1}'):
        (tmp_path / ".revisions" / "index.json").write_text(broken)
        found, trouble = serve_revision_files.read_index(str(tmp_path))
        assert found == {} and "cannot be read" in trouble, broken


def test_a_history_is_bounded_and_the_last_ready_revision_is_first() -> None:
    history = ServeHistory()
    for number in range(MOST_REVISIONS + 3):
        history = history.with_ready(entry(f"{number:02}"))
    assert len(history.ready) == MOST_REVISIONS and history.ready[0].revision == "12"
    again = history.with_ready(replace(entry("05"), at=99))
    assert again.ready[0] == entry("05") and len(again.ready) == MOST_REVISIONS  # first ready then, not now
    assert again.is_last("identity-05", "sha256:05") and not again.is_last("identity-05", "sha256:06")


@pytest.mark.parametrize(
    ("asked", "current", "found"),
    [("previous", "c", "bb"), ("previous", "", "c"), ("bb", "c", "bb"), ("a", "c", None), ("a1", "c", "a1"), ("", "c", None)],
)
def test_which_revision_an_operator_names(asked: str, current: str, found: str | None) -> None:
    chosen = ServeHistory((entry("c"), entry("bb"), entry("a1"), entry("a2"))).choose(asked, current)
    assert (chosen.revision if chosen else None) == found


def test_a_second_roll_back_leads_further_back() -> None:
    history = ServeHistory((entry("c"), entry("b"), entry("a")))
    history = history.without_preference("c").with_ready(entry("b"))
    assert [one.revision for one in history.ready] == ["b", "a", "c"]
    assert (history.choose("previous", "b") or entry("")).revision == "a"


CHANGED = {
    "nothing": (HEAVY, {}, {"K": "1"}, True),
    "a field": (replace(HEAVY, command=("x",)), {}, {"K": "1"}, False),
    "the deadline": (replace(HEAVY, anvil={"ready": {"timeout": 5}}), {}, {"K": "1"}, False),
    "the value of a secret": (HEAVY, {}, {"K": "2"}, False),
    "a mounted file": (HEAVY, {"models/heavy.ini": "x"}, {"K": "1"}, False),
    "tags": (replace(HEAVY, anvil={"tags": ["a"]}), {}, {"K": "1"}, True),
    "labels": (replace(HEAVY, labels={}), {}, {"K": "1"}, True),
}


@pytest.mark.parametrize("what", CHANGED)
def test_what_makes_another_definition(what: str) -> None:
    service, files, secrets, same = CHANGED[what]
    assert (fingerprint(service, files, secrets, "salt") == fingerprint(HEAVY, {}, {"K": "1"}, "salt")) is same
    assert fingerprint(HEAVY, {}, {"K": "1"}, "salt") != fingerprint(HEAVY, {}, {"K": "1"}, "other salt")


@pytest.mark.parametrize(("image_id", "rejected"), [("sha256:1", True), ("", True), ("sha256:2", False)])
def test_a_new_image_behind_the_same_name_is_another_definition(image_id: str, rejected: bool) -> None:
    pin = Pin("r", "definition", "sha256:1", "salt", 1)
    assert is_rejected(pin, "definition", image_id) is rejected and not is_rejected(pin, "other", image_id)


def test_an_image_whose_name_moved_is_used_by_id() -> None:
    one = Revision(HEAVY, "sha256:1", cut_service(COMPOSE, "heavy"))
    assert use_image(one, "") is one
    used = use_image(one, "sha256:1")
    service, document = used.service, yaml.safe_load(used.compose)["services"]["heavy"]
    assert document["image"] == service.image == "sha256:1"
    assert document["labels"][LABEL_SPEC] == service.labels[LABEL_SPEC] == service.spec_hash()


def test_the_inventory_still_says_when_a_revision_runs() -> None:
    one = Revision(replace(HEAVY, anvil={"residency": "resident", "vram_mib": 1}), "", "")
    assert take_over(one, replace(HEAVY, anvil={"residency": "off", "vram_mib": 2})).anvil == {"residency": "off", "vram_mib": 1}


@pytest.mark.parametrize(
    ("asked", "own", "decided"),
    [("", "", "roll_back"), ("", "keep", "keep"), ("roll_back", "keep", "roll_back"), ("keep", "", "keep")],
)
def test_the_option_of_a_run_counts_more_than_the_key_of_a_serve(asked: str, own: str, decided: str) -> None:
    assert decide_on_failure(asked, replace(HEAVY, anvil={"on_failure": own})) == decided
