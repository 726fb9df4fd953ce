# SPDX-License-Identifier: GPL-3.0-or-later
"""Repositories of weights whose name alone says that vLLM serves them for another kind than chat, without a flag. Pure.

The plan knows no weights, only their name. A repository is listed if all weights that its publisher has under such names have a
class without a head for text, or the files of sentence-transformers: vLLM then serves them as a pooling model
(``_SUFFIX_TO_DEFAULTS`` and ``get_pooling_config``), and Whisper's class for transcription only. Left out are those that vLLM
serves for chat unless flags say otherwise: rerankers with the class of a language model (Qwen3-Reranker, bge-reranker-v2-gemma).
"""

from __future__ import annotations

import re

# Kind -> names of repositories, in lower case.
_NAMES = {
    "embeddings": (
        r"sentence-transformers/.+",
        r"baai/(?:bge-(?:small|base|large)-.+|bge-m3|bge-multilingual-gemma2|bge-en-icl|bge-code-.+|llm-embedder)",
        r"intfloat/(?:e5|multilingual-e5)-.+",
        r"qwen/qwen3-embedding-.+",
        r"google/embeddinggemma-.+",
        r"nomic-ai/nomic-embed-(?:text|code).*",
        r"jinaai/jina-embeddings-v[23].*",
        r"mixedbread-ai/mxbai-embed-.+",
        r"snowflake/snowflake-arctic-embed-.+",
        r"thenlper/gte-.+",
        r"alibaba-nlp/gte-(?:base|large|multilingual-base|qwen\d.*|modernbert-base).*",
        r"ibm-granite/granite-embedding-(?!reranker).+",
        r"salesforce/sfr-embedding-.+",
        r"linq-ai-research/linq-embed-mistral",
        r"(?:dunzhang|novasearch)/stella_.+",
        r"nvidia/(?:nv-embed-v\d|llama-.*nemotron-embed-.+|llama-.*nemoretriever.*-embed-.+)",
    ),
    "rerank": (
        r"baai/bge-reranker-(?:base|large|v2-m3)",
        r"cross-encoder/(?:ms-marco|stsb)-.+",
        r"jinaai/jina-reranker-v[12]-.+",
        r"mixedbread-ai/mxbai-rerank-.+-v1",
        r"alibaba-nlp/gte-(?:multilingual-reranker-base|reranker-modernbert-base)",
        r"ibm-granite/granite-embedding-reranker-.+",
    ),
    "transcription": (r"openai/whisper-.+", r"distil-whisper/.+"),
}
_KINDS = tuple((kind, re.compile("|".join(names))) for kind, names in _NAMES.items())
# The folder of a repository in a hub's cache, as a part of a path.
_CACHED = re.compile(r"(?:.*/)?models--([^/]+?)--([^/]+)(?:/.*)?")


def find_published_kind(model: str) -> str:
    """The kind of a model, by its repository or its path in a hub's cache; empty where the name does not say it."""
    cached = _CACHED.fullmatch(model)
    repository = "/".join(cached.groups()) if cached else model
    return next((kind for kind, names in _KINDS if names.fullmatch(repository.lower())), "")
