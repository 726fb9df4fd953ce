# SPDX-License-Identifier: GPL-3.0-or-later
"""The smallest request for each kind of serve (chat, embeddings, rerank, …), and what counts as an answer to it. Pure.

An answer proves that the model runs, not that it is good. A reasoning model may spend all its tokens on its reasoning, and a
model may answer with a tool call: both are answers.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any, List, Mapping, Optional

BOUNDARY = "anvil-serving-sample"
# The keys of a part of a message that hold its text.
TEXT_KEYS = ("text", "thinking", "reasoning", "refusal", "content")
MOST_PARTS = 2000


@dataclass(frozen=True)
class SampleRequest:
    """A POST request: its path, the type of its body, and the body."""

    path: str
    body: bytes
    content_type: str = "application/json"


def build_sample(kind: str, model: str, prompt: str = "Hi", max_tokens: int = 1) -> Optional[SampleRequest]:
    """The request for one small answer; None for ``speech``, which needs a voice that only the model's author knows."""
    if kind == "chat":
        messages = [{"role": "user", "content": prompt}]
        return _post("/v1/chat/completions", model=model, messages=messages, max_tokens=max_tokens, stream=False)
    if kind == "embeddings":
        return _post("/v1/embeddings", model=model, input=prompt)
    if kind == "rerank":
        return _post("/v1/rerank", model=model, query=prompt, documents=[prompt, "Good-bye"])
    if kind == "score":
        return _post("/v1/score", model=model, text_1=prompt, text_2=prompt)
    if kind == "transcription":
        return _post_silence(model)
    return None


def _post(path: str, **body: Any) -> SampleRequest:
    return SampleRequest(path, json.dumps(body).encode("utf-8"))


def build_router_sample(kind: str, model: str, prompt: str = "Hi", max_tokens: int = 1) -> Optional[SampleRequest]:
    """The request for one small answer through a router. model: the name of a preset, route or tier.

    A gateway router (2.0.2) has audio requests of its own: JSON with the sound in base64, and the tier as ``route``.
    """
    if kind == "transcription":
        sound = base64.b64encode(_make_silence()).decode("ascii")
        return _post("/v1/audio/transcriptions", route=model, audio_b64=sound, format="wav", is_final=True)
    if kind == "speech":
        return _post("/v1/audio/speech", route=model, input=prompt, response_format="pcm16")
    return build_sample(kind, model, prompt, max_tokens)


def _make_silence() -> bytes:
    """One second of silence, as a WAV file."""
    import io
    import wave

    sound = io.BytesIO()
    with wave.open(sound, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(16000)
        written.writeframes(bytes(2 * 16000))
    return sound.getvalue()


def _post_silence(model: str) -> SampleRequest:
    """A transcription of one second of silence."""
    head = 'Content-Disposition: form-data; name="{0}"{1}\r\n\r\n'
    parts = [
        head.format("model", "").encode("ascii") + model.encode("utf-8"),
        head.format("file", '; filename="silence.wav"\r\nContent-Type: audio/wav').encode("ascii") + _make_silence(),
    ]
    edge = b"--" + BOUNDARY.encode("ascii")
    body = b"".join(edge + b"\r\n" + part + b"\r\n" for part in parts) + edge + b"--\r\n"
    return SampleRequest("/v1/audio/transcriptions", body, "multipart/form-data; boundary=" + BOUNDARY)


def read_answer(kind: str, body: str) -> Optional[str]:
    """What a reply with status 200 says, as text to show; None if it holds no answer."""
    try:
        document = json.loads(body)
    except ValueError:
        return None
    if kind == "chat":
        return _read_chat(document)
    if kind == "transcription":
        return "a transcription" if isinstance(document, dict) and isinstance(document.get("text"), str) else None
    if kind == "speech":
        sound = document.get("audio_b64") if isinstance(document, dict) else None
        return "speech" if isinstance(sound, str) and sound else None
    rows = document if isinstance(document, list) else _find_rows(document)
    if not rows:
        return None
    if kind == "embeddings":
        vector = rows[0].get("embedding") if isinstance(rows[0], dict) else None
        if isinstance(vector, list) and vector:
            return "a vector of {0} numbers".format(len(vector))
        return "a vector" if isinstance(vector, str) and vector else None
    return "{0} scores".format(len(rows))


def _find_rows(document: Any) -> List[Any]:
    """The list of results: ``data`` as OpenAI and vLLM name it, ``results`` in the form of Jina, ``scores`` in SGLang."""
    found = document if isinstance(document, dict) else {}
    return next((found[key] for key in ("data", "results", "scores") if isinstance(found.get(key), list)), [])


def _read_chat(document: Any) -> Optional[str]:
    choices = document.get("choices") if isinstance(document, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return None
    message = choices[0].get("message")
    found = message if isinstance(message, dict) else {}
    text = read_text(found.get("content")) or read_text(found.get("reasoning_content")) or read_text(found.get("reasoning"))
    text = text or read_text(found.get("refusal"))
    if text:
        return text
    if found.get("tool_calls") or found.get("function_call"):
        return "a tool call"
    usage = document.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens > 0:
        return "{0} tokens without text".format(tokens)
    return None


def read_text(content: Any) -> str:
    """The text of a message: a text, or a list of parts (``text``, ``thinking``, ``refusal``), which may hold lists again."""
    pieces: List[str] = []
    stack = [content]
    while stack and len(pieces) < MOST_PARTS:
        part = stack.pop()
        if isinstance(part, str):
            pieces.append(part)
        elif isinstance(part, list):
            stack.extend(reversed(part))
        elif isinstance(part, Mapping):
            stack.extend(part[key] for key in reversed(TEXT_KEYS) if part.get(key))
    return "".join(pieces).strip()


def is_unsupported(status: int, body: str) -> bool:
    """Whether a server says that it never answers this kind of request: 501, 405, or the 404 of a path that it does not have."""
    return status in (405, 501) or (status == 404 and body.replace(" ", "") == '{"detail":"NotFound"}')
