"""Planted trees: nothing that reads, writes or removes below a folder of models follows them, changes the victim, or waits."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hostiletrees
import pytest
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.images import baked_weights
from ansible_collections.anvil.serving.plugins.module_utils.weights import (
    hub_cache,
    hub_cache_fetch,
    manifest,
    model_folder,
    model_store,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import make_location
from ansible_collections.anvil.serving.plugins.module_utils.weights.source import FetchOptions, Source, SourceFile
from hostiletrees import COMMIT, FILES, KINDS, REPO, SECRET, Ground, etag

OPTIONS = FetchOptions(reserve_mib=0, timeout=1)
HUB = Source("hub", repo=REPO, revision="main")


class Hub:
    """Stands in for the hub and its client: lists FILES, and writes those that are asked for into the staging folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hub_cache_fetch, "list_repository", self.list)
        monkeypatch.setattr(hub_cache_fetch, "fetch_from_hub", self.fetch)

    def list(self, *_args: Any) -> tuple[str, dict[str, SourceFile]]:
        return COMMIT, {name: SourceFile(len(content), etag(content)) for name, content in FILES.items()}

    def fetch(self, location: Any, _source: Any, _commit: str, wanted: Mapping[str, Any], *_rest: Any) -> dict[str, Any]:
        for name in wanted:
            path = Path(location.files) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(FILES[name])
        return {name: {"size": len(FILES[name]), "sha256": etag(FILES[name])} for name in wanted}


def location(ground: Ground) -> Any:
    return make_location(str(ground.models), REPO)


def cached(ground: Ground) -> Any:
    return hub_cache_fetch.CachedRepository(str(ground.models), REPO)


def copy_from(ground: Ground, path: Path) -> Any:
    return model_store.ensure_model(make_location(str(ground.models), "copied"), Source("copy", path=str(path)), OPTIONS, False)


FULL = dataclasses.replace(OPTIONS, full=True)
ACTIONS: dict[str, Callable[[Ground], Any]] = {
    "model present": lambda g: model_store.ensure_model(location(g), Source("copy", path=str(g.source)), OPTIONS, False),
    "model present, check": lambda g: model_store.ensure_model(location(g), Source("copy", path=str(g.source)), OPTIONS, True),
    "model verified": lambda g: model_store.verify_model(location(g), FULL),
    "model absent": lambda g: model_store.remove_model(location(g), False),
    "cache present": lambda g: hub_cache_fetch.ensure_cached(cached(g), HUB, OPTIONS, False),
    "cache present, full": lambda g: hub_cache_fetch.ensure_cached(cached(g), HUB, FULL, False),
    "cache present, check": lambda g: hub_cache_fetch.ensure_cached(cached(g), HUB, OPTIONS, True),
    "cache verified": lambda g: hub_cache_fetch.verify_cached(cached(g), FULL),
    "cache absent": lambda g: hub_cache_fetch.remove_cached(cached(g), False),
    "copy from the model": lambda g: copy_from(g, g.model),
    "copy from the snapshot": lambda g: copy_from(g, g.cache / "snapshots" / COMMIT),
    "copy from a file": lambda g: copy_from(g, g.model / "model.safetensors"),
    "read the model": lambda g: model_folder.read_model(str(g.model), str(g.models)),
    "find all models": lambda g: model_folder.find_models(str(g.models)),
    "find the snapshot": lambda g: hub_cache.find_snapshot(str(g.models), REPO),
    "read the manifest": lambda g: manifest.find_manifest(str(g.model / "config.json")),
    "bake the weights": lambda g: baked_weights.check_baked_weights(str(g.models), [Origin("org/allowed", "2" * 40)]),
}


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    Hub(monkeypatch)
    monkeypatch.setattr("ansible_collections.anvil.serving.plugins.module_utils.core.foreign_folder.ENTRY_LIMIT", 500)
    laid_out = hostiletrees.lay_out(tmp_path)
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
    assert SECRET not in repr(told), action
    assert shares_content or not hostiletrees.find_secret(ground.base / "srv"), action
    assert len(os.listdir("/proc/self/fd")) == handles, action
    return told


CHANGING = ("model present", "model absent", "cache present", "cache absent")


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_tree_is_not_followed_by_what_reads_it(ground: Ground, kind: str) -> None:
    KINDS[kind](ground)
    for action in sorted(set(ACTIONS) - set(CHANGING)):  # the copies come first
        attack(ground, action, shares_content=kind == "hard_link_out")


@pytest.mark.parametrize("action", CHANGING)
@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_tree_is_not_followed_by_what_changes_it(ground: Ground, kind: str, action: str) -> None:
    """The models were fetched before, so their manifests are recorded, and the whole way to their replacement is open."""
    ACTIONS["cache present"](ground)
    os.rename(ground.model, ground.base / "aside")
    ACTIONS["model present"](ground)
    KINDS[kind](ground)
    attack(ground, action, shares_content=kind == "hard_link_out")


@pytest.mark.parametrize("action", ["model present", "cache present"])
@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if "manifest" in kind or "stag" in kind or "cache" in kind or "blob" in kind]
)
def test_a_tree_that_is_there_first_is_not_followed(ground: Ground, kind: str, action: str) -> None:
    KINDS[kind](ground)
    attack(ground, action)
