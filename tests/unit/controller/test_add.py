# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What add.yml proposes for a model: engine, cards, context and claim; what does not fit, and what else does."""

from __future__ import annotations

import uuid
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible_collections.anvil.serving.plugins.action.anvil_add import (
    check_request,
    list_repositories,
    read_header,
    read_wish,
    write_proposal,
)
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_recipes import Recipe
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_description import (
    Load,
    describe_model,
    read_described_facts,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import Attention, Layer, ModelFacts, WeightParts
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.added_serve import (
    Outcome,
    Request,
    choose_name,
    describe_outcome,
    find_fittings,
    find_wider,
    lay_out_file,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.model_candidates import Weights, Wish, can_run, use_local_weights
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.proposed_serves import Fleet, read_fleet
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.recipe_files import FOLDER, find_recipe, load_named_recipe

LOADER = DataLoader()
ANY = Wish()
GB = 1000**3
# Cards: alias -> (MiB, compute capability).
RTX_5090 = {"rtx-5090": (32607, "12.0")}
A100 = {"a100": (81920, "8.0")}
TWO_L4 = {"l4-0": (23034, "8.9"), "l4-1": (23034, "8.9")}
DENSE = ModelFacts(
    "org/dense", "safetensors", ("model.safetensors",), 16 * GB, architecture="Qwen3ForCausalLM", quantisation="bf16",
    context_length=40960, layers=36, heads=32, vocabulary=151936, attention=Attention((Layer("full", 36, 8, 128, 128),)),
)  # fmt: skip
GGUF = replace(DENSE, path="/srv/models/x.gguf", format="gguf", weights_bytes=5 * GB, quantisation="Q4_K_M", name="Qwen3 8B")


def make_fleet(cards: dict[str, tuple[int, str]], **more: Any) -> Fleet:
    """A fleet of one host with these cards."""
    gpus = {
        alias: {"uuid": f"GPU-{uuid.uuid5(uuid.NAMESPACE_DNS, alias)}", "vram_mib": mib, "compute_capability": version}
        for alias, (mib, version) in cards.items()
    }
    fleet = read_fleet(LOADER, {"box": {"inventory_hostname": "box", "anvil_gpus": gpus, **more}}, {})
    assert not fleet.left_out
    return fleet


def propose(
    model: str, fleet: Fleet, wish: Wish = ANY, weights: dict[str, Weights] | None = None, recipe: Recipe | None = None
) -> tuple[Request, Recipe, Outcome]:
    recipe = recipe or find_recipe(model)
    assert recipe
    usable = {name: one for name, one in recipe.variants.items() if one.format != "gguf" or model.startswith("/")}
    recipe = replace(recipe, variants=usable)
    request = Request(model, choose_name(model), model if model.startswith("/") else "", wish=wish)
    return request, recipe, find_fittings(LOADER, fleet, recipe, request, weights or {}, 30001)


def keys_of(outcome: Outcome) -> dict[str, Any]:
    assert outcome.chosen, outcome.misfits
    return dict(outcome.chosen.keys)


def test_a_recipe_becomes_a_serve_with_its_parsers_claim_and_image() -> None:
    request, recipe, outcome = propose("openai/gpt-oss-20b", make_fleet(RTX_5090))
    assert keys_of(outcome) == {
        "engine": "vllm",
        "image": "vllm/vllm-openai:v0.32.0",
        "model": "openai/gpt-oss-20b",
        "port": 30001,
        "gpus": ["rtx-5090"],
        "vram_mib": 15300,
        "gpu_memory_utilization": "derive",
        "args": ["--enable-auto-tool-choice", "--tool-call-parser", "openai", "--max-model-len", "32768"],
        "environment": {"VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8": "1"},
        "volumes": ["vllm-hfcache:/root/.cache/huggingface"],
    }
    path, text = lay_out_file(request, recipe, outcome.chosen)
    assert path == "host_vars/box/added-gpt-oss-20b.yml"
    assert yaml.safe_load(text) == {"anvil_serves__gpt_oss_20b": {"gpt-oss-20b": keys_of(outcome)}}
    assert "# recipe: 16 GB (vllm, 2026-05-08) = 15,259 MiB; claim: 15,300 MiB" in text
    lines = "\n".join(describe_outcome(request, outcome, [], {}, Fleet(), (path, text)))
    assert "rtx-5090: serve gpt-oss-20b 15300 of 32607 MiB; 17307 MiB stay free" in lines
    assert "the weights were not read (not asked)" in lines


@pytest.mark.parametrize(
    ("image", "chosen"),
    [
        ("vllm/vllm-openai:v0.20.0", None),
        ("registry.example/vllm:mine", None),  # its tag does not tell its release
        ("vllm/vllm-openai:v0.9.2", "vllm/vllm-openai:v0.32.0"),
    ],
)
def test_the_image_of_the_host_is_used_unless_it_is_too_old(image: str, chosen: str | None) -> None:
    engines = {"vllm": {"image": image, "volumes": ["cache:/root/.cache/huggingface"]}}
    outcome = propose("openai/gpt-oss-20b", make_fleet(A100, anvil_engines=engines))[2]
    assert keys_of(outcome).get("image") == chosen
    assert "volumes" not in keys_of(outcome)
    assert outcome.chosen and any(image in note or "0.9.2" in note for note in outcome.chosen.notes)


@pytest.mark.parametrize(
    ("cards", "model", "wish", "variant", "gpus", "context"),
    [
        (A100, "Qwen/Qwen3-32B", Wish(), "bf16", 1, 32768),
        (RTX_5090, "Qwen/Qwen3-32B", Wish(), "awq", 1, 32768),  # fp8 takes 37 GiB
        (TWO_L4, "Qwen/Qwen3-32B", Wish(), "awq", 1, 32768),
        (TWO_L4, "Qwen/Qwen3-32B", Wish(variant="fp8"), "fp8", 2, 32768),
        (TWO_L4, "Qwen/Qwen3-32B-FP8", Wish(variant="fp8", context=8192), "fp8", 2, 8192),
        (A100, "Qwen/Qwen3.6-27B", Wish(variant="nvfp4"), "nvfp4", 1, 32768),  # computed in 16 bits there
        (A100, "Qwen/Qwen3-32B", Wish(aliases=("a100",)), "bf16", 1, 32768),
        ({**A100, **RTX_5090}, "Qwen/Qwen3-4B", Wish(), "bf16", 1, 32768),
    ],
)
def test_the_first_variant_that_fits_on_few_cards_is_proposed(
    cards: dict[str, tuple[int, str]], model: str, wish: Wish, variant: str, gpus: int, context: int
) -> None:
    outcome = propose(model, make_fleet(cards), wish)[2]
    assert outcome.chosen, outcome.misfits
    candidate = outcome.chosen.candidate
    assert (candidate.variant.name, candidate.cards, candidate.context) == (variant, gpus, context)


def test_a_small_model_goes_to_the_small_card() -> None:
    assert keys_of(propose("Qwen/Qwen3-4B", make_fleet({**A100, **RTX_5090}))[2])["gpus"] == ["rtx-5090"]


def test_what_does_not_fit_is_told_with_what_does() -> None:
    fleet = make_fleet(RTX_5090)
    request, recipe, outcome = propose("Qwen/Qwen3-32B", fleet, Wish(variant="bf16"))
    assert outcome.chosen is None
    wider = find_wider(LOADER, fleet, recipe, request, {}, 30001)
    lines = describe_outcome(request, outcome, wider, {}, fleet, None)
    assert lines[0] == "serve qwen3-32b: Qwen/Qwen3-32B does not fit as it was asked for"
    assert any(line.startswith("  bf16 by vllm, 1 card, 32,768 tokens: needs 73,500 MiB on each; box: ") for line in lines)
    also = "  awq by vllm, 1 card, 32,768 tokens, on rtx-5090: 19,100 MiB: "
    assert f"{also}-e engine=vllm -e variant=awq -e gpus=rtx-5090 -e context=32768" in lines


def test_known_weights_give_the_claim_and_a_shorter_context_is_an_alternative() -> None:
    recipe = find_recipe("Qwen/Qwen3-8B")
    fleet = make_fleet({"small": (21000, "8.9")})
    weights = {"bf16": Weights(DENSE, "c" * 40)}
    outcome = propose("Qwen/Qwen3-8B", fleet, Wish(context=40960), weights, recipe)[2]
    assert outcome.chosen is None and "needs" not in outcome.misfits[0][1]
    assert [one.candidate.context for one in outcome.others] == [8192, 4096]
    outcome = propose("Qwen/Qwen3-8B", fleet, Wish(), weights, recipe)[2]
    assert keys_of(outcome)["args"][-4:] == ["--max-model-len", "8192", "--revision", "c" * 40]
    claim = keys_of(outcome)["vram_mib"]
    assert any(line.endswith(f"+ 10% margin = {claim:,} MiB") for line in outcome.chosen.candidate.arithmetic)
    assert claim > 16 * GB / 2**20 + 36 * 2 * 8 * 128 * 2 * 8192 / 2**20


@pytest.mark.parametrize(
    ("facts", "engine", "expected"),
    [
        (GGUF, "llama_cpp", {"model": "/models/x.gguf", "launch": {"context": 32768, "gpu_layers": 999}, "args": ["--jinja"]}),
        (replace(DENSE, path="/srv/models/Dense"), "vllm", {"model": "/models/Dense", "args": ["--max-model-len", "32768"]}),
        (replace(GGUF, kind="embeddings", name="odd"), "llama_cpp", {"kind": "embeddings", "args": ["--embeddings"]}),
    ],
)
def test_local_weights_need_no_hub_and_are_mounted(facts: ModelFacts, engine: str, expected: dict[str, Any]) -> None:
    names = [facts.name] if facts.name == "Qwen3 8B" else []
    known = load_named_recipe("qwen3-32b") if names else None
    recipe = use_local_weights(known, facts.path, facts)
    (variant,) = recipe.variants
    outcome = propose(facts.path, make_fleet(A100), Wish(), {variant: Weights(facts)}, recipe)[2]
    keys = keys_of(outcome)
    assert keys["engine"] == engine
    assert {key: keys.get(key) for key in expected} == expected
    assert keys["volumes"] == (["/srv/models:/models:ro"] if facts.format == "gguf" else ["/srv/models/Dense:/models/Dense:ro"])


def test_a_host_without_cards_serves_gguf_on_its_cpu_and_nothing_else() -> None:
    recipe = use_local_weights(None, GGUF.path, GGUF)
    outcome = propose(GGUF.path, make_fleet({}), Wish(), {"q4_k_m": Weights(GGUF)}, recipe)[2]
    assert "gpus" not in keys_of(outcome) and keys_of(outcome)["launch"] == {"context": 32768}
    assert propose("Qwen/Qwen3-8B", make_fleet({}))[2].chosen is None


def test_sglang_gets_its_share_of_the_card_from_the_claim() -> None:
    outcome = propose("Qwen/Qwen3-8B", make_fleet(A100), Wish(engine="sglang"), {"bf16": Weights(DENSE)})[2]
    keys = keys_of(outcome)
    args = keys["args"]
    share = float(args[args.index("--mem-fraction-static") + 1])
    assert outcome.chosen
    assert (keys["vram_mib"] - outcome.chosen.candidate.beside_mib - 100) / 81920 < share < keys["vram_mib"] / 81920


@pytest.mark.parametrize(
    ("precision", "engine", "capability", "runs"),
    [
        ("fp8", "vllm", "7.5", True), ("fp8", "sglang", "7.5", False), ("nvfp4", "sglang", "9.0", False),
        ("nvfp4", "vllm", "7.5", False), ("nvfp4", "vllm", "12.0", True), ("bf16", "vllm", "7.5", True),
        ("fp8", "vllm", "", True), ("fp8", "vllm", "99.0", True), ("int4", "sglang", "7.5", True),
    ],
)  # fmt: skip
def test_a_precision_that_no_card_can_compute_is_not_proposed(precision: str, engine: str, capability: str, runs: bool) -> None:
    assert can_run(precision, engine, capability) is runs


def test_described_facts_are_read_back_as_they_were() -> None:
    facts = replace(DENSE, parts=WeightParts(linear=5, attention=7), projector_widths=(1, 2), notes=("a",))
    assert read_described_facts(describe_model(facts, Load(None, 1, "auto", 1))) == facts
    assert read_described_facts({**asdict(facts), "more": 1}) == facts


@pytest.mark.parametrize(
    ("model", "name", "what"),
    [
        ("", None, "neither a repository nor a path"),
        ("gpt-oss-20b", None, "neither a repository nor a path"),
        ("models/../x/y", None, "neither a repository nor a path"),
        ("/srv/{{ x }}.gguf", None, "neither a repository nor a path"),
        ("org/model", "Fast One", "not a name of a serve"),
    ],
)
def test_what_is_no_model_is_refused_with_an_example(model: str, name: str | None, what: str) -> None:
    with pytest.raises(AnvilError, match=what):
        check_request({"model": model, "name": name})


def test_cards_are_a_number_or_names() -> None:
    options = {"engine": None, "variant": None, "context": None, "speculative": False}
    assert read_wish({**options, "gpus": "2"}) == Wish(gpus=2)
    assert read_wish({**options, "gpus": "a, b"}) == Wish(aliases=("a", "b"))
    assert read_wish({**options, "gpus": None}) == Wish()


def test_a_file_that_exists_is_never_changed(tmp_path: Path) -> None:
    place = tmp_path / "host_vars/box/added-x.yml"
    assert write_proposal({str(place): "a: 1\n"}, True)["changed"] and not place.exists()
    assert write_proposal({str(place): "a: 1\n"}, False)["changed"] and place.read_text() == "a: 1\n"
    assert not write_proposal({str(place): "a: 1\n"}, False)["changed"]
    with pytest.raises(AnvilError, match="the file exists with other content"):
        write_proposal({str(place): "a: 2\n"}, False)
    assert place.read_text() == "a: 1\n"
    (tmp_path / "host_vars/other.yml").write_text("x: 1\n")
    with pytest.raises(AnvilError, match="Ansible would no longer read this file"):
        write_proposal({str(tmp_path / "host_vars/other/added-x.yml"): "a: 1\n"}, False)


@pytest.mark.parametrize(
    ("model", "names", "recipe"),
    [
        ("openai/gpt-oss-20b", [], "gpt-oss-20b.yml"),
        ("Qwen/Qwen3-32B-AWQ", [], "qwen3-32b.yml"),
        ("ggml-org/gpt-oss-120b-GGUF", [], "gpt-oss-120b.yml"),
        ("/srv/models/Qwen3-8B", [], "qwen3-8b.yml"),
        ("/srv/models/x.gguf", ["Qwen3 8B"], None),  # the words of a name do not name a repository
        ("/srv/models/x.gguf", ["Qwen3-8B"], "qwen3-8b.yml"),
        ("somebody/gpt-oss-20b", [], None),
    ],
)
def test_a_recipe_is_found_by_the_name_of_the_model(model: str, names: list[str], recipe: str | None) -> None:
    found = find_recipe(model, "", names)
    assert (Path(found.origin).name if found else None) == recipe


def test_the_recipes_of_a_folder_come_first(tmp_path: Path) -> None:
    mine = (FOLDER / "qwen3-8b.yml").read_text().replace("context: 40960", "context: 1234")
    (tmp_path / "mine.yml").write_text(mine)
    assert find_recipe("Qwen/Qwen3-8B", str(tmp_path)).context == 1234
    (tmp_path / "mine.yml").write_text("model: Qwen/Qwen3-8B\nmodle: 1\n")
    assert find_recipe("Qwen/Qwen3-8B", str(tmp_path)).context == 40960
    with pytest.raises(AnvilError, match="did you mean qwen3-8b"):
        load_named_recipe("qwen3-8")
    with pytest.raises(AnvilError, match="there is no folder of this name"):
        find_recipe("Qwen/Qwen3-8B", str(tmp_path / "absent"))


def test_a_serve_that_the_profile_of_the_host_leaves_out_is_told() -> None:
    serve = {"engine": "vllm", "image": "a/b:1", "model": "x/y", "port": 30009}
    fleet = make_fleet(A100, anvil_serves={"other": serve}, anvil_profiles={"day": ["other"]}, anvil_profile="day")
    chosen = propose("Qwen/Qwen3-4B", fleet)[2].chosen
    assert chosen and "site.yml does not start it" in chosen.notes[-1]


def test_a_model_that_the_policy_does_not_allow_is_not_proposed() -> None:
    fleet = make_fleet(A100, anvil_models_allowed=[{"repo": "x/y", "revision": "a" * 40}])
    outcome = propose("Qwen/Qwen3-8B", fleet, Wish(), {"bf16": Weights(DENSE, "c" * 40)})[2]
    assert outcome.chosen is None and outcome.misfits


def test_without_any_figure_nothing_is_proposed_and_the_reason_is_told() -> None:
    weights = {"default": Weights(why="the hub cannot be reached")}
    fleet = make_fleet(A100)
    request, recipe, outcome = propose("BAAI/bge-m3", fleet, Wish(), weights)
    wider = find_wider(LOADER, fleet, recipe, request, weights, 30001)
    lines = describe_outcome(request, outcome, wider, weights, fleet, None)
    assert "  default: the hub cannot be reached" in lines and "is not known" in lines[1]


def test_speculative_decoding_is_an_option_of_the_recipe() -> None:
    wish = Wish(speculative=True)
    assert "--speculative-config" in keys_of(propose("Qwen/Qwen3.6-27B", make_fleet(A100), wish)[2])["args"]
    chosen = propose("Qwen/Qwen3-8B", make_fleet(A100), wish)[2].chosen
    assert chosen and "speculative decoding is not turned on" in chosen.notes[-1]


def test_a_rerank_model_answers_rerank_with_its_settings() -> None:
    facts = replace(DENSE, weights_bytes=GB, kind="rerank")
    keys = keys_of(propose("Qwen/Qwen3-Reranker-0.6B", make_fleet(A100), Wish(), {"default": Weights(facts)})[2])
    assert keys["kind"] == "rerank" and keys["args"][:3] == ["--runner", "pooling", "--hf-overrides"]
    assert keys["args"][-2:] == ["--max-model-len", "8192"]


def test_a_checkout_of_the_public_recipes_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "models/org").mkdir(parents=True)
    (tmp_path / "README.md").write_text("org/model")
    document = {"model": {"model_id": "org/model"}, "variants": {"default": {"precision": "fp8", "vram_minimum_gb": 10}}}
    (tmp_path / "models/org/model.yaml").write_text(yaml.safe_dump(document))
    recipe = find_recipe("org/model", str(tmp_path))
    assert recipe
    assert keys_of(propose("org/model", make_fleet(A100), recipe=recipe)[2])["vram_mib"] == 9600


@pytest.mark.parametrize(
    ("model", "more", "repositories"),
    [
        ("openai/gpt-oss-20b", {}, ["openai/gpt-oss-20b"]),
        ("Qwen/Qwen3-32B", {}, ["Qwen/Qwen3-32B", "Qwen/Qwen3-32B-FP8", "Qwen/Qwen3-32B-AWQ"]),
        ("Qwen/Qwen3-32B", {"variant": "fp8"}, ["Qwen/Qwen3-32B-FP8"]),
        ("Qwen/Qwen3-32B-AWQ", {}, ["Qwen/Qwen3-32B-AWQ"]),
        ("Qwen/Qwen3-32B", {"inspect": False}, []),
        ("org/unknown", {}, ["org/unknown"]),
        ("/srv/models/x.gguf", {}, []),
    ],
)
def test_only_headers_that_matter_are_read(model: str, more: dict[str, Any], repositories: list[str]) -> None:
    unset = dict.fromkeys(("recipe", "recipes", "gpus", "context", "engine", "variant"))
    assert list_repositories({**unset, "model": model, "speculative": False, "inspect": True, **more}) == repositories


def test_the_header_of_a_repository_is_used_and_a_missing_one_has_its_reason() -> None:
    described = describe_model(DENSE, Load(None, 1, "auto", 1))
    results = [{"item": "org/a", "models": [described], "commit": "c"}, {"item": "org/b", "msg": "the hub is down\nmore"}]
    options = {"inspect": True, "headers": results}
    assert read_header(options, "org/a") == Weights(DENSE, "c")
    assert read_header(options, "org/b") == read_header(options, "org/c") == Weights(why="the hub is down")
    assert read_header({**options, "inspect": False}, "org/a") == Weights(why="inspect=false")
