# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A model as a serve of the inventory: the keys of the proposed serve, its place, what else would fit, and its file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml
from ansible.parsing.yaml.dumper import AnsibleDumper
from ansible_collections.anvil.serving.plugins.module_utils.catalog.card_capabilities import find_capability
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_recipes import (
    Recipe,
    compare_versions,
    compose_arguments,
    version_of_image,
)
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.findings import DOUBTFUL, IMPOSSIBLE
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import OFF
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import Gpu, HostPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import NAME
from ansible_collections.anvil.serving.plugins.module_utils.serves.placement import Placement, WantedServe
from ansible_collections.anvil.serving.plugins.module_utils.weights import candidate as judged
from ansible_collections.anvil.serving.plugins.module_utils.weights.card_facts import describe_card
from ansible_collections.anvil.serving.plugins.module_utils.weights.compatibility import judge_candidates
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.model_candidates import (
    Candidate,
    Weights,
    Wish,
    can_run,
    list_candidates,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.proposed_serves import Fleet, place_on_hosts, plan_with
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.recipe_files import make_slug

FIRST_PORT, LAST_PORT = 30001, 30040
# The images of engines that a host has none of: name, and the release that this collection was tried with.
IMAGES: Mapping[str, tuple[str, str]] = {
    "vllm": ("vllm/vllm-openai:v{0}", "0.32.0"),
    "sglang": ("lmsysorg/sglang:v{0}", "0.5.11"),
    "llama_cpp": ("anvil.local/llama-server:1", ""),
}
HUB_CACHE = "/root/.cache/huggingface"
CONTEXT_FLAGS = {"vllm": "--max-model-len", "sglang": "--context-length"}
ALL_LAYERS = 999
MOUNTED = "/models"
# How many others are listed.
MOST_OTHERS, MOST_MISFITS = 6, 6
LEAST_FRACTION = 0.05


@dataclass(frozen=True)
class Request:
    """What is to be served. path: of local weights on the host; empty for a repository. port, image: None, empty: proposed."""

    model: str
    name: str
    path: str = ""
    image: str = ""
    port: int | None = None
    wish: Wish = field(default_factory=Wish)


@dataclass(frozen=True)
class Fitting:
    """A candidate that fits, with its place and the keys of its serve."""

    candidate: Candidate
    placement: Placement
    keys: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass
class Outcome:
    """chosen: the first that fits. others: further ones. misfits: what comes before the first
    that fits, with the reason."""

    chosen: Fitting | None = None
    others: list[Fitting] = field(default_factory=list)
    misfits: list[tuple[Candidate, str]] = field(default_factory=list)


def choose_name(model: str) -> str:
    """The name of a serve, from the last part of its repository or path."""
    base = re.sub(r"(-\d{5}-of-\d{5})?\.(gguf|safetensors)$", "", os.path.basename(model.rstrip("/")), flags=re.IGNORECASE)
    name = make_slug(base)[:50].strip("-")
    if not NAME.fullmatch(name):
        raise fail("no name of a serve follows from the model", model, hint="choose one: -e name=fast")
    return name


def choose_port(fleet: Fleet, held: Mapping[str, Sequence[int]]) -> int:
    """The first port of the range that no host uses. held: host -> ports that something listens on."""
    taken = {port for ports in held.values() for port in ports}
    for room in fleet.rooms.values():
        taken.update(serve.port for serve in room.plan.serves)
        taken.update({room.plan.router.port} if room.plan.router else ())
        taken.update(external.port for external in room.plan.externals)
    free = next((port for port in range(FIRST_PORT, LAST_PORT + 1) if port not in taken), None)
    if free is None:
        raise fail("no port is free", f"{FIRST_PORT} to {LAST_PORT}", hint="give one: -e port=31000")
    return free


def choose_image(recipe: Recipe, candidate: Candidate, engine: Mapping[str, Any], asked: str) -> tuple[str, str]:
    """The image that a serve sets (empty: that of ``anvil_engines``), and why."""
    needed = candidate.variant.since if candidate.engine == "vllm" else ""
    needed = needed or recipe.engines[candidate.engine].since
    if asked:
        return asked, f"image {asked}, as asked for"
    mine = str(engine.get("image") or "")
    words = f"{needed} or newer is needed" if needed else "no recipe says which release is needed"
    version = version_of_image(mine)
    order = compare_versions(version, needed) if version and needed else None
    if mine and order != -1:
        doubt = "" if order is not None or not needed else ", and its tag does not tell its release"
        return "", f"image {mine} of anvil_engines.{candidate.engine} ({words}{doubt})"
    pattern, tried = IMAGES[candidate.engine]
    release = needed if needed and compare_versions(needed, tried) == 1 else tried
    image = pattern.format(release)
    older = f"; that of anvil_engines.{candidate.engine} is {version}" if mine else f"; anvil_engines.{candidate.engine} has none"
    return image, f"image {image} ({words}{older})"


def _list_volumes(request: Request, engine: Mapping[str, Any]) -> list[str]:
    if request.path:
        folder = request.path if not request.path.endswith((".gguf", ".safetensors")) else os.path.dirname(request.path)
        inside = f"{MOUNTED}/{os.path.basename(folder)}" if folder == request.path else MOUNTED
        return [f"{folder}:{inside}:ro"]
    targets = [str(volume).split(":")[1] for volume in engine.get("volumes") or () if ":" in str(volume)]
    return [] if any(HUB_CACHE.startswith(target) for target in targets) else [f"vllm-hfcache:{HUB_CACHE}"]


def _name_model(request: Request, candidate: Candidate) -> str:
    if not request.path:
        return candidate.variant.repo
    return f"{MOUNTED}/{os.path.basename(request.path)}"


def build_keys(
    recipe: Recipe, request: Request, candidate: Candidate, port: int, engine: Mapping[str, Any], cards: Sequence[Gpu]
) -> tuple[dict[str, Any], str]:
    """The keys of the serve in ``anvil_serves``, and what is to be said of its image. cards: those that it gets."""
    image, said = choose_image(recipe, candidate, engine, request.image)
    families = [(find_capability(card.compute_capability or None) or _NoFamily).family for card in cards]
    extra = compose_arguments(recipe, candidate.engine, candidate.variant, families, request.wish.speculative)
    args = list(extra.args)
    keys: dict[str, Any] = {"engine": candidate.engine}
    if image:
        keys["image"] = image
    keys.update(model=_name_model(request, candidate), port=port)
    if recipe.kind != "chat":
        keys["kind"] = recipe.kind
    if cards:
        keys.update(gpus=[card.alias for card in cards], vram_mib=candidate.claim_mib)
    if candidate.engine == "llama_cpp":
        keys["launch"] = {"context": candidate.context, **({"gpu_layers": ALL_LAYERS} if cards else {})}
    else:
        args += [CONTEXT_FLAGS[candidate.engine], str(candidate.context)]
        args += ["--revision", candidate.commit] if candidate.commit else []
    if candidate.engine == "vllm" and cards:
        keys["gpu_memory_utilization"] = "derive"
    if candidate.engine == "sglang" and cards:
        share = (candidate.claim_mib - candidate.beside_mib) / min(card.vram_mib for card in cards)
        args += ["--mem-fraction-static", f"{max(LEAST_FRACTION, int(share * 1000) / 1000):g}"]
    if args:
        keys["args"] = args
    if extra.environment:
        keys["environment"] = dict(extra.environment)
    volumes = _list_volumes(request, engine)
    if volumes:
        keys["volumes"] = volumes
    return keys, said


class _NoFamily:
    family = ""


def _judge_weights(
    request: Request,
    candidate: Candidate,
    keys: Mapping[str, Any],
    weights: Weights,
    cards: Sequence[Gpu],
    allowed: Sequence[Origin] | None,
) -> tuple[str, list[str]]:
    """Why the weights cannot run on these cards, and what is doubtful about them."""
    if weights.facts is None or not cards:
        return "", []
    facts = [describe_card(card.uuid, card.name, card.compute_capability or None, card.vram_mib) for card in cards]
    judgement = judged.Candidate(
        request.name,
        candidate.engine,
        str(keys["model"]),
        cards=tuple(card.uuid for card in cards),
        args=tuple(keys.get("args") or ()),
        claim_mib=candidate.claim_mib,
        facts=weights.facts,
        environment=keys.get("environment") or {},
        kind=str(keys.get("kind") or "chat"),
        origin=Origin(candidate.variant.repo, candidate.commit) if candidate.commit else None,
    )
    policy = allowed if candidate.commit else None  # weights at a path are judged on their host, by their manifest
    found = judge_candidates([judgement], facts, policy).findings
    impossible = [finding.problem.what for finding in found if finding.verdict == IMPOSSIBLE]
    return "; ".join(impossible), [
        f"{finding.problem.what}: {finding.problem.why}" for finding in found if finding.verdict == DOUBTFUL
    ]


def _narrow(fleet: Fleet, recipe: Recipe, candidate: Candidate, wish: Wish) -> Fleet:
    """The fleet with only the cards that the candidate may use."""
    rooms = {}
    for host, room in fleet.rooms.items():
        gpus = {
            alias: gpu
            for alias, gpu in room.plan.gpus.items()
            if (not wish.aliases or alias in wish.aliases)
            and can_run(candidate.variant.precision, candidate.engine, gpu.compute_capability)
        }
        rooms[host] = replace(room, plan=replace(room.plan, gpus=gpus))
    return replace(fleet, rooms=rooms)


def _try_candidate(
    loader: Any, fleet: Fleet, recipe: Recipe, request: Request, candidate: Candidate, port: int, weights: Weights
) -> Fitting | str:
    keys, _said = build_keys(recipe, request, candidate, port, {}, ())
    if candidate.cards:
        keys["vram_mib"] = candidate.claim_mib
    wanted = [WantedServe(request.name, keys, candidate.cards)]
    proposal = place_on_hosts(loader, _narrow(fleet, recipe, candidate, request.wish), wanted)
    if not proposal.placed:
        reasons = proposal.missing.get(request.name) or {}
        return "; ".join(f"{host}: {why}" for host, why in reasons.items()) or "no host is considered"
    (placement,) = proposal.placed
    cards = [fleet.rooms[placement.host].plan.gpus[alias] for alias in placement.claims]
    engine = fleet.engines.get(placement.host, {}).get(candidate.engine) or {}
    keys, said = build_keys(recipe, request, candidate, port, engine, cards)
    refusal, doubts = _judge_weights(request, candidate, keys, weights, cards, fleet.rooms[placement.host].plan.models_allowed)
    if refusal:
        return f"{placement.host}: {refusal}"
    try:
        plan = plan_with(loader, fleet, placement.host, {request.name: keys})
    except AnvilError as error:
        return f"{placement.host}: " + "; ".join(f"{problem.where}: {problem.what}" for problem in error.problems)
    told = [*doubts, *recipe.notes, *_list_plan_notes(plan, request.name)]
    if request.wish.speculative and not recipe.engines[candidate.engine].speculative:
        told.append(f"speculative decoding is not turned on: the recipe has none for {candidate.engine}")
    return Fitting(candidate, placement, keys, (said, *candidate.notes, *told))


def _list_plan_notes(plan: HostPlan, name: str) -> list[str]:
    """What the plan notes of the serve; and whether the serve profile of the host leaves it out."""
    notes = [note for note in plan.notes if note.startswith((f"anvil_serves.{name}.", f"anvil_serves.{name}:"))]
    if any(serve.name == name and serve.residency == OFF for serve in plan.serves):
        notes.append("the serve profile or deploy mode of this host leaves it out: site.yml does not start it")
    return notes


def find_fittings(
    loader: Any, fleet: Fleet, recipe: Recipe, request: Request, weights: Mapping[str, Weights], port: int
) -> Outcome:
    """Try every candidate, the preferred one first. What was asked for by option is not replaced by something else."""
    most = max((len(room.plan.gpus) for room in fleet.rooms.values()), default=0)
    known = {name for engines in fleet.engines.values() for name, keys in engines.items() if (keys or {}).get("image")}
    outcome = Outcome()
    recipe = replace(recipe, engines={name: one for name, one in recipe.engines.items() if name in IMAGES})
    for candidate in list_candidates(recipe, weights, sorted(known), most, request.wish):
        answer = _try_candidate(loader, fleet, recipe, request, candidate, port, weights.get(candidate.variant.name, Weights()))
        if isinstance(answer, str):
            outcome.misfits += [(candidate, answer)] if outcome.chosen is None else []
        elif outcome.chosen is None and request.wish.context in (None, candidate.context):
            outcome.chosen = answer
        else:
            outcome.others.append(answer)
    return outcome


def find_wider(
    loader: Any, fleet: Fleet, recipe: Recipe, request: Request, weights: Mapping[str, Weights], port: int
) -> list[Fitting]:
    """What would fit if only the model was asked for."""
    free = replace(request, wish=Wish(speculative=request.wish.speculative))
    outcome = find_fittings(loader, fleet, recipe, free, weights, port)
    return [one for one in (outcome.chosen, *outcome.others) if one is not None]


def select_others(fittings: Sequence[Fitting], chosen: Fitting | None) -> list[Fitting]:
    """For each variant and engine that with the longest context, on the fewest cards. chosen: it is not listed again."""
    kept: dict[tuple[str, str], Fitting | None] = {}
    for one in [chosen, *fittings]:
        if one is not None:
            kept.setdefault((one.candidate.variant.name, one.candidate.engine), None if one is chosen else one)
    return [one for one in kept.values() if one is not None][:MOST_OTHERS]


def lay_out_file(request: Request, recipe: Recipe, chosen: Fitting) -> tuple[str, str]:
    """The path below the inventory, and the YAML of the serve, as a layer of its own."""
    layer = "anvil_serves__" + re.sub(r"\W", "_", request.name)
    origin = f"the recipe {os.path.basename(recipe.origin)}" if recipe.origin else "the headers of its weights"
    sums = [*chosen.candidate.arithmetic, *chosen.placement.arithmetic]
    body = yaml.dump(
        {layer: {request.name: dict(chosen.keys)}}, Dumper=AnsibleDumper, sort_keys=False, allow_unicode=True, width=120
    )
    head = f"---\n# Proposed by playbooks/add.yml from {origin}.\n" + "".join(f"# {_plain(line)}\n" for line in sums)
    return f"host_vars/{chosen.placement.host}/added-{request.name}.yml", head + body


def _plain(text: str) -> str:
    """One line of a comment."""
    return re.sub(r"\s+", " ", text)


def describe_outcome(
    request: Request,
    outcome: Outcome,
    wider: Sequence[Fitting],
    weights: Mapping[str, Weights],
    fleet: Fleet,
    file: tuple[str, str] | None,
) -> list[str]:
    """What is printed: the serve with its arithmetic, what was preferred and does not fit, what else fits, and the YAML."""
    lines: list[str] = []
    chosen = outcome.chosen
    if chosen:
        on = ", ".join(chosen.placement.claims) or "the CPU"
        lines.append(f"serve {request.name}: {chosen.candidate.describe()}, on {on} of {chosen.placement.host}")
        lines += [f"  {line}" for line in (*chosen.candidate.arithmetic, *chosen.placement.arithmetic, *chosen.placement.notes)]
        lines += [f"  note: {note}" for note in chosen.notes]
    else:
        lines.append(f"serve {request.name}: {request.model} does not fit as it was asked for")
    if not chosen and not outcome.misfits and not wider:
        lines.append("  how much memory it needs is not known: neither the recipe nor the headers of the weights say so")
        lines += [f"  {name}: {one.why}" for name, one in weights.items() if one.why]
    if outcome.misfits:
        lines.append("does not fit:")
        lines += [
            f"  {one.describe()}: needs {one.claim_mib:,} MiB on each; {why}" for one, why in outcome.misfits[:MOST_MISFITS]
        ]
    others = select_others([*outcome.others, *wider], chosen)
    if others:
        lines.append("also fits:")
        for one in others:
            on = ", ".join(one.placement.claims) or "the CPU"
            typed = one.candidate.as_options(",".join(one.placement.claims) or "0")
            lines.append(f"  {one.candidate.describe()}, on {on}: {one.candidate.claim_mib:,} MiB: {typed}")
    lines += [f"{host} is left out: {why}" for host, why in fleet.left_out.items()]
    if file:
        lines += ["", f"{file[0]}:", *(f"  {line}" for line in file[1].splitlines())]
    return lines
