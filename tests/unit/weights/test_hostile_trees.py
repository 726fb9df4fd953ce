"""Planted trees: nothing that reads, writes or removes below a folder of models follows them, changes the victim, or waits."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostileactions
import hostiletrees
import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.weights import hub_cache_fetch
from ansible_collections.anvil.serving.plugins.module_utils.weights.manifest import begin_records
from hostileactions import ACTIONS, CHANGING
from hostiletrees import KINDS, SECRET, SHARED, Ground

pytestmark = pytest.mark.slow


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    hub = hostileactions.Hub()
    monkeypatch.setattr(hub_cache_fetch, "list_repository", hub.list)
    monkeypatch.setattr(hub_cache_fetch, "fetch_from_hub", hub.fetch)
    monkeypatch.setattr("ansible_collections.anvil.serving.plugins.module_utils.core.foreign_folder.ENTRY_LIMIT", 500)
    laid_out = hostiletrees.lay_out(tmp_path)
    gc.collect()  # what an earlier test left open is closed now, and not while handles are counted
    yield laid_out
    hostiletrees.clean_up(tmp_path)


def attack(ground: Ground, action: str, shares_content: bool = False) -> Any:
    """Run an action on a planted tree, and check the victim. Returns the result or the error.

    shares_content: a file of the tree is one of the victim, by a hard link.
    """
    if action.startswith("copy from"):
        hostiletrees.disown_links(ground)  # the path is the operator's: their own links on it are followed
    before, handles = hostiletrees.describe(ground.victim), len(os.listdir("/proc/self/fd"))
    with hostiletrees.limit_seconds():
        try:
            told = ACTIONS[action](ground)
        except AnvilError as exc:
            told = exc
    assert hostiletrees.describe(ground.victim) == before, action
    assert SECRET not in repr(told) and "org/allowed" not in repr(told), action
    assert shares_content or not hostiletrees.find_secret(ground.base / "srv"), action
    assert len(os.listdir("/proc/self/fd")) == handles, action
    return told


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_tree_is_not_followed_by_what_reads_it(ground: Ground, kind: str) -> None:
    begin_records(str(ground.models))
    KINDS[kind](ground)
    for action in sorted(set(ACTIONS) - set(CHANGING)):  # the copies come first
        attack(ground, action, shares_content=kind in SHARED)


@pytest.mark.parametrize("action", CHANGING)
@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_tree_is_not_followed_by_what_changes_it(ground: Ground, kind: str, action: str) -> None:
    """The models were fetched before, so their manifests are recorded, and the whole way to their replacement is open."""
    ACTIONS["cache present"](ground)
    os.rename(ground.model, ground.base / "aside")
    ACTIONS["model present"](ground)
    KINDS[kind](ground)
    attack(ground, action, shares_content=kind in SHARED)


@pytest.mark.parametrize("action", ["model present", "cache present"])
@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if "manifest" in kind or "stag" in kind or "cache" in kind or "blob" in kind]
)
def test_a_tree_that_is_there_first_is_not_followed(ground: Ground, kind: str, action: str) -> None:
    KINDS[kind](ground)
    attack(ground, action)


def test_nothing_is_followed_while_another_user_swaps_links(ground: Ground) -> None:
    hostiletrees.open_to_others(ground.base)
    begin_records(str(ground.models))
    targets = {
        "org": ground.victim,
        "org/name": ground.victim,
        "org/name/model.safetensors": ground.victim / "secret",
        "org/name/sub": ground.victim,
        "models--org--name": ground.victim,
        "models--org--name/blobs": ground.victim,
        "models--org--name/snapshots": ground.victim,
        "models--org--name/refs": ground.victim,
    }
    before = hostiletrees.describe(ground.victim)
    done = refused = 0
    deadline = time.monotonic() + 8
    with hostiletrees.swap_in_a_loop(ground.models, targets):
        while time.monotonic() < deadline:
            for action in ("model present", "cache present, full", "model verified", "cache absent", "model absent"):
                with hostiletrees.limit_seconds():
                    try:
                        ACTIONS[action](ground)
                        done += 1
                    except (AnvilError, OSError):  # the module makes an AnvilError of both
                        refused += 1
            hostiletrees.own_by_others(ground.models)
    assert hostiletrees.describe(ground.victim) == before
    assert not hostiletrees.find_secret(ground.base / "srv")
    assert done and refused
