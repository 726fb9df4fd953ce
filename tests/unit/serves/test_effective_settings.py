"""Comparison of requested settings with those a server reports. The llama-server answers are recorded from a real server."""

from __future__ import annotations

import json

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import read_settings
from ansible_collections.anvil.serving.plugins.module_utils.serves.effective_settings import compare_llama, compare_vllm


@pytest.mark.parametrize(
    ("command", "context", "slots", "ignored"),
    [
        ("-c 1024 -np 1", 1024, 1, []),
        ("-c 1024 -np 2", 512, 2, []),
        ("-c 1000 -np 3", 512, 3, []),
        ("-c 4096 -np 2 -kvu", 4096, 2, []),
        ("--ctx-size=4096", 4096, 4, []),
        ("-c 100000 -np 1", 8192, 1, ["-c"]),
        ("-c 256 -np 1", 8192, 1, ["-c"]),
        ("-c 1024 -np 4", 1024, 1, ["-np"]),
        ("-c 0", 8192, 4, []),
        ("-t 1", 8192, 4, []),
    ],
)
def test_a_setting_that_llama_server_ignored_is_found(command: str, context: int, slots: int, ignored: list[str]) -> None:
    props = json.dumps({"default_generation_settings": {"n_ctx": context}, "total_slots": slots})
    assert [difference.flag for difference in compare_llama(read_settings("llama_cpp", command.split()), props)] == ignored


@pytest.mark.parametrize(
    ("command", "told", "ignored"),
    [
        ("--max-model-len 32768", 32768, False),
        ("--max-model-len 32k", 32000, False),
        ("--max_model_len=32K", 32768, False),
        ("--max-model-len 25.6k", 25600, False),
        ("--max-model-len 25.6k", 25000, True),
        ("--max-model-len 32768", 8192, True),
        ("--max-model-len 32768", None, False),
        ("", 8192, False),
    ],
)
def test_a_context_length_that_vllm_ignored_is_found(command: str, told: int | None, ignored: bool) -> None:
    models = json.dumps({"data": [{"id": "other", "max_model_len": 1}, {"id": "m", "max_model_len": told}]})
    assert bool(compare_vllm(read_settings("vllm", command.split()), "m", models)) is ignored


@pytest.mark.parametrize("text", ["", "<html>", "[]", '{"data": 1}', '{"data": [1]}', '{"default_generation_settings": []}'])
def test_an_answer_without_settings_is_no_difference(text: str) -> None:
    command = ["-c", "5", "--max-model-len", "5"]
    assert compare_llama(read_settings("llama_cpp", command), text) == []
    assert compare_vllm(read_settings("vllm", command), "m", text) == []
