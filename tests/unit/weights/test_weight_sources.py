"""The origin of a serve's weights, and the configuration file of its engine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import read_settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin
from ansible_collections.anvil.serving.plugins.module_utils.weights.weights_on_host import describe_elsewhere, read_config_file


@pytest.mark.parametrize(
    ("engine", "model", "environment", "origin", "note"),
    [
        ("vllm", "org/name", {}, Origin("org/name", "abc"), ""),
        ("vllm", "/models/m", {}, None, ""),
        ("llama_cpp", "", {}, Origin("", ""), ""),
        ("vllm", "LLM-Research/Meta-Llama-3.1-8B-Instruct", {"VLLM_USE_MODELSCOPE": "True"}, None, "weights from ModelScope"),
        ("sglang", "org/name", {"SGLANG_USE_MODELSCOPE": "1"}, None, "weights from ModelScope"),
        ("vllm", "org/name", {"VLLM_USE_MODELSCOPE": "False"}, Origin("org/name", "abc"), ""),
        ("vllm", "s3://models/llama-3.1-8b/", {}, None, "weights from s3 storage"),
        ("vllm", "gs://bucket/llama", {}, None, "weights from gs storage"),
        ("vllm", "unsloth/Qwen3-8B-GGUF:Q4_K_M", {}, None, "weights from one file of a repository"),
    ],
)
def test_only_whole_repositories_of_the_hub_have_an_origin(
    engine: str, model: str, environment: dict[str, str], origin: Origin | None, note: str
) -> None:
    weights = describe_elsewhere(model, read_settings(engine, ["--revision", "abc"], environment))
    assert weights.origin == origin and weights.facts is None
    assert note in "".join(weights.notes) and bool(weights.notes) is bool(note)


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (b"max-model-len: 8192\ntensor-parallel-size: 2\n", {"max-model-len": 8192, "tensor-parallel-size": 2}),
        (b"- a\n- b\n", None),
        (b"a: &a [x, x]\nb: [*a, *a]\n", None),
        (b"a: [", None),
        (b"a: 1\n" + b"#" * 70000, None),
        (None, None),
    ],
)
def test_a_configuration_file_is_read_through_the_mounts_of_its_serve(tmp_path: Path, content: bytes | None, read: Any) -> None:
    if content is None:
        os.mkfifo(tmp_path / "vllm.yaml")
    else:
        (tmp_path / "vllm.yaml").write_bytes(content)
    serve = {"mounts": [{"kind": "bind", "source": str(tmp_path), "target": "/cfg"}]}
    docker: Any = None  # a folder of the host needs no Docker Engine
    assert read_config_file(docker, serve, read_settings("vllm", ["--config", "/cfg/vllm.yaml"])) == read
    assert read_config_file(docker, serve, read_settings("vllm", ["--config", "/other/vllm.yaml"])) is None
    assert read_config_file(docker, serve, read_settings("vllm", [])) is None
