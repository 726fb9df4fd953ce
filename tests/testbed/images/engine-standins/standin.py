"""A stand-in for the servers of SGLang and TensorRT-LLM, which no machine of the tests can run: they need a GPU.

It has their command lines (the flags that the tests use; another one ends it, as in the real programs), their health and metrics
endpoints, and an answer to a chat completion. It loads no model.

    standin.py KIND NAME PORT     a stand-in for a server of another kind: transcription, score or speech

Such a server has the path of its kind only, and refuses a request that lacks a part.
"""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Kind -> its path, the parts that a request must have, and an answer of vLLM.
KINDS: dict[str, tuple[str, tuple[bytes, ...], Any]] = {
    "transcription": ("/v1/audio/transcriptions", (b'name="model"', b'name="file"', b"RIFF", b"WAVE"), {"text": ""}),
    "score": ("/v1/score", (b'"text_1"', b'"text_2"', b'"model"'), {"object": "list", "data": [{"index": 0, "score": 0.5}]}),
    "speech": ("/v1/audio/speech", (b'"model"', b'"input"', b'"voice"'), ""),
}


def serve(
    host: str, port: int, model: str, context: int, metrics: dict[str, float], info: dict[str, Any], kind: str = "chat"
) -> None:
    """Answer until the process is stopped. metrics: name -> value, at /metrics. info: at /get_server_info."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, body: Any) -> None:
            content = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            row = {"id": model, "object": "model", "owned_by": "stand-in", "max_model_len": context}
            pages: dict[str, Any] = {
                "/health": "",
                "/v1/models": {"object": "list", "data": [row]},
                "/metrics": "".join(f"{name} {value}\n" for name, value in metrics.items()),
                "/get_server_info": info,
            }
            found = pages.get(self.path)
            self.answer(404 if found is None else 200, "" if found is None else found)

        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if kind != "chat":
                path, parts, answer = KINDS[kind]
                found, whole = self.path == path, all(part in sent for part in parts)
                self.answer(404 if not found else 200 if whole else 400, {"detail": "Not Found"} if not found else answer)
                return
            asked = json.loads(sent or b"{}")
            message = {"role": "assistant", "content": "I am a stand-in."}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            body = {"object": "chat.completion", "created": int(time.time()), "model": asked.get("model"), "choices": [choice]}
            self.answer(200 if self.path == "/v1/chat/completions" else 404, body)

        def log_message(self, *_words: object) -> None:
            """No access log."""

    ThreadingHTTPServer((host, port), Handler).serve_forever()


if __name__ == "__main__":
    serve("0.0.0.0", int(sys.argv[3]), sys.argv[2], 4096, {}, {}, sys.argv[1])
