"""Serves of SGLang and TensorRT-LLM: start, second run, an edited flag, a flag that the engine refuses.

The servers are stand-ins (tests/testbed/images/engine-standins), because the real ones need a GPU.
"""

from __future__ import annotations

from typing import Any

import pytest
from bed import REPO, Bed
from serving import FAST_GPU, HEAVY_GPU, UNCHANGED, Field, actions

IMAGE = "anvil.local/engine-standins:1"


@pytest.fixture(scope="module")
def image(bed: Bed) -> str:
    bed.docker("build", "--quiet", "--tag", IMAGE, str(REPO / "tests/testbed/images/engine-standins"))
    return IMAGE


@pytest.fixture
def pair(field: Field, image: str) -> Field:
    """Two serves as the plan renders them: heavy on SGLang, fast on TensorRT-LLM."""
    shared: dict[str, Any] = {"image": image, "environment": {}, "cap_drop": (), "read_only": False, "mounts": ()}
    field.edit(
        "heavy",
        **shared,
        engine="sglang",
        model="/models/qwen35-awq",
        served_name="qwen35-awq-local",
        shm_size="1g",
        args=("--kv-cache-dtype", "fp8_e5m2", "--context-length", "131072", "--mem-fraction-static", "0.88", "--enable-metrics"),
    )
    field.edit(
        "fast",
        **shared,
        engine="trtllm",
        entrypoint=("trtllm-serve",),
        model="/models/llama-8b",
        served_name="llama-8b",
        args=("--served_model_name", "llama-8b", "--max_seq_len", "8192"),
    )
    return field


def test_serves_of_sglang_and_tensorrt_llm_start_change_and_fail_like_those_of_other_engines(pair: Field) -> None:
    done = pair.foresee(engine_check="always")
    (warning,) = (text for text in map(str, done["warnings"]) if "command line" in text)
    assert "serve fast" in warning and "No module named" in warning  # only the stand-in of SGLang includes the engine's parser
    assert actions(done) == {"heavy": ("create", ["missing"]), "fast": ("create", ["missing"])}
    assert {name: serve["state"] for name, serve in done["serves"].items()} == {"heavy": "ready", "fast": "ready"}
    assert {call["NVIDIA_VISIBLE_DEVICES"] for call in pair.bed.hook_calls()[-2:]} == {HEAVY_GPU, FAST_GPU}
    before = pair.bed.started()
    assert actions(pair.run()) == {"heavy": UNCHANGED, "fast": UNCHANGED} and pair.bed.started() == before

    pair.edit("heavy", args=(*pair.serves["heavy"].args, "--max-running-requests", "16"))
    assert actions(pair.foresee()) == {"heavy": ("recreate", ["command"]), "fast": UNCHANGED}
    before = pair.bed.started()
    good = pair.serves["heavy"].args
    pair.edit("heavy", args=(*good, "--kv-cache-dtype", "fp7"))
    refused = pair.foresee(engine_check="always")
    assert "the engine refuses the command line: --kv-cache-dtype" in refused["msg"] and pair.bed.started() == before
    pair.edit("heavy", args=(*good, "--served-model-name", "a:b"))
    refused = pair.foresee(engine_check="always")
    assert "the engine refuses the command line: --served-model-name" in refused["msg"], refused["msg"]
    pair.edit("heavy", args=good)

    pair.edit("fast", args=(*pair.serves["fast"].args, "--max_seq_length", "1"))
    failed = pair.run()
    assert failed["failed"] and "--max_seq_length" in failed["msg"], failed["msg"]
    assert "heavy" not in {serve for serve, row in failed["serves"].items() if not row["ready"]}
