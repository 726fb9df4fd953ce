"""Serves made from a folder of models: names, ports and tags, none of which a rescan changes."""

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
from ansible_collections.anvil.serving.plugins.module_utils.weights.gguf_kind import NOT_MODELS
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
def test_a_serve_name_is_the_models_name_and_its_quantisation(model: ModelFacts, name: str) -> None:
    assert name_model(model) == name and NAME.fullmatch(name)


@pytest.mark.parametrize(("gib", "tag"), [(0.1, "fast"), (4.0, "fast"), (4.1, "balanced"), (16.0, "balanced"), (60, "powerful")])
def test_a_tag_follows_the_size_of_the_weights(gib: float, tag: str) -> None:
    assert choose_size_tag(facts("a.gguf", gib)) == tag


def test_files_that_are_not_models_are_reported_and_not_served() -> None:
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
    assert {skipped.path.rpartition("/")[2]: skipped.why for skipped in found.skipped} == {
        "lora.gguf": "it is an adapter (LoRA)",
        "half-00001-of-00002.gguf": "half-00002-of-00002.gguf is missing",
        "hf": "llama.cpp does not load safetensors",
    }
    assert found.notes == ("/srv/models/mmproj-alone.gguf: projector is not used: its folder holds no model",)


@pytest.mark.parametrize("kind", sorted(NOT_MODELS.keys() - {"mmproj"}))
def test_every_kind_of_file_that_is_not_a_model_is_skipped_with_a_reason(kind: str) -> None:
    found = scan(facts("a.gguf", kind=kind))
    assert found.serves == {} and found.skipped[0].why == f"it is {NOT_MODELS[kind]}"


def test_a_model_with_tensors_of_a_fork_is_skipped_with_their_types() -> None:
    found = scan(facts("a.gguf", unknown_types=("type 156",)))
    assert found.serves == {} and "(type 156)" in found.skipped[0].why


def test_a_reranker_and_an_embedder_get_their_flags() -> None:
    found = scan(facts("e.gguf", kind="embeddings"), facts("r.gguf", kind="rerank"), facts("t.gguf"))
    assert {name[0]: serve.get("args") for name, serve in found.serves.items()} == {
        "e": ["--embeddings"],
        "r": ["--reranking"],
        "t": None,
    }
    assert found.serves["r-q4_k_m"]["tags"] == ["discovered", "rerank"]


def projector(name: str, *widths: int, **more: Any) -> ModelFacts:
    return facts(name, kind="mmproj", projector_widths=widths, **more)


@pytest.mark.parametrize(
    ("models", "with_projector", "note"),
    [
        # The widths of both are known and differ: llama.cpp would refuse the pair, although they are alone in the folder.
        (
            [facts("a.gguf", embedding_length=4096), projector("p.gguf", 2560)],
            [],
            "no model of its folder has embeddings of width 2560",
        ),
        # The width of a projector decides which model it belongs to.
        ([facts("a.gguf", embedding_length=4096), facts("b.gguf", embedding_length=2560), projector("p.gguf", 2560)], ["b"], ""),
        # LLaVA: the header names CLIP's own projection; the tensors have the width of the model.
        ([facts("a.gguf", embedding_length=4096), projector("p.gguf", 768, 4096)], ["a"], ""),
        # Two quantisations of one model share its projector.
        (
            [facts(f"{q}.gguf", quant=q, name="Gemma", embedding_length=2560) for q in ("Q4_K_M", "Q8_0")]
            + [projector("p.gguf", 2560)],
            ["gemma-q4_k_m", "gemma-q8_0"],
            "",
        ),
        # Two models have the same width: the family name decides; without one, no model gets the projector.
        (
            [
                facts("a.gguf", name="A", base_name="A"),
                facts("b.gguf", name="B", base_name="B"),
                projector("p.gguf", base_name="B"),
            ],
            ["b"],
            "",
        ),
        ([facts("a.gguf", name="A"), facts("b.gguf", name="B"), projector("p.gguf")], [], "2 models that it may belong to"),
        ([facts("a.gguf"), facts("b.gguf"), projector("p.gguf")], [], "2 models that it may belong to"),
        ([facts("a.gguf"), projector("p1.gguf"), projector("p2.gguf")], ["a"], "p1.gguf is used for the same model"),
        ([facts("a.gguf", embedding_length=None), projector("p.gguf", 2560)], ["a"], ""),
        ([facts("e.gguf", kind="embeddings"), projector("p.gguf")], [], "its folder holds no model"),
    ],
)
def test_a_projector_is_added_only_to_a_model_that_it_fits(
    models: list[ModelFacts], with_projector: list[str], note: str
) -> None:
    found = scan(*models)
    joined = [name for name, serve in found.serves.items() if "--mmproj" in serve.get("args", ())]
    assert [name for name in joined if not any(name.startswith(want) for want in with_projector)] == []
    assert len(joined) == len(with_projector)
    assert note in "\n".join(found.notes) and bool(note) == bool(found.notes)


def test_a_rescan_keeps_both_serves_of_one_model() -> None:
    kept = {
        "one": {"model": "/models/a.gguf", "port": 8081, "tags": ["discovered", "fast"]},
        "two": {"model": "/models/a.gguf", "port": 8085, "tags": ["discovered", "powerful"]},
    }
    found = scan(facts("a.gguf"), facts("b.gguf"), kept=kept)
    assert {name: serve["port"] for name, serve in found.serves.items()} == {"one": 8081, "two": 8085, "b-q4_k_m": 8080}
    assert found.serves["two"]["tags"] == ["discovered", "powerful"]


def test_all_twenty_ports_are_assigned_and_the_twenty_first_model_is_reported() -> None:
    models = [facts(f"m{number:02d}.gguf") for number in range(21)]
    found = scan(*models)
    assert sorted(serve["port"] for serve in found.serves.values()) == list(range(8080, 8100))
    (problem,) = found.problems
    assert "m20" in problem.why and "8080 to 8099" in problem.why
    assert not scan(*models[:20]).problems


def test_taken_ports_are_not_assigned_and_a_kept_port_changes_if_it_is_taken() -> None:
    first = scan(facts("a.gguf"), taken=[8080])
    assert first.serves["a-q4_k_m"]["port"] == 8081
    assert scan(facts("a.gguf"), kept=first.serves, taken=[8081]).serves["a-q4_k_m"]["port"] == 8080


def test_two_models_with_the_same_name_get_different_serve_names() -> None:
    found = scan(facts("one/m.gguf"), facts("two/m.gguf"), names=["m-q4_k_m"])
    assert sorted(found.serves) == ["m-q4_k_m-2", "m-q4_k_m-3"]


def test_defaults_and_the_vram_estimate_are_set_on_a_serve() -> None:
    found = scan(facts("a.gguf", 2.0), defaults={"gpus": ["big"], "args": ["-np", "2"], "image": "x:1", "volumes": ["c:/c"]})
    serve = found.serves["a-q4_k_m"]
    assert serve["vram_mib"] > 2048 and serve["args"] == ["-np", "2"] and serve["image"] == "x:1"
    assert serve["volumes"] == ["c:/c", "/srv/models:/models:ro"]


def test_the_vram_estimate_counts_the_projector() -> None:
    models = [facts("a.gguf", 2.0, embedding_length=2560), projector("p.gguf", 2560)]
    with_projector = scan(*models, defaults={"gpus": ["big"]}).serves["a-q4_k_m"]["vram_mib"]
    assert with_projector - scan(models[0], defaults={"gpus": ["big"]}).serves["a-q4_k_m"]["vram_mib"] == 1024


paths = st.lists(st.sampled_from([f"{a}/{b}.gguf" for a in "abc" for b in ("m", "n", "Q4", "x-1.5B")]), unique=True)


@given(before=paths, after=paths)
def test_a_rescan_does_not_change_the_serves_of_remaining_models(before: list[str], after: list[str]) -> None:
    first = scan(*(facts(path, number * 3.0 + 1) for number, path in enumerate(before)))
    second = scan(*(facts(path, 1.0) for path in after), kept=first.serves)
    assert scan(*(facts(path, 9.0) for path in after), kept=second.serves).serves == second.serves
    models = {serve["model"]: name for name, serve in second.serves.items()}
    assert len(models) == len(after) == len({serve["port"] for serve in second.serves.values()})
    for name, serve in first.serves.items():
        if serve["model"] in models:
            assert models[serve["model"]] == name and second.serves[name] == serve
