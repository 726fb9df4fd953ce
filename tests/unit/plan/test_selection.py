"""Which serves run: profiles, the deploy mode, what a scan found, servers of others; and llama.cpp's own settings."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_tiers import read_context_limit
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import render_host, render_models, render_serves
from planning import FACTS, plan, problems

FOUND = {
    "engine": "llama_cpp",
    "image": "anvil.local/llama-server:1",
    "model": "/models/small.gguf",
    "volumes": ["models:/models:ro"],
    "port": 8080,
    "tags": ["discovered", "quick"],
}
FAST, HEAVY = "anvil_serves.fast.", "anvil_serves.heavy."
SEVERAL = [
    (FAST + "model", None),
    (FAST + "args", []),
    (FAST + "models", {"small": {"model": "/models/s.gguf", "launch": {"context": 2048}}, "big": {"model": "/models/b.gguf"}}),
]


def residencies(made: HostPlan) -> dict[str, str]:
    return {serve.name: serve.residency for serve in made.serves}


def wheres(found: Any) -> list[str]:
    return [problem.where for problem in found]


# ------------------------------------------------------------------------------------------------------------ discovered


def test_what_a_scan_found_is_served_and_what_is_written_lies_on_top() -> None:
    made = plan(("anvil_discovered", {"small": FOUND, "fast": {"port": 8081, "tags": ["discovered"]}}))
    serves = {serve.name: serve for serve in made.serves}
    assert serves["small"].port == 8080 and serves["small"].tags == ("discovered", "quick")
    assert serves["fast"].port == 30003 and serves["fast"].tags == ("discovered",)
    assert made.router and [tier.id for tier in made.router.tiers] == ["small", "fast", "heavy"]


def test_a_mistake_in_what_a_scan_found_is_a_mistake() -> None:
    assert wheres(problems(("anvil_discovered", {"small": {**FOUND, "port": 30002}}))) == ["anvil_serves.heavy.port"]
    assert wheres(problems(("anvil_discovered", ["small"]))) == ["anvil_discovered"]


# -------------------------------------------------------------------------------------------------------------- profiles


def test_a_profile_names_which_serves_run() -> None:
    profiles = ("anvil_profiles", {"fast-only": ["quick", "fast"], "production": ["heavy", "fast"]})
    given = [("anvil_discovered", {"small": FOUND}), profiles]
    assert residencies(plan(*given)) == {"small": "resident", "heavy": "resident", "fast": "resident"}
    made = plan(*given, ("anvil_profile", "fast-only"))
    assert residencies(made) == {"small": "resident", "heavy": "off", "fast": "resident"}
    assert made.router is not None
    assert [tier.id for tier in made.router.tiers] == ["small", "fast"] and made.router.presets["chat"] == ("small", "fast")
    assert any("heavy: this serve does not run: profile fast-only" in note for note in made.notes)


def test_what_does_not_run_claims_no_memory() -> None:
    greedy = [("anvil_serves.night", {**FOUND, "port": 8090, "gpus": ["big"], "vram_mib": 90000})]
    assert "over its budget" in problems(*greedy)[0].what
    plan(*greedy, ("anvil_profiles", {"day": ["heavy", "fast"]}), ("anvil_profile", "day"))


def test_presets_and_profile_rows_of_tiers_that_do_not_run_are_left_out() -> None:
    made = plan(
        ("anvil_profiles", {"day": ["fast"]}),
        ("anvil_profile", "day"),
        ("anvil_router.presets", {"planning": ["heavy"], "chat": ["heavy", "fast"]}),
        ("anvil_router.profile", [{"tier": "heavy", "work_class": "chat", "decision": "allow", "quality_score": 1}]),
    )
    assert made.router and made.router.presets["planning"] == ("fast",) and made.router.presets["chat"] == ("fast",)
    assert made.router.profile == ()


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ([("anvil_profile", "nope")], "anvil_profile"),
        ([("anvil_profiles", {"a": ["heavi"]})], "anvil_profiles.a[0]"),
        ([("anvil_profiles", {"a": "heavy"})], "anvil_profiles.a"),
        ([("anvil_profiles", {"a": []}), ("anvil_profile", "a")], "anvil_router.tiers"),
    ],
)
def test_mistakes_in_profiles(changes: list[tuple[str, Any]], where: str) -> None:
    assert wheres(problems(*changes)) == [where]


# ----------------------------------------------------------------------------------------------------------- deploy mode


def parted(mode: Any, key: bool = True) -> tuple[list[tuple[str, Any]], dict[str, str]]:
    secrets = {"router_token": None, "hf_token": None, **({"text_api_key": None} if key else {})}
    changes = [
        ("anvil_secrets", secrets),
        (HEAVY + "part", "chat"),
        (FAST + "part", "tool"),
        ("anvil_deploy_mode", mode),
    ]
    return changes, {**FACTS, "text_api_key": "vault"}


@pytest.mark.parametrize(
    ("mode", "heavy", "fast"), [("chat", "resident", "off"), ("tool", "off", "resident"), ("both", "resident", "resident")]
)
def test_the_deploy_mode_says_which_parts_exist(mode: str, heavy: str, fast: str) -> None:
    changes, facts = parted(mode)
    made = plan(*changes, facts=facts)
    assert residencies(made) == {"heavy": heavy, "fast": fast}
    assert {serve.name: serve.api_key for serve in made.serves} == {"heavy": "text_api_key", "fast": "text_api_key"}
    assert made.serves[0].secrets["VLLM_API_KEY"] == "text_api_key"


def test_an_unknown_mode_is_an_error_and_so_is_one_without_its_model() -> None:
    changes, facts = parted("chatty")
    (problem,) = problems(*changes, facts=facts)
    assert problem.where == "anvil_deploy_mode" and "chat" in problem.hint
    (problem,) = problems(("anvil_deploy_mode", "tool"))
    assert "no tool model" in problem.what


def test_every_text_endpoint_needs_its_key() -> None:
    changes, facts = parted("both", key=False)
    found = problems(*changes, facts=facts)
    assert wheres(found) == ["anvil_serves.heavy.api_key", "anvil_serves.fast.api_key"]
    assert "TEXT_API_KEY" in found[0].hint


def test_without_a_mode_a_part_changes_nothing() -> None:
    made = plan((HEAVY + "part", "chat"))
    assert made.serves[0].api_key == "" and made.serves[0].residency == "resident"


# -------------------------------------------------------------------------------------------------------------- external


def test_a_server_on_the_host_is_a_tier_and_told_as_not_managed() -> None:
    made = plan(("anvil_external", {"mac": {"port": 8081, "served_name": "qwen"}}))
    assert made.router is not None
    (tier,) = [tier for tier in made.router.tiers if tier.id == "mac"]
    assert (tier.base_url, tier.model) == ("http://host.docker.internal:8081/v1", "qwen")
    assert any("anvil_external.mac: this server is not managed" in note for note in made.notes)
    rendered = render_host(made)
    compose = yaml.safe_load(rendered["router"]["compose"])
    assert compose["services"]["router"]["extra_hosts"] == ["host.docker.internal:host-gateway"]
    assert "mac" not in yaml.safe_load(rendered["serves"]["compose"])["services"]
    assert "extra_hosts" not in render_host(plan())["router"]["compose"]


def test_a_server_elsewhere_needs_no_way_to_the_host() -> None:
    made = plan(("anvil_external", {"mac": {"port": 8081, "host": "10.0.0.7"}}))
    assert made.router and made.router.extra_hosts == () and made.router.tiers[-1].base_url == "http://10.0.0.7:8081/v1"


def test_mistakes_in_external_servers() -> None:
    assert wheres(problems(("anvil_external", {"mac": {}}))) == ["anvil_external.mac.port"]
    assert wheres(problems(("anvil_external", {"heavy": {"port": 1}}))) == ["anvil_external.heavy"]


# ---------------------------------------------------------------------------------------------------------------- launch


def test_launch_becomes_arguments_of_llama_cpp() -> None:
    launch = {"context": 32768, "gpu_layers": 99, "threads": 8, "batch": 512, "ubatch": 256, "flash_attn": True, "mmap": False}
    made = plan((FAST + "args", ["-np", "2"]), (FAST + "launch", launch))
    serve = next(serve for serve in made.serves if serve.name == "fast")
    told = "--ctx-size 32768 --n-gpu-layers 99 --threads 8 --batch-size 512 --ubatch-size 256 --flash-attn on -np 2"
    assert " ".join(serve.args) == told and read_context_limit(serve) == 16384
    # Its flag changed between releases; a variable that a release does not know is overlooked.
    assert (serve.environment["LLAMA_ARG_LOAD_MODE"], serve.environment["LLAMA_ARG_NO_MMAP"]) == ("none", "1")


def test_launch_of_the_engine_is_laid_under_that_of_the_serve() -> None:
    below = {"llama_cpp": {"launch": {"threads": 4, "flash_attn": "auto"}}}
    made = plan(("anvil_engines", below), (FAST + "launch", {"threads": 2}))
    serve = next(serve for serve in made.serves if serve.name == "fast")
    assert serve.args[:4] == ("--threads", "2", "--flash-attn", "auto")


def test_further_keys_come_from_a_file_beside_the_first() -> None:
    words = ["--api-key-file", "/run/keys"]
    secrets = {"router_token": None, "hf_token": None, "k": None}
    changes = [(FAST + "args", words), (FAST + "api_key", "k"), ("anvil_secrets", secrets)]
    made = plan(*changes, facts={**FACTS, "k": "vault"})
    serve = next(serve for serve in made.serves if serve.name == "fast")
    assert serve.args == tuple(words) and serve.api_key == "k" and serve.secrets["LLAMA_API_KEY"] == "k"


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (FAST + "launch", {"context": 8192}, FAST + "launch.context"),  # -c is in args too
        (FAST + "launch", {"flash_attn": "maybe"}, FAST + "launch.flash_attn"),
        (FAST + "launch", {"ubatch": 512, "batch": 256}, FAST + "launch.ubatch"),
        (FAST + "launch", {"ctx": 1}, FAST + "launch.ctx"),
        (FAST + "launch", {"mmap": "no"}, FAST + "launch.mmap"),
        (HEAVY + "launch", {"context": 8192}, HEAVY + "launch"),
    ],
)
def test_mistakes_in_launch(path: str, value: Any, where: str) -> None:
    assert wheres(problems((path, value))) == [where]


# ------------------------------------------------------------------------------------------------------- several models


def test_one_server_of_several_models() -> None:
    made = plan(
        *SEVERAL,
        (FAST + "models_max", 1),
        (FAST + "idle_unload", 60),
        (FAST + "launch", {"threads": 2, "mmap": False}),
        ("anvil_router.tiers", [{"id": "heavy"}, {"id": "s", "serve": "fast"}, {"id": "b", "serve": "fast", "model": "big"}]),
    )
    serve = next(serve for serve in made.serves if serve.name == "fast")
    assert serve.args == ("--models-max", "1", "--sleep-idle-seconds", "60") and serve.served_name == "small"
    assert made.router and [tier.model for tier in made.router.tiers] == ["heavy", "small", "big"]
    text = render_models(serve)
    assert "[small]\nmodel = /models/s.gguf\nctx-size = 2048\nthreads = 2\n" in text
    assert "[big]\nmodel = /models/b.gguf\nthreads = 2\n" in text
    project = render_serves(made)
    assert project.files == {"models/fast.ini": text}
    service = project.services["fast"]
    assert service.command and service.command[:2] == ("--models-preset", "/etc/anvil-serve/models.ini")
    assert "/opt/anvil/anvil-serves/models/fast.ini" in [mount.source for mount in service.mounts]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ([(HEAVY + "models", {"a": {"model": "/a"}}), (HEAVY + "model", None)], [HEAVY + "models"]),
        ([*SEVERAL, (FAST + "model", "/models/x.gguf")], [FAST + "model"]),
        ([*SEVERAL, (FAST + "models", {"a": {}})], [FAST + "models.a.model"]),
        ([*SEVERAL, (FAST + "models", {})], [FAST + "models"]),
        ([*SEVERAL, (FAST + "models", {"a": {"model": "/models/a", "launch": {"mmap": True}}})], [FAST + "models.a.launch.mmap"]),
        ([*SEVERAL, (FAST + "served_name", "x")], [FAST + "served_name"]),
        ([(FAST + "models_max", 1)], [FAST + "models_max"]),
        (
            [*SEVERAL, ("anvil_router.tiers", [{"id": "b", "serve": "fast", "model": "bigg"}])],
            ["anvil_router.tiers[0].model"],
        ),
    ],
)
def test_mistakes_in_several_models(changes: list[tuple[str, Any]], wanted: list[str]) -> None:
    assert wheres(problems(*changes)) == wanted


# ------------------------------------------------------------------------------------------------------------- the rest


def test_how_long_a_serve_is_waited_for() -> None:
    heavy, fast = plan((FAST + "ready_timeout", 60), (FAST + "ready_interval", 2), (FAST + "warmup", True)).serves
    assert (heavy.ready_timeout, heavy.interval, heavy.warmup) == (300, 5, False)
    assert (fast.ready_timeout, fast.interval, fast.warmup) == (60, 2, True)
    heavy, _fast = plan(("anvil_warmup_max_wait", 1200), ("anvil_warmup_wait_interval", 10)).serves
    assert (heavy.ready_timeout, heavy.interval) == (1200, 10)


# -------------------------------------------------------------------------------------------------------------- TensorRT-LLM

TRT = [(HEAVY + "engine", "trtllm"), (HEAVY + "image", "nvcr.io/nvidia/tensorrt-llm/release:1.1.0")]


def test_a_serve_of_tensorrt_llm() -> None:
    engine = [(HEAVY + "model", "/engines/sm120_trt-llm-1.1.0_cuda13.0"), (HEAVY + "args", ["--max_seq_len", "8192"])]
    made = plan(*TRT, *engine)
    serve = made.serves[0]
    assert serve.served_name == "sm120_trt-llm-1.1.0_cuda13.0" and read_context_limit(serve) == 8192
    service = render_serves(made).services["heavy"]
    assert service.entrypoint == ("trtllm-serve",)
    told = "/engines/sm120_trt-llm-1.1.0_cuda13.0 --host 0.0.0.0 --port 30002 --max_seq_len 8192"
    assert " ".join(service.command or ()) == told and service.gpu_uuids
    # A release that is told a name must know the flag, so it is told one only where that was asked for.
    named = plan(*TRT, (HEAVY + "served_name", "chat"), (HEAVY + "args", [])).serves[0]
    assert named.served_name == "chat" and named.args == ("--served_model_name", "chat")
    assert plan(*TRT, (HEAVY + "args", [])).serves[0].served_name == "openai/gpt-oss-120b"


def test_tensorrt_llm_has_no_key_and_stays_on_loopback() -> None:
    assert wheres(problems(*TRT, (HEAVY + "args", []), (HEAVY + "api_key", "hf_token"))) == [HEAVY + "api_key"]
    found = problems(*TRT, (HEAVY + "args", []), (HEAVY + "publish", "0.0.0.0"))
    assert wheres(found) == [HEAVY + "publish"]
    changes, facts = parted("chat")
    made = plan(*changes, *TRT, (HEAVY + "args", []), facts=facts)
    assert any("heavy: trtllm takes no API key" in note for note in made.notes)
