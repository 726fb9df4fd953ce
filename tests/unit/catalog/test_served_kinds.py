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


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("BAAI/bge-m3", "embeddings"),
        ("BAAI/bge-large-en-v1.5", "embeddings"),
        ("BAAI/bge-reranker-v2-m3", "rerank"),
        ("BAAI/bge-reranker-v2-gemma", "chat"),  # the class of a language model
        ("Qwen/Qwen3-Embedding-0.6B", "embeddings"),
        ("Qwen/Qwen3-Reranker-0.6B", "chat"),  # needs --hf-overrides
        ("Qwen/Qwen3-8B", "chat"),
        ("intfloat/e5-mistral-7b-instruct", "embeddings"),
        ("intfloat/multilingual-e5-large-instruct", "embeddings"),
        ("sentence-transformers/all-MiniLM-L6-v2", "embeddings"),
        ("google/embeddinggemma-300m", "embeddings"),
        ("google/gemma-3-4b-it", "chat"),
        ("nomic-ai/nomic-embed-text-v1.5", "embeddings"),
        ("jinaai/jina-embeddings-v3", "embeddings"),
        ("jinaai/jina-reranker-v2-base-multilingual", "rerank"),
        ("Alibaba-NLP/gte-Qwen2-7B-instruct", "embeddings"),
        ("Alibaba-NLP/gte-multilingual-reranker-base", "rerank"),
        ("ibm-granite/granite-embedding-english-r2", "embeddings"),
        ("ibm-granite/granite-embedding-reranker-english-r2", "rerank"),
        ("ibm-granite/granite-4.0-h-small", "chat"),
        ("cross-encoder/ms-marco-MiniLM-L6-v2", "rerank"),
        ("cross-encoder/nli-deberta-v3-base", "chat"),  # three labels: it is told when the weights are read
        ("mixedbread-ai/mxbai-rerank-base-v2", "chat"),
        ("openai/whisper-large-v3-turbo", "transcription"),
        ("openai/gpt-oss-20b", "chat"),
        ("/root/.cache/huggingface/hub/models--BAAI--bge-m3/snapshots/0123", "embeddings"),
        ("/models/bge-m3", "chat"),  # a folder of that name may hold anything
        ("someone/bge-m3", "chat"),
    ],
)
def test_the_name_of_a_repository_tells_its_kind_to_vllm_alone(model: str, kind: str) -> None:
    assert derive_kind(read_settings("vllm", [], {}), model) == kind
    assert derive_kind(read_settings("vllm", ["--runner", "generate"], {}), model) == "chat"
    assert derive_kind(read_settings("vllm", ["--task", "generate"], {}), model) == "chat"
    assert derive_kind(read_settings("vllm", ["--task", "score"], {}), model) == "score"
    assert derive_kind(read_settings("sglang", [], {}), model) == "chat"
