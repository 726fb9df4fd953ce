"""A small model hub: the part of the Hugging Face hub's HTTP API that downloads need, with faults on demand.

Large files work as on the real hub: it returns their sha256 and redirects to a "CDN" path, which supports ranges.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 4096


@dataclass
class Repo:
    """A repository: commits by revision name, files by commit. gated: the token that is needed to read it."""

    revisions: dict[str, str]
    files: dict[str, dict[str, bytes]]
    gated: str = ""


@dataclass
class Faults:
    """Faults of the next requests. Each count is used up."""

    too_many: int = 0  # answers with status 429 and Retry-After
    retry_after: int = 0
    cuts: int = 0  # connections closed in the middle of a large file
    cut_after: int = 0
    gone_after_cuts: bool = False  # once all cuts are used up, every connection is closed without an answer
    altered: set[str] = field(default_factory=set)  # files whose bytes differ from the announced checksum
    stall: threading.Event | None = None  # large files wait for this event in the middle


class Hub:
    """The server. ``requests`` holds (method, path, Range) of every request."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.faults = Faults()
        self.requests: list[tuple[str, str, str]] = []
        self.sums: dict[int, tuple[str, bytes]] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_words: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                hub.answer(self)

            def do_GET(self) -> None:
                hub.answer(self)

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_where: Any) -> None:
                pass  # tests kill clients on purpose

        # Two origins: the client treats redirects within the hub and to a CDN differently.
        self.servers = [Server(("127.0.0.1", 0), Handler) for _origin in ("hub", "cdn")]
        self.endpoint, self.cdn = (f"http://127.0.0.1:{server.server_port}" for server in self.servers)
        for server in self.servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def add(self, name: str, files: dict[str, bytes], revision: str = "main", gated: str = "") -> str:
        """Commit files to a branch and return the commit."""
        named = sorted((file, self.sha256(content)) for file, content in files.items())
        commit = hashlib.sha1(repr(named).encode()).hexdigest()
        repo = self.repos.setdefault(name, Repo({}, {}, gated))
        repo.revisions[revision] = repo.revisions[commit] = commit
        repo.files[commit] = files
        return commit

    def sha256(self, content: bytes) -> str:
        """The checksum of a file, computed once."""
        if id(content) not in self.sums:
            self.sums[id(content)] = (hashlib.sha256(content).hexdigest(), content)
        return self.sums[id(content)][0]

    def fetched(self, name: str) -> list[str]:
        """The Range headers of the requests for a file's content; an empty text asks for all of it."""
        return [ranges for method, path, ranges in self.requests if method == "GET" and path.endswith("/" + name)]

    # ------------------------------------------------------------------------------------------------------------

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        if self.faults.gone_after_cuts and not self.faults.cuts:
            handler.close_connection = True
            handler.connection.shutdown(2)
            return
        path = unquote(urlsplit(handler.path).path)
        self.requests.append((handler.command, path, handler.headers.get("Range", "")))
        parts = path.strip("/").split("/")
        if parts[0] == "cdn":
            content = self.repos["/".join(parts[1:3])].files[parts[3]]["/".join(parts[4:])]
            if "/".join(parts[4:]) in self.faults.altered:
                spoilt = bytearray(content)
                spoilt[len(content) // 2] ^= 1
                content = bytes(spoilt)
            self.send_content(handler, memoryview(content), {})
            return
        if parts[:2] == ["api", "models"]:
            name, revision, file = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main", ""
        else:
            name, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        if self.faults.too_many:
            self.faults.too_many -= 1
            self.refuse(handler, 429, "", Retry_After=str(self.faults.retry_after))
            return
        repo = self.repos.get(name)
        if repo is None:
            self.refuse(handler, 401, "RepoNotFound")
        elif repo.gated and handler.headers.get("Authorization") != f"Bearer {repo.gated}":
            self.refuse(handler, 403, "GatedRepo")
        elif revision not in repo.revisions:
            self.refuse(handler, 404, "RevisionNotFound")
        elif not file and parts[4:5] == ["tree"]:
            self.send_tree(handler, repo, repo.revisions[revision])
        elif not file:
            self.send_listing(handler, name, repo, repo.revisions[revision])
        elif file not in repo.files[repo.revisions[revision]]:
            self.refuse(handler, 404, "EntryNotFound")
        else:
            self.send_file(handler, name, repo, repo.revisions[revision], file)

    def refuse(self, handler: BaseHTTPRequestHandler, status: int, code: str, **headers: str) -> None:
        handler.send_response(status)
        if code:
            handler.send_header("X-Error-Code", code)
        for key, value in headers.items():
            handler.send_header(key.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def send_listing(self, handler: BaseHTTPRequestHandler, name: str, repo: Repo, commit: str) -> None:
        siblings = []
        for file, content in repo.files[commit].items():
            blob = self.sha256(content)[:40] if len(content) >= LARGE else git_blob(content)
            entry: dict[str, Any] = {"rfilename": file, "size": len(content), "blobId": blob}
            if len(content) >= LARGE:
                entry["lfs"] = {"sha256": self.sha256(content), "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        body = json.dumps({"id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": [], "downloads": 0}).encode()
        self.send_content(handler, body, {"Content-Type": "application/json"}, plain=True)

    def send_tree(self, handler: BaseHTTPRequestHandler, repo: Repo, commit: str) -> None:
        entries = []
        for file, content in repo.files[commit].items():
            entry: dict[str, Any] = {"type": "file", "path": file, "size": len(content), "oid": self.sha256(content)[:40]}
            if len(content) >= LARGE:
                entry["lfs"] = {"oid": self.sha256(content), "size": len(content), "pointerSize": 134}
            entries.append(entry)
        self.send_content(handler, json.dumps(entries).encode(), {"Content-Type": "application/json"}, plain=True)

    def send_file(self, handler: BaseHTTPRequestHandler, name: str, repo: Repo, commit: str, file: str) -> None:
        content = repo.files[commit][file]
        if len(content) < LARGE:
            altered = content[:-1] + b"?" if file in self.faults.altered else content
            self.send_content(handler, altered, {"X-Repo-Commit": commit, "ETag": f'"{git_blob(content)}"'}, plain=True)
            return
        handler.send_response(302)
        handler.send_header("Location", f"{self.cdn}/cdn/{name}/{commit}/{file}")
        handler.send_header("X-Repo-Commit", commit)
        handler.send_header("X-Linked-Size", str(len(content)))
        handler.send_header("X-Linked-ETag", f'"{self.sha256(content)}"')
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def send_content(
        self, handler: BaseHTTPRequestHandler, content: bytes | memoryview, headers: dict[str, str], plain: bool = False
    ) -> None:
        total, start, wanted = len(content), 0, handler.headers.get("Range", "")
        if wanted.startswith("bytes=") and not plain:
            first, _dash, last = wanted[6:].partition("-")
            start = int(first)
            if start >= total:
                self.refuse(handler, 416, "")
                return
            content = content[start : int(last) + 1 if last else None]
        partial = len(content) < total
        handler.send_response(206 if partial else 200)
        for key, value in headers.items():
            handler.send_header(key, value)
        if partial:
            handler.send_header("Content-Range", f"bytes {start}-{start + len(content) - 1}/{total}")
        handler.send_header("Accept-Ranges", "bytes")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if handler.command == "HEAD":
            return
        if not plain and self.faults.cuts:
            self.faults.cuts -= 1
            handler.wfile.write(content[: self.faults.cut_after])
            handler.wfile.flush()
            handler.close_connection = True
            handler.connection.shutdown(2)
            return
        if not plain and self.faults.stall is not None:
            handler.wfile.write(content[: len(content) // 2])
            handler.wfile.flush()
            self.faults.stall.wait(30)
            content = content[len(content) // 2 :]
        handler.wfile.write(content)


def git_blob(content: bytes) -> str:
    """The hash of a file as a git blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
