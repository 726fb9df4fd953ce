# SPDX-License-Identifier: GPL-3.0-or-later
"""The serves that a folder of GGUF models becomes: a name, a port and a tag for the size of each model. Pure.

What an earlier scan decided is kept: a model that was there before keeps its name, port and tag, even if models were added
or removed. Models are identified by their path, and described by their headers.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any, Collection, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.served_kinds import LLAMA_KIND_FLAGS
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.weights.gguf_kind import NOT_MODELS
from ansible_collections.anvil.serving.plugins.module_utils.weights.memory_estimate import MIB, Loading, Split, estimate_vram
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import ModelFacts

FIRST_PORT, LAST_PORT = 8080, 8099
SIZE_TAGS = ("fast", "balanced", "powerful")
# A model gets the first tag whose limit, in GiB of weights, it does not exceed. The time per token follows the bytes.
SIZE_LIMITS = (4.0, 16.0)
TAG = "discovered"
GIB = 1024**3
NAME_LENGTH = 63


@dataclass(frozen=True)
class Scan:
    """The input of a scan.

    folder: where the models lie on the host. source: that folder, or the volume it is. target: where a container finds it.
    kept: serves of the last scan, as the inventory has them. taken: ports that are in use. names: of serves that do not come
    from a scan. defaults: keys that every serve gets (image, gpus, launch, …). limits: GiB for the tags fast and balanced.
    """

    folder: str
    source: str
    target: str
    kept: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    taken: Collection[int] = ()
    names: Collection[str] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    first_port: int = FIRST_PORT
    last_port: int = LAST_PORT
    limits: Tuple[float, float] = SIZE_LIMITS


@dataclass(frozen=True)
class Skipped:
    """A file that is not served, and why."""

    path: str
    why: str


@dataclass(frozen=True)
class ScanResult:
    """serves: as ``anvil_discovered`` has them. skipped: files that are not served. notes: projectors that are not used, and
    why. problems: models without a port.
    """

    serves: Dict[str, Dict[str, Any]]
    skipped: Tuple[Skipped, ...]
    notes: Tuple[str, ...]
    problems: Tuple[Problem, ...]


def choose_size_tag(facts: ModelFacts, limits: Sequence[float] = SIZE_LIMITS) -> str:
    """``fast``, ``balanced`` or ``powerful``, by the size of the weights: parameters times bits of the quantisation."""
    size = facts.weights_bytes / GIB
    return SIZE_TAGS[sum(size > limit for limit in limits)]


def name_model(facts: ModelFacts) -> str:
    """The name of a serve, from the model's own name and its quantisation: ``qwen3-8b-q4_k_m``."""
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", os.path.splitext(os.path.basename(facts.path))[0])
    word, quant = _make_slug(facts.name or stem), _make_slug(facts.quantisation or "")
    if quant and not word.endswith(quant):
        word = word[: NAME_LENGTH - len(quant) - 1].rstrip("-_") + "-" + quant
    return word[:NAME_LENGTH].rstrip("-_") or "model"


def _make_slug(text: str) -> str:
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-_")


def _make_unique(word: str, used: Collection[str]) -> str:
    """The word, or the word with the first number that makes it unique."""
    number, chosen = 1, word
    while chosen in used:
        number += 1
        tail = "-{0}".format(number)
        chosen = word[: NAME_LENGTH - len(tail)] + tail
    return chosen


def _pair_projectors(models: Sequence[ModelFacts], served: Sequence[ModelFacts], notes: List[str]) -> Dict[str, ModelFacts]:
    """Path of a model -> its projector. A projector belongs to the models of its folder whose embeddings are as wide as
    its output, if all of them are one model in several quantisations.
    """
    found: Dict[str, ModelFacts] = {}
    for facts in sorted(models, key=lambda model: model.path):
        if facts.kind != "mmproj" or facts.missing:
            continue
        folder = os.path.dirname(facts.path)
        beside = [model for model in served if model.kind == "text" and os.path.dirname(model.path) == folder]
        fitting = [model for model in beside if _may_project(facts, model)]
        same = [model for model in fitting if facts.base_name and model.base_name == facts.base_name]
        chosen = same or fitting
        if not chosen:
            why = "no model of its folder has embeddings of width {0}".format(" or ".join(map(str, facts.projector_widths)))
            notes.append("{0}: projector is not used: {1}".format(facts.path, why if beside else "its folder holds no model"))
        elif len({_identity(model) for model in chosen}) > 1:
            why = "its folder holds {0} models that it may belong to; put it into the folder of its model".format(len(chosen))
            notes.append("{0}: projector is not used: {1}".format(facts.path, why))
        elif chosen[0].path in found:
            why = "{0} is used for the same model".format(os.path.basename(found[chosen[0].path].path))
            notes.append("{0}: projector is not used: {1}".format(facts.path, why))
        else:
            found.update((model.path, facts) for model in chosen)
    return found


def _may_project(projector: ModelFacts, model: ModelFacts) -> bool:
    """False only where both widths are known and differ: llama.cpp refuses such a pair."""
    return not projector.projector_widths or model.embedding_length in (None, *projector.projector_widths)


def _identity(model: ModelFacts) -> Tuple[Any, ...]:
    """What the quantisations of one model have in common. Without a name of its own, each file is a model."""
    name = model.base_name or model.name
    return (model.architecture, name, model.layers, model.embedding_length) if name else (model.path,)


def _explain_skipped(facts: ModelFacts) -> str:
    """Why llama.cpp cannot serve a file; empty for a model that it can."""
    if facts.format != "gguf":
        return "llama.cpp does not load {0}".format(facts.format)
    if facts.missing:
        return "{0} is missing".format(", ".join(facts.missing[:4]))
    if facts.kind in NOT_MODELS:
        return "it is {0}".format(NOT_MODELS[facts.kind])
    if facts.unknown_types:
        return "llama.cpp does not know the type of its tensors ({0}); it was made for another server".format(
            ", ".join(facts.unknown_types[:4])
        )
    return ""


def _select_served(models: Sequence[ModelFacts]) -> Tuple[List[ModelFacts], List[Skipped]]:
    """The models that can be served, in the order of their paths; and the files that are not, with why."""
    served, skipped = [], []
    for facts in sorted(models, key=lambda model: model.path):
        why = _explain_skipped(facts)
        if not why:
            served.append(facts)
        elif facts.kind != "mmproj" or facts.missing:
            skipped.append(Skipped(facts.path, why))
    return served, skipped


def plan_serves(models: Sequence[ModelFacts], scan: Scan) -> ScanResult:
    """Names, ports and tags of the models of a folder. The same folder and the same ``kept`` give the same result."""
    notes: List[str] = []
    served, skipped = _select_served(models)
    projectors = _pair_projectors(models, served, notes)
    before: Dict[str, List[str]] = {}
    for name, serve in scan.kept.items():
        before.setdefault(str(serve.get("model")), []).append(name)
    targets = {facts.path: scan.target.rstrip("/") + "/" + os.path.relpath(facts.path, scan.folder) for facts in served}
    stays = {name: _read_port(scan.kept[name]) for target in targets.values() for name in before.get(target, ())}
    names, held = {*scan.names, *stays}, {port for port in stays.values() if port not in scan.taken}
    free = [port for port in range(scan.first_port, scan.last_port + 1) if port not in scan.taken and port not in held]
    serves: Dict[str, Dict[str, Any]] = {}
    without_port: List[str] = []
    for facts in served:
        target = targets[facts.path]
        # One model may be served more than once: with other settings, or on other cards.
        for kept in before.get(target) or [""]:
            name, old = kept or _make_unique(name_model(facts), names), scan.kept.get(kept, {})
            names.add(name)
            port = _read_port(old)
            if port is None or port in scan.taken:
                port = free.pop(0) if free else None
            if port is None:
                without_port.append(name)
                continue
            serves[name] = _build_serve(facts, target, port, old, projectors.get(facts.path), scan)
    problems = []
    if without_port:
        problems.append(
            Problem(
                what="there are more models than free ports",
                where=scan.folder,
                why="no port from {0} to {1} is left for {2}".format(scan.first_port, scan.last_port, ", ".join(without_port)),
                hint="give anvil_discover a wider range (first_port, last_port), or move models out of the folder",
            )
        )
    return ScanResult(dict(sorted(serves.items())), tuple(skipped), tuple(notes), tuple(problems))


def _read_port(serve: Mapping[str, Any]) -> Optional[int]:
    port = serve.get("port")
    return port if isinstance(port, int) and not isinstance(port, bool) else None


def _build_serve(
    facts: ModelFacts, model: str, port: int, old: Mapping[str, Any], projector: Optional[ModelFacts], scan: Scan
) -> Dict[str, Any]:
    tags = [str(tag) for tag in old.get("tags") or ()]
    size_tag = next((tag for tag in tags if tag in SIZE_TAGS), "") or choose_size_tag(facts, scan.limits)
    kind = size_tag if facts.kind == "text" else facts.kind
    serve: Dict[str, Any] = {
        **{key: value for key, value in scan.defaults.items() if key not in ("args", "volumes")},
        "engine": "llama_cpp",
        "model": model,
        "port": port,
        "tags": [TAG, kind],
        "volumes": [*(scan.defaults.get("volumes") or ()), "{0}:{1}:ro".format(scan.source, scan.target)],
    }
    args = list(scan.defaults.get("args") or ())
    if projector:
        args += ["--mmproj", scan.target.rstrip("/") + "/" + os.path.relpath(projector.path, scan.folder)]
    if facts.kind in LLAMA_KIND_FLAGS:
        args.append(LLAMA_KIND_FLAGS[facts.kind])
    if args:
        serve["args"] = args
    if serve.get("gpus") and "vram_mib" not in serve:
        context = (serve.get("launch") or {}).get("context")
        estimate = estimate_vram(facts, context, 1, "auto", Split(pipeline=len(serve["gpus"])), Loading("llama_cpp"))
        # llama.cpp puts the projector on one card.
        serve["vram_mib"] = estimate.total_mib + (-(-projector.weights_bytes // MIB) if projector else 0)
    return serve
