# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The recipes: their schema, what their arguments become in a plan on cards of four generations, and the public format."""

from __future__ import annotations

import copy
import uuid
from typing import Any

import pytest
import yaml
from ansible_collections.anvil.serving.plugins.module_utils.catalog.card_capabilities import CAPABILITIES
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_recipes import (
    USES,
    Recipe,
    compare_versions,
    compose_arguments,
    read_recipe,
    version_of_image,
)
from ansible_collections.anvil.serving.plugins.module_utils.catalog.public_recipes import read_public_recipe
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan
from conftest import REPO

RECIPES = {path.stem: read_recipe(yaml.safe_load(path.read_text()), path.name) for path in (REPO / "recipes").glob("*.yml")}
# Cards of four generations: compute capability -> MiB.
CARDS = {"8.0": 81920, "8.9": 46068, "9.0": 143771, "12.0": 97887}
IMAGES = {"vllm": "vllm/vllm-openai:v0.32.0", "sglang": "lmsysorg/sglang:v0.5.11", "llama_cpp": "anvil.local/llama-server:1"}

GOOD: dict[str, Any] = {
    "model": "org/model-8B",
    "uses": ["chat", "tools"],
    "parameters": "8.2B",
    "context": 32768,
    "source": "card",
    "sources": {"card": {"url": "https://example.org/card", "date": "2026-08-14"}},
    "variants": {"fp8": {"repo": "org/model-8B-FP8", "precision": "fp8", "vram_gb": 12, "source": "card", "args": ["--x"]}},
    "engines": {
        "vllm": {
            "since": "0.17.0",
            "source": "card",
            "args": ["--trust-remote-code"],
            "environment": {"A": "1"},
            "tools": "hermes",
            "reasoning": "qwen3",
            "cards": {"Blackwell": {"args": ["--b"], "environment": {"A": "2"}}},
            "speculative": ["--speculative-config", '{"method": "mtp"}'],
        }
    },
}


def changed(*steps: Any) -> dict[str, Any]:
    """GOOD with the last step at the path of the others."""
    *path, last, value = steps
    document = copy.deepcopy(GOOD)
    place = document
    for step in path:
        place = place[step]
    place[last] = value
    return document


def test_there_are_recipes_for_every_use_and_engine() -> None:
    assert len(RECIPES) >= 30
    assert {use for recipe in RECIPES.values() for use in recipe.uses} == set(USES)
    engines = [engine for recipe in RECIPES.values() for engine in recipe.engines]
    assert all(engines.count(engine) >= 8 for engine in IMAGES), engines
    assert len({recipe.model for recipe in RECIPES.values()}) == len(RECIPES)


@pytest.mark.parametrize(
    ("document", "where", "what"),
    [
        ([], "r.yml", "must be a mapping"),
        (changed("modle", 1), "r.yml: modle", "unknown key"),
        (changed("model", None), "r.yml: model", "is missing"),
        (changed("model", "no-owner"), "r.yml: model", "is not a repository"),
        (changed("uses", ["chatting"]), "r.yml: uses[0]", "'chatting' is not known"),
        (changed("source", "blog"), "r.yml: source", "'blog' is not known"),
        (changed("context", "32k"), "r.yml: context", "is no number"),
        (changed("context", True), "r.yml: context", "is no number"),
        (changed("sources", "card", "date", "last year"), "r.yml: sources.card.date", "is no date"),
        (changed("sources", "card", "url", "http://example.org"), "r.yml: sources.card.url", "is not an address with https"),
        (changed("variants", "fp8", "source", None), "r.yml: variants.fp8.source", "is missing"),
        (changed("variants", "fp8", "vram_gb", 0), "r.yml: variants.fp8.vram_gb", "is no number"),
        (changed("variants", "fp8", "format", "gguf"), "r.yml: variants.fp8", "no engine of this recipe loads gguf"),
        (changed("variants", "fp8", "vram_mib", 1), "r.yml: variants.fp8.vram_mib", "unknown key"),
        (changed("engines", "vlm", {"source": "card"}), "r.yml: engines.vlm", "'vlm' is not known"),
        (changed("engines", "vllm", "since", 0.17), "r.yml: engines.vllm.since", "is not a version; quote it"),
        (changed("engines", "vllm", "args", "--x"), "r.yml: engines.vllm.args", "must be a list"),
        (changed("engines", "vllm", "args", ["--x", 1]), "r.yml: engines.vllm.args[1]", "must be text, not 1"),
        (changed("engines", "vllm", "args", ["{{ x }}"]), "r.yml: engines.vllm.args[0]", "would read it as a template"),
        (changed("engines", "vllm", "environment", {"A": 1}), "r.yml: engines.vllm.environment.A", "must be text"),
        (changed("engines", "vllm", "environment", {"a b": "1"}), "r.yml: engines.vllm.environment.a b", "is no name"),
        (changed("engines", "vllm", "cards", {"Volta": {}}), "r.yml: engines.vllm.cards.Volta", "unknown key"),
        (changed("engines", "vllm", "speculative", ["{'a': 1}"]), "r.yml", "not valid JSON"),
        (changed("notes", ["x" * 301]), "r.yml: notes[0]", "longer than 300"),
    ],
)
def test_a_mistake_in_a_recipe_is_named_with_its_key(document: Any, where: str, what: str) -> None:
    with pytest.raises(AnvilError) as caught:
        read_recipe(document, "r.yml")
    assert any(problem.where == where and what in problem.what for problem in caught.value.problems), caught.value


def test_the_arguments_follow_from_engine_card_and_variant() -> None:
    recipe = read_recipe(GOOD, "r.yml")
    fp8 = recipe.variants["fp8"]
    plain = ("--trust-remote-code", "--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3")
    hopper = compose_arguments(recipe, "vllm", fp8, ["Hopper"])
    assert (hopper.args, hopper.environment) == ((*plain, "--x"), {"A": "1"})
    blackwell = compose_arguments(recipe, "vllm", fp8, ["Blackwell", "Blackwell"], speculative=True)
    assert blackwell.args == (*plain, "--b", "--x", "--speculative-config", '{"method": "mtp"}')
    assert blackwell.environment == {"A": "2"}
    assert compose_arguments(recipe, "vllm", fp8, ["Hopper", "Blackwell"]) == hopper


@pytest.mark.parametrize("capability", CARDS)
def test_every_recipe_passes_the_plan_on_the_cards_of_a_generation(capability: str) -> None:
    """One plan with every variant of every recipe, each on cards of its own."""
    gpus: dict[str, Any] = {}
    serves: dict[str, Any] = {}
    family = CAPABILITIES[capability].family
    for name, recipe in RECIPES.items():
        for variant in recipe.variants.values():
            for engine in recipe.engines_of(variant):
                cards = 1
                while cards < 64 and (variant.vram_gb or 1) * 954 > cards * CARDS[capability]:
                    cards *= 2
                mine = [f"g{len(gpus) + number}" for number in range(cards)]
                gpus.update({alias: {"uuid": make_uuid(alias), "vram_mib": CARDS[capability], "compute_capability": capability}
                             for alias in mine})  # fmt: skip
                extra = compose_arguments(recipe, engine, variant, [family], speculative=True)
                volumes = ["models:/models:ro"] if engine == "llama_cpp" else ["cache:/root/.cache/huggingface"]
                serves[f"s{len(serves)}-{name}".replace(".", "-")[:60]] = {
                    "engine": engine,
                    "image": IMAGES[engine],
                    "model": "/models/model.gguf" if engine == "llama_cpp" else variant.repo,
                    "kind": recipe.kind,
                    "gpus": mine,
                    "port": 20000 + len(serves),
                    "vram_mib": CARDS[capability] * 9 // 10,
                    "args": list(extra.args),
                    "environment": dict(extra.environment),
                    "volumes": volumes,
                }
    assert len(serves) > 150
    plan = build_plan("box", {"anvil_gpus": gpus, "anvil_serves": serves}, {}, False)
    assert len(plan.serves) == len(serves)
    reread = {serve.name: serve for serve in plan.serves}
    assert all(set(serves[name]["args"]) <= set(serve.args) for name, serve in reread.items())


def make_uuid(alias: str) -> str:
    return f"GPU-{uuid.uuid5(uuid.NAMESPACE_DNS, alias)}"


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("vllm/vllm-openai:v0.19.1", "0.19.1"),
        ("lmsysorg/sglang:v0.5.11-cu130-runtime", "0.5.11"),
        ("anvil.local/vllm:vllm-0.32.0", "0.32.0"),
        ("a.example:5000/llama.cpp:server-cuda-b6123", "b6123"),
        ("a.example:5000/llama.cpp", ""),
        ("anvil.local/llama-server:1", ""),
        ("vllm/vllm-openai:latest", ""),
        ("vllm/vllm-openai:v0.19.1@sha256:" + "0" * 64, "0.19.1"),
    ],
)
def test_the_version_of_an_image_is_that_of_its_tag(image: str, version: str) -> None:
    assert version_of_image(image) == version


@pytest.mark.parametrize(
    ("left", "right", "order"),
    [("0.9.2", "0.10.0", -1), ("0.17.0", "0.17", 0), ("1", "0.32.0", 1), ("b6123", "b900", 1), ("b6123", "0.1", None)],
)
def test_versions_are_compared_by_their_numbers(left: str, right: str, order: int | None) -> None:
    assert compare_versions(left, right) == order


PUBLIC: dict[str, Any] = {
    "meta": {"date_updated": "2026-08-01", "tasks": ["text"], "surprise": 1},
    "model": {
        "model_id": "org/model-8B",
        "min_vllm_version": "0.17.0",
        "parameter_count": "8B",
        "context_length": 32768,
        "base_args": ["--max-model-len", "32768", "--port=80", "--trust-remote-code"],
        "base_env": {"A": "1", "NET": "$IFACE"},
    },
    "features": {
        "tool_calling": {"args": ["--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--chat-template", "x.jinja"]},
        "reasoning": {"args": ["--reasoning-parser", "qwen3"]},
        "spec_decoding": {"args": ["--speculative-config.method", "mtp", "--speculative-config.num_speculative_tokens", "2"]},
        "text_only": None,
    },
    "variants": {
        "default": {"precision": "bf16", "vram_minimum_gb": 20},
        "fp8_dynamic": {"model_id": "org/model-8B-FP8", "precision": "fp8", "vram_minimum_gb": 10, "extra_args": ["--y"]},
        "odd": {"model_id": "no owner", "precision": "fp8"},
    },
    "hardware_overrides": {
        "blackwell": {"extra_args": ["-O", '{"a":{"b":1}}'], "extra_env": {"B": 1}},
        "amd": {"extra_args": ["-z"]},
    },
    "guide": "text",
}


def test_a_recipe_in_the_public_format_becomes_one_of_ours() -> None:
    recipe = read_public_recipe(PUBLIC, "x.yaml")
    assert isinstance(recipe, Recipe)
    assert (recipe.model, recipe.context, recipe.parameters, recipe.kind) == ("org/model-8B", 32768, "8B", "chat")
    assert {name: (one.repo, one.vram_gb) for name, one in recipe.variants.items()} == {
        "bf16": ("org/model-8B", 20),
        "fp8-dynamic": ("org/model-8B-FP8", 10),
    }
    extra = compose_arguments(recipe, "vllm", recipe.variants["fp8-dynamic"], ["Blackwell"], speculative=True)
    assert list(extra.args) == [
        "--trust-remote-code", "--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--chat-template", "x.jinja",
        "--reasoning-parser", "qwen3", "-O", '{"a": {"b": 1}}', "--y",
        "--speculative-config", '{"method": "mtp", "num_speculative_tokens": 2}',
    ]  # fmt: skip
    assert extra.environment == {"A": "1", "B": "1"}
    assert recipe.engines["vllm"].since == "0.17.0"
    assert recipe.sources["recipe"].date == "2026-08-01"


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        (("model", "model_id"), None, "names no model"),
        (("model", "base_args"), ["{{ lookup('pipe', 'id') }}"], "would read it as a template"),
        (("variants",), {}, "has no variant"),
        (("variants",), "text", "has no variant"),
    ],
)
def test_what_the_public_format_may_not_bring_in_is_refused(path: tuple[str, ...], value: Any, what: str) -> None:
    document = copy.deepcopy(PUBLIC)
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(AnvilError, match=what):
        read_public_recipe(document, "x.yaml")


@pytest.mark.parametrize("part", ["meta", "features", "hardware_overrides"])
@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_a_part_of_the_public_format_in_another_shape_is_left_out(part: str, value: Any) -> None:
    recipe = read_public_recipe({**copy.deepcopy(PUBLIC), part: value}, "x.yaml")
    assert set(recipe.variants) == {"bf16", "fp8-dynamic"}
