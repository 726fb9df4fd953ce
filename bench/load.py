#!/usr/bin/env python3
"""Put bounded load on a router: N concurrent clients, half with short requests, half with streams. Reports failures and p50/p99.

    bench/load.py URL --clients 32 --seconds 10 --stream 2 [--token-file FILE] [--model heavy] [--new-connections 0.5]

No client retries: any incomplete answer counts as failed. URL must be on loopback. Use as a module: ``Load(...).start()``,
``.stop()``, ``.report()``.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_CLIENTS = 256
# Seconds that a client waits after a failed request.
AFTER_FAILURE = 0.1


@dataclass
class Report:
    """What the clients measured. Times are milliseconds; failures maps "kind: reason" to a count."""

    short: int = 0
    streams: int = 0
    failed: int = 0
    failed_short: int = 0
    failed_streams: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    stream_first_p50_ms: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)


def percentile(values: list[float], part: float) -> float:
    """The value (seconds) below which this part of the values lies, in milliseconds; 0 if there are no values."""
    return round(sorted(values)[min(len(values) - 1, int(len(values) * part))] * 1000, 2) if values else 0.0


class Load:
    """Clients in threads. Each sends its next request when it has the answer to the last one, or a pause later."""

    def __init__(
        self,
        url: str,
        clients: int = 32,
        stream_seconds: float = 2.0,
        token: str = "",
        model: str = "heavy",
        new_connections: float = 0.5,
        streams: float = 0.5,
        timeout: float = 60.0,
        pause: float = 0.0,
    ) -> None:
        """new_connections: share of the clients that open a connection per request. streams: share of the clients that stream.
        pause: seconds that a client with short requests waits after each answer."""
        parts = urlsplit(url)
        if parts.hostname not in LOOPBACK:
            raise ValueError(f"{url}: the URL must be on loopback")
        if not 1 <= clients <= MOST_CLIENTS:
            raise ValueError(f"{clients} clients: the number must be 1 to {MOST_CLIENTS}")
        self.host, self.port = parts.hostname, parts.port or 80
        self.headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        self.timeout, self.pause = timeout, pause
        self.stream_seconds, self.model = stream_seconds, model
        self.short_times: list[float] = []
        self.first_times: list[float] = []
        self.stream_count = 0
        self.failures: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._client, args=(number < clients * streams, number % 2 < 2 * new_connections), daemon=True
            )
            for number in range(clients)
        ]

    def start(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> Report:
        """Let every client finish its request, then report."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(self.timeout + 5)
        return self.report()

    def report(self) -> Report:
        with self._lock:
            failed_streams = sum(count for why, count in self.failures.items() if why.startswith("stream"))
            failed = sum(self.failures.values())
            return Report(
                short=len(self.short_times),
                streams=self.stream_count,
                failed=failed,
                failed_short=failed - failed_streams,
                failed_streams=failed_streams,
                p50_ms=percentile(self.short_times, 0.5),
                p99_ms=percentile(self.short_times, 0.99),
                stream_first_p50_ms=percentile(self.first_times, 0.5),
                failures=dict(self.failures),
            )

    def _client(self, streams: bool, new_connection: bool) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stopping.is_set():
            connection = connection or http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
            began = time.monotonic()
            try:
                first = self._stream(connection) if streams else self._short(connection)
            except (OSError, http.client.HTTPException, ValueError) as exc:
                connection.close()
                connection = None
                with self._lock:
                    self.failures[f"{'stream' if streams else 'short'}: {type(exc).__name__}: {exc}"[:120]] += 1
                # Without this wait, a port that refuses at once would count thousands of failures.
                self._stopping.wait(AFTER_FAILURE)
                continue
            with self._lock:
                if streams:
                    self.stream_count += 1
                    self.first_times.append(first - began)
                else:
                    self.short_times.append(time.monotonic() - began)
            if new_connection:
                connection.close()
                connection = None
            if self.pause and not streams:
                self._stopping.wait(self.pause)

    def _send(self, connection: http.client.HTTPConnection, content: str, stream: bool) -> http.client.HTTPResponse:
        body = {"model": self.model, "messages": [{"role": "user", "content": content}], "max_tokens": 16, "stream": stream}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), self.headers)
        reply = connection.getresponse()
        if reply.status != 200:
            raise ValueError(f"status {reply.status}: {reply.read(200)!r}")
        return reply

    def _short(self, connection: http.client.HTTPConnection) -> float:
        answer = json.loads(self._send(connection, "hello", False).read())
        if not answer["choices"][0]["message"]["content"]:
            raise ValueError("an answer without text")
        return time.monotonic()

    def _stream(self, connection: http.client.HTTPConnection) -> float:
        """Return the time of the first piece. A stream that does not end with [DONE] is a failure."""
        reply = self._send(connection, f"{self.stream_seconds:g}", True)
        first, last = 0.0, b""
        while line := reply.readline():
            if line.startswith(b"data:"):
                first, last = first or time.monotonic(), line.strip()
        if last != b"data: [DONE]":
            raise ValueError("the stream was cut")
        return first


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--stream", type=float, default=2, help="seconds that each stream lasts")
    parser.add_argument("--token-file", type=Path)
    parser.add_argument("--model", default="heavy")
    parser.add_argument("--new-connections", type=float, default=0.5)
    given = parser.parse_args()
    token = given.token_file.read_text().strip() if given.token_file else ""
    try:
        load = Load(given.url, given.clients, given.stream, token, given.model, given.new_connections)
    except ValueError as exc:
        parser.error(str(exc))
    load.start()
    time.sleep(given.seconds)
    report = load.stop()
    print(json.dumps(asdict(report)))
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
