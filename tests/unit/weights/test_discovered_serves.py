"""A folder of models as serves: names, ports and tags, and that a rescan changes none of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import NAME
from ansible_collections.anvil.serving.plugins.module_utils.weights.discovered_serves import (
    Scan,
    ScanResult,
    choose_size_tag,
    name_model,
    plan_serves,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import ModelFacts
from hypothesis import given
from hypothesis import strategies as st

GIB = 1024**3
SCAN = Scan(folder="/srv/models", source="/srv/models", target="/models")


def facts(path: str, gib: float = 1.0, quant: str = "Q4_K_M", kind: str = "text", **more: Any) -> ModelFacts:
    return ModelFacts(f"/srv/models/{path}", "gguf", (path,), int(gib * GIB), quantisation=quant, kind=kind, **more)


def scan(*models: ModelFacts, **changes: Any) -> ScanResult:
    return plan_serves(models, replace(SCAN, **changes))


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (facts("Qwen3-8B-Q4_K_M.gguf"), "qwen3-8b-q4_k_m"),
        (facts("deepseek-r1-distill-qwen-1.5B-Q2_K.gguf", quant="Q2_K"), "deepseek-r1-distill-qwen-1-5b-q2_k"),
        (facts("m-IQ3_XXS-00001-of-00003.gguf", quant="IQ3_XXS"), "m-iq3_xxs"),
        (facts("gpt-oss.gguf", quant="MXFP4_MOE", name="gpt-oss 120b"), "gpt-oss-120b-mxfp4_moe"),
        (facts("x.gguf", quant="", name="???"), "model"),
        (facts("l.gguf", name="long " * 40), ("long-" * 40)[:56].rstrip("-") + "-q4_k_m"),
    ],
)
def test_a_name_is_the_models_own_and_its_quantisation(model: ModelFacts, name: str) -> None:
    assert name_model(model) == name and NAME.fullmatch(name)


@pytest.mark.parametrize(("gib", "tag"), [(0.1, "fast"), (4.0, "fast"), (4.1, "balanced"), (16.0, "balanced"), (60, "powerful")])
def test_a_tag_follows_the_size_of_the_weights(gib: float, tag: str) -> None:
    assert choose_size_tag(facts("a.gguf", gib)) == tag


def test_what_is_no_model_is_told_and_not_served() -> None:
    found = scan(
        facts("vision/gemma.gguf"),
        facts("vision/mmproj-F16.gguf", kind="mmproj"),
        facts("mmproj-alone.gguf", kind="mmproj"),
        facts("lora.gguf", kind="adapter"),
        facts("half-00001-of-00002.gguf", missing=("half-00002-of-00002.gguf",)),
        facts("embed.gguf", kind="embeddings"),
        ModelFacts("/srv/models/hf", "safetensors", ("a.safetensors",), GIB),
    )
    assert set(found.serves) == {"gemma-q4_k_m", "embed-q4_k_m"}
    assert found.serves["gemma-q4_k_m"]["args"] == ["--mmproj", "/models/vision/mmproj-F16.gguf"]
    assert found.serves["embed-q4_k_m"]["args"] == ["--embeddings"]
    assert found.serves["embed-q4_k_m"]["tags"] == ["discovered", "embeddings"]
    told = "\n".join(found.notes)
    for word in ("mmproj-alone", "adapter", "half-00002-of-00002.gguf is missing", "safetensors"):
        assert word in told


def test_all_twenty_ports_are_given_away_and_the_twenty_first_model_is_told() -> None:
    models = [facts(f"m{number:02d}.gguf") for number in range(21)]
    found = scan(*models)
    assert sorted(serve["port"] for serve in found.serves.values()) == list(range(8080, 8100))
    (problem,) = found.problems
    assert "m20" in problem.why and "8080 to 8099" in problem.why
    assert not scan(*models[:20]).problems


def test_ports_of_others_are_left_alone_and_a_kept_one_gives_way_to_them() -> None:
    first = scan(facts("a.gguf"), taken=[8080])
    assert first.serves["a-q4_k_m"]["port"] == 8081
    assert scan(facts("a.gguf"), kept=first.serves, taken=[8081]).serves["a-q4_k_m"]["port"] == 8080


def test_two_models_of_one_name_get_two_names() -> None:
    found = scan(facts("one/m.gguf"), facts("two/m.gguf"), names=["m-q4_k_m"])
    assert sorted(found.serves) == ["m-q4_k_m-2", "m-q4_k_m-3"]


def test_defaults_and_the_estimate_of_a_card() -> None:
    found = scan(facts("a.gguf", 2.0), defaults={"gpus": ["big"], "args": ["-np", "2"], "image": "x:1", "volumes": ["c:/c"]})
    serve = found.serves["a-q4_k_m"]
    assert serve["vram_mib"] > 2048 and serve["args"] == ["-np", "2"] and serve["image"] == "x:1"
    assert serve["volumes"] == ["c:/c", "/srv/models:/models:ro"]


paths = st.lists(st.sampled_from([f"{a}/{b}.gguf" for a in "abc" for b in ("m", "n", "Q4", "x-1.5B")]), unique=True)


@given(before=paths, after=paths)
def test_a_rescan_changes_nothing_of_what_stayed(before: list[str], after: list[str]) -> None:
    first = scan(*(facts(path, number * 3.0 + 1) for number, path in enumerate(before)))
    second = scan(*(facts(path, 1.0) for path in after), kept=first.serves)
    assert scan(*(facts(path, 9.0) for path in after), kept=second.serves).serves == second.serves
    models = {serve["model"]: name for name, serve in second.serves.items()}
    assert len(models) == len(after) == len({serve["port"] for serve in second.serves.values()})
    for name, serve in first.serves.items():
        if serve["model"] in models:
            assert models[serve["model"]] == name and second.serves[name] == serve
