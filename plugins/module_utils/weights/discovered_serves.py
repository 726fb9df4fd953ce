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

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.weights.memory_estimate import Loading, Split, estimate_vram
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
class ScanResult:
    """serves: as ``anvil_discovered`` has them. notes: models that are not served, and why. problems: models without a port."""

    serves: Dict[str, Dict[str, Any]]
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


def _pair_projectors(models: Sequence[ModelFacts], notes: List[str]) -> Dict[str, str]:
    """Path of a model -> path of its projector: one model and one projector in a folder belong together."""
    found: Dict[str, str] = {}
    for facts in models:
        if facts.kind != "mmproj":
            continue
        folder = os.path.dirname(facts.path)
        beside = [model.path for model in models if model.kind == "text" and os.path.dirname(model.path) == folder]
        if len(beside) == 1 and beside[0] not in found:
            found[beside[0]] = facts.path
        else:
            notes.append(
                "{0}: projector is not used: its folder holds {1} models; put one model and one projector into a folder".format(
                    facts.path, len(beside)
                )
            )
    return found


def _select_served(models: Sequence[ModelFacts], notes: List[str]) -> List[ModelFacts]:
    """The models that can be served, in the order of their paths; a note for each other."""
    served = []
    for facts in sorted(models, key=lambda model: model.path):
        if facts.format != "gguf":
            notes.append("{0}: not served: llama.cpp does not load {1}".format(facts.path, facts.format))
        elif facts.missing:
            notes.append("{0}: not served: {1} is missing".format(facts.path, ", ".join(facts.missing[:4])))
        elif facts.kind in ("text", "embeddings"):
            served.append(facts)
        elif facts.kind != "mmproj":
            notes.append("{0}: not served: it is not a model, but a file of kind {1}".format(facts.path, facts.kind))
    return served


def plan_serves(models: Sequence[ModelFacts], scan: Scan) -> ScanResult:
    """Names, ports and tags of the models of a folder. The same folder and the same ``kept`` give the same result."""
    notes: List[str] = []
    served = _select_served(models, notes)
    projectors = _pair_projectors(models, notes)
    before = {str(serve.get("model")): (name, serve) for name, serve in scan.kept.items()}
    targets = {facts.path: scan.target.rstrip("/") + "/" + os.path.relpath(facts.path, scan.folder) for facts in served}
    stays = {before[target][0]: _read_port(before[target][1]) for target in targets.values() if target in before}
    names, held = {*scan.names, *stays}, {port for port in stays.values() if port not in scan.taken}
    free = [port for port in range(scan.first_port, scan.last_port + 1) if port not in scan.taken and port not in held]
    serves: Dict[str, Dict[str, Any]] = {}
    without_port: List[str] = []
    for facts in served:
        name, old = before.get(targets[facts.path], ("", {}))
        if not name:
            name = _make_unique(name_model(facts), names)
            names.add(name)
        port = _read_port(old)
        if port is None or port in scan.taken:
            port = free.pop(0) if free else None
        if port is None:
            without_port.append(name)
            continue
        serves[name] = _build_serve(facts, targets[facts.path], port, old, projectors.get(facts.path), scan)
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
    return ScanResult(dict(sorted(serves.items())), tuple(notes), tuple(problems))


def _read_port(serve: Mapping[str, Any]) -> Optional[int]:
    port = serve.get("port")
    return port if isinstance(port, int) and not isinstance(port, bool) else None


def _build_serve(
    facts: ModelFacts, model: str, port: int, old: Mapping[str, Any], projector: Optional[str], scan: Scan
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
        args += ["--mmproj", scan.target.rstrip("/") + "/" + os.path.relpath(projector, scan.folder)]
    if facts.kind == "embeddings":
        args.append("--embeddings")
    if args:
        serve["args"] = args
    if serve.get("gpus") and "vram_mib" not in serve:
        context = (serve.get("launch") or {}).get("context")
        serve["vram_mib"] = estimate_vram(
            facts, context, 1, "auto", Split(pipeline=len(serve["gpus"])), Loading("llama_cpp")
        ).total_mib
    return serve
