# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What engines report about their KV cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import read_settings
from ansible_collections.anvil.serving.plugins.module_utils.serves import engine_report, project_files

CACHE = 'vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",num_gpu_blocks="25750",num_cpu_blocks="None"} 1.0\n'
MODELS = json.dumps({"data": [{"id": "heavy", "max_model_len": 131072}]})


def props(context: Any, slots: Any) -> str:
    return json.dumps({"default_generation_settings": {"n_ctx": context}, "total_slots": slots})


@pytest.mark.parametrize(
    ("metrics", "models", "tokens"),
    [
        (CACHE, MODELS, (412000, 131072)),
        (CACHE + CACHE.replace('engine="0"', 'engine="1"'), MODELS, (824000, 131072)),
        (CACHE.replace("25750", "None"), MODELS, (None, 131072)),
        ("", "<html>", (None, None)),
        (CACHE, '{"data": [{"id": "other", "max_model_len": 5}]}', (412000, None)),
    ],
)
def test_vllm_reports_blocks_and_their_size(metrics: str, models: str, tokens: tuple[int | None, int | None]) -> None:
    assert engine_report.read_vllm(metrics, models, "heavy") == tokens


@pytest.mark.parametrize(
    ("args", "text", "tokens"),
    [
        (["-c", "8192", "-np", "4"], props(2048, 4), (8192, 2048)),
        (["-c", "8192", "-np", "4", "--kv-unified"], props(8192, 4), (8192, 8192)),
        ([], props(4096, 1), (4096, 4096)),
        ([], props(None, 1), (None, None)),
        ([], "[]", (None, None)),
    ],
)
def test_llama_server_reports_the_context_of_a_slot(args: list[str], text: str, tokens: tuple[int | None, int | None]) -> None:
    assert engine_report.read_llama(text, read_settings("llama_cpp", args)) == tokens


def test_sglang_reports_its_cache_and_context_tokens() -> None:
    assert engine_report.read_sglang('{"max_total_num_tokens": 90000, "context_length": 32768}') == (90000, 32768)
    assert engine_report.read_sglang('{"max_total_num_tokens": true}') == (None, None)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"kv_tokens": 412000, "context": 131072}, "KV cache: 412,000 tokens, 3.1 \u00d7 the context"),
        ({"kv_tokens": 412000, "context": None}, "KV cache: 412,000 tokens"),
        ({"kv_tokens": None, "context": 4096}, ""),
        ({"kv_tokens": "x" * 99}, ""),
    ],
)
def test_the_status_says_how_many_contexts_fit(row: dict[str, Any], text: str) -> None:
    assert engine_report.describe_tokens(row) == text


def test_the_reports_file_keeps_entries_of_existing_serves_and_tolerates_invalid_content(tmp_path: Path) -> None:
    path = tmp_path / project_files.REPORTS_FILE
    path.write_text("[1, 2")
    assert engine_report.read_reports(str(tmp_path)) == {}
    engine_report.keep_reports(str(tmp_path), {"a": {"kv_tokens": 1}, "b": {"kv_tokens": 2}}, {"a": 1, "b": 1})
    engine_report.keep_reports(str(tmp_path), {"a": {"kv_tokens": 3}}, {"a": 1})
    assert engine_report.read_reports(str(tmp_path)) == {"a": {"kv_tokens": 3}}
    before = path.stat().st_mtime_ns
    engine_report.keep_reports(str(tmp_path), {}, {"a": 1})
    assert path.stat().st_mtime_ns == before
