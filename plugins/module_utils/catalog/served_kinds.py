# SPDX-License-Identifier: GPL-3.0-or-later
"""The kind of answers that a serve gives (chat, embeddings, rerank, …), by the settings of its engine. Pure.

Sources: ``--task``, ``--runner`` and ``--convert`` of vLLM, ``--is-embedding`` of SGLang, ``--embeddings``, ``--reranking`` and
``--pooling`` of llama-server. Without any of them an engine serves chat, but vLLM goes by the class of the weights.
"""

from __future__ import annotations

from ansible_collections.anvil.serving.plugins.module_utils.catalog import engine_options as settings_of
from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import Settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.published_kinds import find_published_kind

CHAT, EMBEDDINGS, RERANK, TRANSCRIPTION, SPEECH, SCORE = "chat", "embeddings", "rerank", "transcription", "speech", "score"
KINDS = (CHAT, EMBEDDINGS, RERANK, TRANSCRIPTION, SPEECH, SCORE)
# llama-server answers the requests of these kinds of models only with a flag.
LLAMA_KIND_FLAGS = {EMBEDDINGS: "--embeddings", RERANK: "--reranking"}
VLLM_TASKS = {
    "embed": EMBEDDINGS,
    "embedding": EMBEDDINGS,
    "score": SCORE,
    "classify": SCORE,
    "reward": SCORE,
    "transcription": TRANSCRIPTION,
}


def derive_kind(settings: Settings, model: str = "") -> str:
    """What a serve with these settings answers. model: its repository or path, which may say it to vLLM."""
    if settings.is_on(settings_of.RERANK):
        return RERANK
    if settings.is_on(settings_of.EMBEDDINGS):
        return RERANK if settings.text(settings_of.POOLING) == "rank" else EMBEDDINGS
    for name in (settings_of.CONVERT, settings_of.TASK):
        found = VLLM_TASKS.get(settings.text(name) or "")
        if found:
            return found
    if settings.engine != "vllm":
        return CHAT
    architectures = settings.table(settings_of.OVERRIDES).get("architectures")
    if isinstance(architectures, list) and any(str(word).endswith("ForSequenceClassification") for word in architectures):
        return RERANK  # how vLLM serves a Qwen3 reranker
    if settings.text(settings_of.RUNNER) == "pooling" or settings.has(settings_of.POOLING):
        return EMBEDDINGS
    if settings.text(settings_of.RUNNER) == "generate" or (settings.text(settings_of.TASK) or "auto") != "auto":
        return CHAT
    return find_published_kind(model) or CHAT
