# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What counts as an answer of each kind of serve."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.catalog.sample_requests import (
    build_sample,
    is_unsupported,
    read_answer,
)
from ansible_collections.anvil.serving.plugins.module_utils.catalog.served_kinds import KINDS


def chat(message: Any, tokens: Any = None) -> str:
    return json.dumps({"choices": [{"message": message}], "usage": {"completion_tokens": tokens}})


DEEP: Any = "x"
for _ in range(200):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("kind", "body", "answer"),
    [
        ("chat", chat({"content": "hello"}), "hello"),
        ("chat", chat({"content": None, "reasoning_content": "The user"}), "The user"),
        ("chat", chat({"content": "", "reasoning": "The user"}), "The user"),
        ("chat", chat({"content": [{"type": "text", "text": "Hello!"}]}), "Hello!"),
        ("chat", chat({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}), "hm"),
        ("chat", chat({"content": None, "tool_calls": [{"id": "1"}]}), "a tool call"),
        ("chat", chat({"content": None, "refusal": "No."}), "No."),
        ("chat", chat({"content": " "}, 32), "32 tokens without text"),
        ("chat", chat({"content": DEEP}), "x"),
        ("chat", chat({"content": ""}, 0), None),
        ("chat", chat({"content": None, "tool_calls": []}, True), None),
        ("chat", chat("hello"), None),
        ("chat", '{"choices": []}', None),
        ("chat", "[]", None),
        ("chat", "", None),
        ("embeddings", '{"data": [{"embedding": [0.1, 0.2]}]}', "a vector of 2 numbers"),
        ("embeddings", '{"data": [{"embedding": "AAAA"}]}', "a vector"),
        ("embeddings", '{"data": [{"embedding": []}]}', None),
        ("embeddings", '{"data": []}', None),
        ("rerank", '{"results": [{"index": 0, "relevance_score": 0.1}, {"index": 1}]}', "2 scores"),
        ("rerank", '[{"score": 0.5}]', "1 scores"),
        ("rerank", '{"results": []}', None),
        ("score", '{"data": [{"index": 0, "score": 0.5}]}', "1 scores"),
        ("transcription", '{"text": ""}', "a transcription"),
        ("transcription", '{"error": "x"}', None),
    ],
)
def test_an_answer_has_text_reasoning_a_tool_call_or_tokens(kind: str, body: str, answer: str | None) -> None:
    assert read_answer(kind, body) == answer


def test_every_kind_has_a_request_except_speech() -> None:
    paths = {kind: sample.path for kind in KINDS if (sample := build_sample(kind, "m")) is not None}
    assert paths == {
        "chat": "/v1/chat/completions",
        "embeddings": "/v1/embeddings",
        "rerank": "/v1/rerank",
        "score": "/v1/score",
        "transcription": "/v1/audio/transcriptions",
    }
    spoken = build_sample("transcription", "m")
    assert spoken is not None and spoken.body.count(b"RIFF") == 1 and spoken.content_type.startswith("multipart/form-data")


@pytest.mark.parametrize(
    ("status", "body", "unsupported"),
    [
        (501, "This server does not support chat completions", True),
        (405, "", True),
        (404, '{"detail":"Not Found"}', True),
        (404, '{"error": "model not found"}', False),
        (503, "", False),
        (400, "", False),
    ],
)
def test_a_server_that_never_answers_this_kind_is_told_from_one_that_does_not_yet(
    status: int, body: str, unsupported: bool
) -> None:
    assert is_unsupported(status, body) == unsupported
