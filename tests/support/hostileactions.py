"""What reads, writes or removes below a folder of models: every action that meets a planted tree, by its name."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin
from ansible_collections.anvil.serving.plugins.module_utils.docker import mounted_files
from ansible_collections.anvil.serving.plugins.module_utils.images import baked_weights, prune_info
from ansible_collections.anvil.serving.plugins.module_utils.images.recipe import Recipe, hash_content
from ansible_collections.anvil.serving.plugins.module_utils.promotion.programs import write_volume
from ansible_collections.anvil.serving.plugins.module_utils.weights import (
    hub_cache,
    hub_cache_fetch,
    manifest,
    model_folder,
    model_store,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import make_location
from ansible_collections.anvil.serving.plugins.module_utils.weights.source import FetchOptions, Source, SourceFile
from hostiletrees import COMMIT, FILES, REPO, Ground, etag

OPTIONS = FetchOptions(reserve_mib=0, timeout=1)
HUB = Source("hub", repo=REPO, revision="main")


class Hub:
    """Stands in for the hub and its client: lists FILES, and writes those that are asked for into the staging folder."""

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
    "hash a build context": lambda g: hash_content(Recipe("i", "vllm", "FROM x", folders={"weights": str(g.models)})),
    "fingerprint mounted files": lambda g: [mounted_files.fingerprint(str(path)) for path in walk_names(g.models)],
    "read the files of the root": lambda g: sum(len(prune_info.read_regular_file(str(path))) for path in walk_names(g.models)),
    "compare a folder of a volume": lambda g: write_volume.holds_exactly(str(g.model), FILES),
    "bake the weights": lambda g: baked_weights.check_baked_weights(str(g.models), [Origin("org/allowed", "2" * 40)]),
}

CHANGING = ("model present", "model absent", "cache present", "cache absent")


def walk_names(folder: Path) -> Iterator[Path]:
    """Every path below a folder whose name can be a path."""
    for here, folders, names in os.walk(folder):
        yield from (Path(here) / name for name in (*folders, *names))
