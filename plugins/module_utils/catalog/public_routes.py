# SPDX-License-Identifier: GPL-3.0-or-later
"""The requests that an edge passes on to a router or a serve, by engine and kind: methods and paths, and no others. Pure.

What is not listed stays inside the host: administration, metrics, documentation, tokenizers, LoRA loading, state of slots.
Sources: the routes of vLLM 0.32.0 (its OpenAPI document), llama-server b6xxx, SGLang, TensorRT-LLM, anvil-serving 0.13.2, 2.0.2.
"""

from __future__ import annotations

from typing import Dict, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.served_kinds import (
    CHAT,
    EMBEDDINGS,
    RERANK,
    SCORE,
    SPEECH,
    TRANSCRIPTION,
)

# (method, path)
Route = Tuple[str, str]

MODELS: Tuple[Route, ...] = (("GET", "/v1/models"), ("HEAD", "/v1/models"))


def _post(*paths: str) -> Tuple[Route, ...]:
    return tuple(("POST", path) for path in paths)


_CHAT = _post("/v1/chat/completions", "/v1/completions")
_MESSAGES = _post("/v1/messages", "/v1/messages/count_tokens")
_RESPONSES = _post("/v1/responses")
_BY_KIND: Dict[str, Tuple[Route, ...]] = {
    CHAT: _CHAT,
    EMBEDDINGS: _post("/v1/embeddings"),
    RERANK: _post("/v1/rerank"),
    TRANSCRIPTION: _post("/v1/audio/transcriptions"),
    SPEECH: _post("/v1/audio/speech"),
    SCORE: _post("/v1/score"),
}
# What an engine has besides.
_BY_ENGINE: Dict[Tuple[str, str], Tuple[Route, ...]] = {
    ("vllm", CHAT): (*_MESSAGES, *_RESPONSES),
    ("vllm", RERANK): _post("/v2/rerank", "/v1/score"),
    ("vllm", SCORE): _post("/v1/rerank", "/v2/rerank"),
    ("vllm", TRANSCRIPTION): _post("/v1/audio/translations"),
    ("sglang", CHAT): (*_MESSAGES, *_RESPONSES),
    ("llama_cpp", CHAT): (*_MESSAGES, *_RESPONSES),
    ("trtllm", CHAT): _RESPONSES,
}
_BY_GENERATION: Dict[str, Tuple[Route, ...]] = {
    "profile": _post("/v1/chat/completions", "/v1/messages"),
    "gateway": _post(
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/audio/transcriptions",
        "/v1/audio/speech",
    ),
}


def list_serve_routes(engine: str, kind: str) -> Tuple[Route, ...]:
    """The requests that a serve of this engine and kind gets through an edge."""
    return (*_BY_KIND[kind], *_BY_ENGINE.get((engine, kind), ()), *MODELS)


def list_router_routes(generation: str) -> Tuple[Route, ...]:
    """The requests that a router of this generation gets through its edge."""
    return (*_BY_GENERATION[generation], *MODELS)
