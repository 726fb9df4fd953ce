# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a serve answers, by the flags of its engine."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import read_settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.served_kinds import derive_kind


@pytest.mark.parametrize(
    ("engine", "args", "environment", "kind"),
    [
        ("llama_cpp", [], {}, "chat"),
        ("llama_cpp", ["--embeddings"], {}, "embeddings"),
        ("llama_cpp", ["--embedding"], {}, "embeddings"),
        ("llama_cpp", [], {"LLAMA_ARG_EMBEDDINGS": "1"}, "embeddings"),
        ("llama_cpp", [], {"LLAMA_ARG_EMBEDDINGS": "0"}, "chat"),
        ("llama_cpp", ["--reranking"], {}, "rerank"),
        ("llama_cpp", ["--rerank"], {}, "rerank"),
        ("llama_cpp", [], {"LLAMA_ARG_RERANKING": "true"}, "rerank"),
        ("llama_cpp", ["--embeddings", "--pooling", "rank"], {}, "rerank"),
        ("llama_cpp", ["--pooling", "mean"], {}, "chat"),
        ("vllm", [], {}, "chat"),
        ("vllm", ["--task", "embed"], {}, "embeddings"),
        ("vllm", ["--task=embedding"], {}, "embeddings"),
        ("vllm", ["--task", "generate"], {}, "chat"),
        ("vllm", ["--task", "score"], {}, "score"),
        ("vllm", ["--task", "transcription"], {}, "transcription"),
        ("vllm", ["--runner", "pooling"], {}, "embeddings"),
        ("vllm", ["--runner", "pooling", "--convert", "classify"], {}, "score"),
        ("vllm", ["--runner", "pooling", "--convert", "embed"], {}, "embeddings"),
        ("vllm", ["--runner", "generate"], {}, "chat"),
        ("vllm", ["--pooler-config", '{"pooling_type": "CLS"}'], {}, "embeddings"),
        ("vllm", ["--hf_overrides", '{"architectures": ["Qwen3ForSequenceClassification"]}'], {}, "rerank"),
        ("vllm", ["--hf-overrides", "{broken"], {}, "chat"),
        ("sglang", ["--is-embedding"], {}, "embeddings"),
        ("sglang", [], {}, "chat"),
        ("trtllm", ["--task", "embed"], {}, "chat"),
        ("", [], {}, "chat"),
    ],
)
def test_the_flags_tell_what_a_serve_answers(engine: str, args: list[str], environment: dict[str, str], kind: str) -> None:
    assert derive_kind(read_settings(engine, args, environment)) == kind
