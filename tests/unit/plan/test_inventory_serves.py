# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Serves: the defaults of engines and cards, pinning, claims of VRAM."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import render_serves
from planning import BASE, BIG, DROP, FAST, HEAVY, plan, problems


def test_wsl2_pins_by_uuid_and_leaves_the_v2_runner_off():
    serve = plan(("anvil_platform", "wsl2")).serves[0]
    assert serve.environment == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": BIG,
        "VLLM_USE_V2_MODEL_RUNNER": "0",
    }
    assert serve.gpu_uuids == (BIG,)


@pytest.mark.parametrize(
    ("platform", "pin", "visible"),
    [("linux", "device_ids", ()), ("linux", "uuid", (BIG,)), ("linux", "index", ("0",)), ("wsl2", "index", ("1",))],
)
def test_an_index_counts_the_cards_that_the_container_sees(platform, pin, visible):
    serve = plan(("anvil_platform", platform), (HEAVY + "gpu_pin", pin)).serves[0]
    assert serve.cuda_visible == visible
    assert serve.environment.get("CUDA_VISIBLE_DEVICES") == (",".join(visible) or None)


def test_a_serve_without_a_claim_takes_the_whole_budget_and_a_note_says_so():
    made = plan((HEAVY + "vram_mib", DROP))
    assert made.serves[0].vram_mib == 95839
    assert any("anvil_serves.heavy" in note and "95839" in note for note in made.notes)


def test_the_share_of_a_card_is_derived_from_its_total_memory_and_rounded_down():
    derived = plan((HEAVY + "gpu_memory_utilization", "derive"), (HEAVY + "vram_mib", 86141))
    assert derived.serves[0].args[-2:] == ("--gpu-memory-utilization", "0.88")
    assert 0.88 * 97887 <= 86141  # of the total 97887 MiB: by the budget of 95839 it would have been 0.898
    whole = plan((HEAVY + "gpu_memory_utilization", "derive"), (HEAVY + "vram_mib", DROP))
    assert whole.serves[0].args[-1] == "0.979"
    two = plan((HEAVY + "gpu_memory_utilization", "derive"), (HEAVY + "gpus", ["big", "small"]), (HEAVY + "vram_mib", 9999))
    assert two.serves[0].args[-1] == "0.102"  # one flag for two cards: the larger one decides, so neither is exceeded


def test_serves_on_demand_need_room_beside_the_resident_ones_only():
    night = {**BASE["anvil_serves"]["heavy"], "port": 30009, "vram_mib": 90000, "residency": "on_demand", "idle": "30m"}
    room = plan(("anvil_serves.night", night), (HEAVY + "residency", "evictable"))
    assert [serve.residency for serve in room.serves] == ["evictable", "resident", "on_demand"]
    assert [serve.idle for serve in room.serves] == [0, 0, 1800]
    (problem,) = [found for found in problems(("anvil_serves.night", night)) if "over its budget" in found.what]
    assert "serve heavy 60000 + serve night 90000 = 150000 MiB; the GPU has 97887 - 2048 reserve = 95839 MiB" in problem.what


def test_the_serve_stands_above_the_defaults_of_its_engine():
    defaults = {
        "image": "a/b:1",
        "environment": {"A": "1", "B": 2},
        "volumes": ["cache:/cache", "old:/old"],
        "args": ["--one"],
        "secrets": {"HF_TOKEN": "hf_token"},
    }
    serve = plan(
        ("anvil_engines", {"vllm": defaults}),
        (HEAVY + "environment", {"B": 3.5}),
        (HEAVY + "volumes", ["/new:/old:ro"]),
        (HEAVY + "args", ["--two", 2]),
        (HEAVY + "image", DROP),
        (HEAVY + "api_key", "router_token"),
    ).serves[0]
    assert serve.image == "a/b:1"
    assert (serve.environment["A"], serve.environment["B"]) == ("1", "3.5")
    assert [(mount.kind, mount.source, mount.read_only) for mount in serve.mounts] == [
        ("volume", "cache", False),
        ("bind", "/new", True),
    ]
    assert serve.args == ("--one", "--two", "2")
    assert serve.secrets == {"HF_TOKEN": "hf_token", "VLLM_API_KEY": "router_token"}


def test_engines_bring_their_own_defaults():
    made = plan((HEAVY + "engine", "sglang"))
    assert (made.serves[0].ipc, made.serves[0].shm_size, made.serves[0].entrypoint) == ("", "16g", ())
    assert (made.serves[1].read_only, made.serves[1].cap_drop, made.serves[1].entrypoint) == (True, ("ALL",), ())
    vllm = plan().serves[0]
    assert (vllm.ipc, vllm.shm_size, vllm.entrypoint, vllm.read_only) == ("", "16g", ("vllm",), False)
    assert plan((HEAVY + "ipc", "host")).serves[0].shm_size == ""


@pytest.mark.parametrize(
    ("edits", "dropped", "added"),
    [
        ([], ("ALL",), ("DAC_OVERRIDE",)),
        # The inventory's entrypoint may be a script that becomes another user.
        (
            [(HEAVY + "entrypoint", ["/run.sh"])],
            ("ALL",),
            ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"),
        ),
        ([(HEAVY + "engine", "llama_cpp"), (HEAVY + "model", "/m/a.gguf")], ("ALL",), ()),
        ([(HEAVY + "engine", "sglang")], ("ALL",), ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID")),
        ([(HEAVY + "security", {"cap_add": []})], ("ALL",), ()),
        ([(HEAVY + "security", {"cap_add": ["cap_sys_nice"]})], ("ALL",), ("SYS_NICE",)),
        ([(HEAVY + "security", {"cap_drop": []})], (), ()),
        ([(HEAVY + "security", {"cap_drop": ["NET_RAW"]})], ("NET_RAW",), ()),
        (
            [
                ("anvil_engines", {"vllm": {"image": "x:1", "security": {"cap_drop": []}}}),
                (HEAVY + "security", {"cap_drop": ["MKNOD"]}),
            ],
            ("MKNOD",),
            (),
        ),
    ],
)
def test_a_serve_keeps_only_the_capabilities_that_its_engine_may_need(edits, dropped, added):
    serve = plan(*edits).serves[0]
    assert (serve.cap_drop, serve.cap_add) == (dropped, added)


def test_a_serve_of_an_unknown_server_keeps_what_podman_gives():
    serve = plan((HEAVY + "engine", "custom"), (HEAVY + "kind", "chat")).serves[0]
    assert {"SETUID", "CHOWN", "NET_BIND_SERVICE"} < set(serve.cap_add) and not {"NET_RAW", "MKNOD"} & set(serve.cap_add)


def test_a_root_that_cannot_be_written_sends_what_is_compiled_to_memory_that_may_be_executed():
    serve = plan((HEAVY + "security", {"read_only": True, "tmpfs": ["/root/.cache"], "user": 1000})).serves[0]
    assert (serve.read_only, serve.tmpfs, serve.user) == (True, ("/tmp:exec", "/root/.cache:exec,mode=1777"), "1000")
    assert serve.environment["TRITON_CACHE_DIR"] == "/tmp/triton" and serve.environment["VLLM_CACHE_ROOT"] == "/tmp/vllm"
    mine = plan((HEAVY + "security", {"read_only": True}), (HEAVY + "environment", {"TRITON_CACHE_DIR": "/cache"})).serves[0]
    assert mine.environment["TRITON_CACHE_DIR"] == "/cache"
    assert "TRITON_CACHE_DIR" not in plan().serves[0].environment


@pytest.mark.parametrize(
    ("security", "names"),
    [
        ({}, set()),
        ({"user": "2000:0"}, {"USER", "LOGNAME"}),
        ({"user": 10001}, {"USER", "LOGNAME"}),
        ({"user": "vllm"}, set()),  # the image knows its home and its name
        ({"user": "0:0"}, set()),
        ({"user": "2000:0", "read_only": True}, {"USER", "LOGNAME", "HF_MODULES_CACHE", "NUMBA_CACHE_DIR"}),
        ({"read_only": True}, {"HF_MODULES_CACHE", "NUMBA_CACHE_DIR"}),
    ],
)
def test_a_uid_without_a_name_in_the_image_has_one_in_the_environment(security: dict[str, Any], names: set[str]) -> None:
    environment = plan((HEAVY + "security", security)).serves[0].environment
    assert set(environment) & {"USER", "LOGNAME", "HF_MODULES_CACHE", "NUMBA_CACHE_DIR"} == names
    free = plan((FAST + "security", {"read_only": False, "no_new_privileges": False})).serves[1]
    assert (free.read_only, free.tmpfs, free.security_opt) == (False, (), ())


@pytest.mark.parametrize(
    ("edits", "ipc", "shm"),
    [
        ([], "", "16g"),
        ([(HEAVY + "ipc", "private")], "private", "16g"),
        ([(HEAVY + "shm_size", "32g")], "", "32g"),
        ([(HEAVY + "ipc", "host")], "host", ""),
        # A part of the KV cache lies in /dev/shm, and nobody said how large it is.
        ([(HEAVY + "args", ["--kv-transfer-config", '{"kv_connector": "OffloadingConnector"}'])], "host", ""),
        ([(HEAVY + "args", ["--kv_offloading_size", "64"]), (HEAVY + "shm_size", "80g")], "", "80g"),
    ],
)
def test_shared_memory_is_the_serves_own_unless_its_size_is_unknown(edits, ipc, shm):
    serve = plan(*edits).serves[0]
    assert (serve.ipc, serve.shm_size) == (ipc, shm)


def test_a_bare_no_is_a_restart_policy_and_digits_in_quotes_are_a_number():
    serve = plan((HEAVY + "restart", False), (HEAVY + "port", "30002")).serves[0]
    assert (serve.restart, serve.port) == ("no", 30002)


LINUX = {
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "FLASHINFER_CUDA_ARCH_LIST": "12.0f",
    "GPU_SM_ARCH": "sm120",
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "TORCH_CUDA_ARCH_LIST": "12.0",
}


def _heavy(*changes):
    made = plan(("anvil_gpus.big.compute_capability", "12.0"), *changes)
    return made, made.serves[0].environment


def test_the_card_decides_where_the_inventory_is_silent():
    made, environment = _heavy()
    assert environment == LINUX
    assert any(
        "anvil_serves.heavy: set from the compute capability of its cards: TORCH_CUDA_ARCH_LIST=12.0" in note
        for note in made.notes
    )
    assert any("--kv-cache-dtype fp8" in note for note in made.notes)
    assert "TORCH_CUDA_ARCH_LIST" not in made.serves[1].environment  # llama.cpp is no PyTorch


def test_what_the_inventory_says_stands():
    _made, environment = _heavy((HEAVY + "environment", {"TORCH_CUDA_ARCH_LIST": "9.0", "PYTORCH_CUDA_ALLOC_CONF": "x:1"}))
    assert environment["TORCH_CUDA_ARCH_LIST"] == "9.0" and environment["PYTORCH_CUDA_ALLOC_CONF"] == "x:1"
    assert "PYTORCH_ALLOC_CONF" not in environment and environment["FLASHINFER_CUDA_ARCH_LIST"] == "12.0f"


def test_a_kv_type_that_is_said_is_no_note():
    made, _environment = _heavy((HEAVY + "args", ["--kv-cache-dtype=auto"]))
    assert not any("half the memory" in note for note in made.notes)


def test_wsl2_has_no_expandable_segments():
    _made, environment = _heavy(("anvil_platform", "wsl2"))
    assert "PYTORCH_ALLOC_CONF" not in environment and environment["TORCH_CUDA_ARCH_LIST"] == "12.0"


def test_all_cards_of_a_serve_are_looked_at_and_not_the_first():
    both = (HEAVY + "gpus", ["big", "small"]), (HEAVY + "vram_mib", 9000), ("anvil_serves.fast.vram_mib", 9000)
    _made, environment = _heavy(*both, ("anvil_gpus.small.compute_capability", "8.9"))
    assert (environment["TORCH_CUDA_ARCH_LIST"], environment["FLASHINFER_CUDA_ARCH_LIST"]) == ("8.9 12.0", "8.9 12.0f")
    made, environment = _heavy(*both)
    assert "TORCH_CUDA_ARCH_LIST" not in environment
    assert any("not every card has a compute_capability" in note for note in made.notes)


def test_without_a_capability_nothing_is_guessed():
    assert plan().serves[0].environment == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    made, environment = _heavy(("anvil_gpus.big.compute_capability", "13.9"))
    assert "FLASHINFER_CUDA_ARCH_LIST" not in environment
    assert any("compute capability 13.9 is unknown" in note for note in made.notes)


@pytest.mark.parametrize("value", [12.0, "sm_120", "12", ["12.0"]])
def test_a_capability_is_two_numbers_in_quotes(value):
    assert [problem.where for problem in problems(("anvil_gpus.big.compute_capability", value))] == [
        "anvil_gpus.big.compute_capability"
    ]


@pytest.mark.parametrize(
    ("engine", "model", "args", "added"),
    [
        ("vllm", "a/b", [], ("--tensor-parallel-size", "2")),
        ("vllm", "a/b", ["--enable-expert-parallel"], ("--tensor-parallel-size", "2")),
        ("vllm", "a/b", ["-pp", "2"], ()),
        ("vllm", "a/b", ["--data_parallel_size=2"], ()),
        ("vllm", "a/b", ["--config", "/cfg/vllm.yaml"], ()),
        ("sglang", "a/b", [], ("--tp-size", "2")),
        ("sglang", "a/b", ["--tp", "2"], ()),
        ("sglang", "a/b", ["--dp", "2"], ()),
        ("sglang", "a/b", ["--device", "cpu"], ()),
        ("trtllm", "a/b", [], ("--tp_size", "2")),
        ("trtllm", "/engines/sm120_trt-llm-1.1.0_cuda13.0", [], ()),
    ],
)
def test_a_serve_on_two_cards_uses_both(engine: str, model: str, args: list[str], added: tuple[str, ...]) -> None:
    mine = {
        "engine": engine,
        "model": model,
        "args": args,
        "gpus": ["big", "small"],
        "vram_mib": 9999,
        "port": 30009,
        "image": "a/b:1",
    }
    (serve,) = [serve for serve in plan(("anvil_serves.two", mine)).serves if serve.name == "two"]
    assert serve.args == (*args, *added)


@pytest.mark.parametrize(
    ("engine", "args", "expandable"),
    [
        ("vllm", [], True),
        ("vllm", ["--enable-sleep-mode"], False),
        ("vllm", ["--no-enable-sleep-mode"], True),
        ("sglang", ["--enable-memory-saver"], False),
    ],
)
def test_an_engine_that_releases_its_memory_gets_no_expandable_segments(engine: str, args: list[str], expandable: bool) -> None:
    mine = {"engine": engine, "model": "a/b", "args": args, "gpus": ["big"], "vram_mib": 999, "port": 30009, "image": "a/b:1"}
    made = plan(("anvil_serves.new", mine), ("anvil_gpus.big.compute_capability", "12.0"))
    (serve,) = [serve for serve in made.serves if serve.name == "new"]
    assert ("PYTORCH_CUDA_ALLOC_CONF" in serve.environment) is expandable


def test_a_variable_of_llama_server_counts_like_its_flag() -> None:
    variables = {"LLAMA_ARG_CTX_SIZE": "16384", "LLAMA_ARG_N_PARALLEL": "2", "LLAMA_ARG_PORT": "9999", "LLAMA_ARG_ALIAS": "other"}
    made = plan(("anvil_serves.fast.environment", variables), ("anvil_serves.fast.args", []))
    (tier,) = [tier for tier in made.router.tiers if tier.serve == "fast"]
    assert tier.context_limit == 8192
    told = [note for note in made.notes if "has no effect" in note]
    assert [("LLAMA_ARG_PORT" in note, "LLAMA_ARG_ALIAS" in note) for note in told] == [(True, False), (False, True)]


def test_an_endpoint_that_flags_move_is_followed() -> None:
    made = plan(
        (HEAVY + "args", ["--ssl-keyfile", "/tls/k.pem", "--ssl-certfile", "/tls/c.pem"]),
        ("anvil_serves.fast.environment", {"LLAMA_ARG_API_PREFIX": "/qwen"}),
    )
    assert [tier.base_url for tier in made.router.tiers] == [
        "https://anvil-heavy:30002/v1",
        "http://anvil-fast:30003/qwen/v1",
    ]
    assert [(serve.tls, serve.api_prefix) for serve in made.serves] == [(True, ""), (False, "/qwen")]
    (problem,) = problems((HEAVY + "args", ["--uds", "/tmp/vllm.sock"]))
    assert problem.where == HEAVY + "args" and "/tmp/vllm.sock only" in problem.what


def test_a_name_that_the_engine_refuses_is_refused_before() -> None:
    changes = [(HEAVY + "engine", "sglang"), (HEAVY + "args", []), (HEAVY + "served_name", "gpt-oss:120b")]
    (problem,) = problems(*changes)
    assert problem.where == HEAVY + "served_name" and "gpt-oss-120b" in problem.hint
    assert plan(*changes[1:]).serves[0].served_name == "gpt-oss:120b"


def test_vllm_serves_a_model_under_several_names() -> None:
    tiers = [{"id": "heavy"}, {"id": "other", "serve": "heavy", "model": "gpt"}]
    made = plan((HEAVY + "served_name", ["heavy-1", "gpt"]), ("anvil_router.tiers", tiers))
    assert (made.serves[0].served_name, made.serves[0].more_names) == ("heavy-1", ("gpt",))
    assert [tier.model for tier in made.router.tiers] == ["heavy-1", "gpt"]
    command = render_serves(made).services["heavy"].command or ()
    start = command.index("--served-model-name")
    assert command[start : start + 4] == ("--served-model-name", "heavy-1", "gpt", "--host")
    (problem,) = problems(("anvil_serves.fast.served_name", ["a", "b"]))
    assert problem.where == "anvil_serves.fast.served_name"
    (problem,) = problems((HEAVY + "served_name", ["x", "fast"]))
    assert "taken by serve heavy" in problem.what


def test_a_tier_may_name_a_lora_module_of_its_serve() -> None:
    tiers = [{"id": "heavy"}, {"id": "sql", "serve": "heavy", "model": "sql-lora"}]
    args = ["--enable-lora", "--lora-modules", "sql-lora=/loras/sql"]
    made = plan((HEAVY + "args", args), ("anvil_router.tiers", tiers))
    assert [(tier.id, tier.model) for tier in made.router.tiers] == [("heavy", "heavy"), ("sql", "sql-lora")]
    (problem,) = problems(("anvil_router.tiers", tiers))
    assert problem.where == "anvil_router.tiers[1].model"
