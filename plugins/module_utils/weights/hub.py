# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Hugging Face hub, through its own client library in a process of its own.

The client runs under an interpreter that has ``huggingface_hub`` (a managed venv on the host, or the module's own), so
that a module which finds nothing to do never pays for importing it, and the token travels through standard input only.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any, Callable, Dict, Mapping

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail

# One request as JSON on standard input, one answer as the last line of standard output; the client's own log goes to
# standard error. It ends when its parent does.
PROGRAM = r"""
import hashlib, json, os, sys, threading, time
from urllib.parse import urlsplit

request = json.loads(sys.stdin.read())
os.environ.update(HF_HOME=request["home"], HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
os.environ.pop("HF_TOKEN", None)
if request["endpoint"]:
    os.environ["HF_ENDPOINT"] = request["endpoint"]


def answer(**said):
    print(json.dumps(said), flush=True)
    os._exit(0)


def watch(parent):
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(9)


threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()
try:
    import huggingface_hub
    from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers, get_session
except ImportError as exc:
    answer(error={"kind": "client", "why": "%s: %s" % (sys.executable, exc)})

# The client's 10 MB are fresh memory for each piece, and the kernel's work to give it costs more than to receive them.
constants.DOWNLOAD_CHUNK_SIZE = 1 << 20

token = request["token"] or False
KINDS = (
    ("GatedRepoError", "gated"),
    ("DisabledRepoError", "gated"),
    ("RevisionNotFoundError", "revision"),
    ("EntryNotFoundError", "entry"),
    ("RepositoryNotFoundError", "missing"),
    ("HFValidationError", "missing"),
    ("FileMetadataError", "hub"),
)


def judge(exc):
    chain, seen = [], exc
    while seen is not None and len(chain) < 8:
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    for one in chain:
        names = {base.__name__ for base in type(one).__mro__}
        if "LocalEntryNotFoundError" in names:
            continue
        for name, kind in KINDS:
            if name in names:
                return kind
        status = getattr(getattr(one, "response", None), "status_code", None)
        if status in (401, 403):
            return "token"
        if status is not None:
            return "hub"
        if getattr(one, "errno", None) == 28:
            return "disk"
        if "Consistency check failed" in str(one):
            return "cut"
    words = " ".join(base.__name__ for one in chain for base in type(one).__mro__)
    if any(word in words for word in ("TransportError", "ConnectionError", "LocalEntryNotFoundError", "Timeout")):
        return "offline"
    return "hub"


def patient(call, *args, **options):
    # The client itself sits out a full hub in the middle of a download, but not when it is asked for a listing.
    for attempt in range(6):
        try:
            return call(*args, **options)
        except Exception as exc:
            response = getattr(exc, "response", None)
            if getattr(response, "status_code", None) not in (408, 429, 500, 502, 503, 504) or attempt == 5:
                raise
            told = str(response.headers.get("Retry-After", ""))
            time.sleep(min(120.0, float(told)) if told.isdigit() else min(30.0, 2.0**attempt))


def list_files():
    info = patient(
        HfApi(endpoint=request["endpoint"] or None, token=token).model_info,
        request["repo"],
        revision=request["revision"],
        files_metadata=True,
    )
    files = {}
    for one in info.siblings or []:
        lfs = one.lfs
        sha256 = (lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)) if lfs else None
        files[one.rfilename] = {"size": one.size, "sha256": sha256, "blob": None if lfs else one.blob_id}
    answer(commit=info.sha, files=files, client=huggingface_hub.__version__)


def headers_for(url, location):
    headers = build_hf_headers(token=token)
    if urlsplit(location).netloc != urlsplit(url).netloc:
        headers = {key: value for key, value in headers.items() if key.lower() != "authorization"}
    return headers


def pieces_of(location, headers):
    session = get_session()
    if callable(getattr(session, "stream", None)):  # httpx, from huggingface_hub 1 on
        with session.stream("GET", location, headers=headers, timeout=30) as told:
            told.raise_for_status()
            yield told.status_code, b""
            for piece in told.iter_bytes():
                yield told.status_code, piece
    else:
        with session.get(location, headers=headers, timeout=30, stream=True) as told:
            told.raise_for_status()
            yield told.status_code, b""
            for piece in told.iter_content(1 << 16):
                yield told.status_code, piece


def peek(name, span):
    # The bytes [start, end) of a file, to the end of what is there already; a server without ranges is hung up on.
    start, end = span
    url = hf_hub_url(request["repo"], name, revision=request["revision"], endpoint=request["endpoint"] or None)
    known = patient(get_hf_file_metadata, url, token=token)
    headers = headers_for(url, known.location)
    headers.update({"Range": "bytes=%d-%d" % (start, end - 1), "Accept-Encoding": "identity"})
    left, path = end - start, os.path.join(request["folder"], name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "ab") as stream:
        skip = None
        for status, piece in pieces_of(known.location, headers):
            skip = start if skip is None and status == 200 else skip or 0
            piece, skip = piece[skip:], max(0, skip - len(piece))
            stream.write(piece[:left])
            left -= min(left, len(piece))
            if not left:
                break


def peek_files():
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(request["workers"]) as pool:
        for job in [pool.submit(peek, name, span) for name, span in request["spans"].items()]:
            job.result()
    answer()


class Altered(Exception):
    pass


def check(name, path, wanted, known=None):
    # known: the sha256 of the file, where its bytes were hashed as they came.
    size = os.path.getsize(path)
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    if known is None or wanted["blob"]:
        with open(path, "rb") as stream:
            while True:
                piece = stream.read(4 << 20)
                if not piece:
                    break
                sha256.update(piece)
                if wanted["blob"]:
                    blob.update(piece)
            os.fsync(stream.fileno())
    known = known or sha256.hexdigest()
    for what, found, expected in (
        ("size", size, wanted["size"]),
        ("sha256", known, wanted["sha256"]),
        ("git blob", blob.hexdigest(), wanted["blob"]),
    ):
        if expected is not None and found != expected:
            os.unlink(path)
            raise Altered("%s: %s is %s, the hub says %s" % (name, what, found, expected))
    return {"size": size, "sha256": known}


class Hashed:
    # A file that is appended to, and the sha256 of what is in it: the bytes are hashed as they come, not read again, and
    # their way to the disk begins while others come, so that little is left for the fsync at the end.
    STRIDE = 32 << 20

    def __init__(self, path):
        self.sha256 = hashlib.sha256()
        self.pending = 0
        self.stream = open(path, "a+b")
        self.stream.seek(0)
        self.read_on()

    def read_on(self):
        while True:
            piece = self.stream.read(4 << 20)
            if not piece:
                break
            self.sha256.update(piece)

    def write(self, piece):
        self.sha256.update(piece)
        self.pending += len(piece)
        if self.pending >= self.STRIDE:
            # Begins to write what is dirty, and waits for nothing; of these pages none is clean yet, so none is dropped.
            end = self.stream.tell()
            os.posix_fadvise(self.stream.fileno(), end - self.pending, self.pending, os.POSIX_FADV_DONTNEED)
            self.pending = 0
        return self.stream.write(piece)

    def tell(self):
        return self.stream.tell()

    def seek(self, *where):
        return self.stream.seek(*where)

    def truncate(self, *size):
        size = self.stream.truncate(*size)
        self.sha256 = hashlib.sha256()
        self.stream.seek(0)
        self.read_on()
        return size

    def close(self):
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()


def transfer(name, staged):
    # hf_hub_download of huggingface_hub 2 throws a half file away when its process dies (its pull request 4228). We hold
    # a lock of our own, so the client's transfer is given a file that stays. Files in Xet storage go the client's way:
    # its chunk cache is what resumes them.
    url = hf_hub_url(request["repo"], name, revision=request["revision"], endpoint=request["endpoint"] or None)
    known = patient(get_hf_file_metadata, url, token=token)
    if getattr(known, "xet_file_data", None) is not None or known.etag is None or known.size is None:
        hf_hub_download(
            request["repo"],
            name,
            revision=request["revision"],
            local_dir=request["folder"],
            endpoint=request["endpoint"] or None,
            token=token,
        )
        return None
    headers = headers_for(url, known.location)
    part = os.path.join(request["parts"], hashlib.sha256((name + "@" + known.etag).encode()).hexdigest())
    os.makedirs(request["parts"], exist_ok=True)
    stream = Hashed(part)
    try:
        start = stream.tell()
        if start > known.size:
            stream.truncate(0)
            start = 0
        http_get(known.location, stream, resume_size=start, headers=headers, expected_size=known.size)
    finally:
        stream.close()
    os.makedirs(os.path.dirname(staged), exist_ok=True)
    os.rename(part, staged)
    return stream.sha256.hexdigest()


def fetch(name, wanted):
    staged = os.path.join(request["folder"], name)
    if os.path.isfile(staged) and os.path.getsize(staged) == wanted["size"]:
        try:
            return check(name, staged, wanted)
        except Altered:
            pass
    return check(name, staged, wanted, transfer(name, staged))


def fetch_files():
    from concurrent.futures import ThreadPoolExecutor

    fetched, troubles = {}, []
    names = sorted(request["files"], key=lambda name: -(request["files"][name]["size"] or 0))
    with ThreadPoolExecutor(request["workers"]) as pool:
        running = {name: pool.submit(fetch, name, request["files"][name]) for name in names}
        for name, job in running.items():
            try:
                fetched[name] = job.result()
            except Altered as exc:
                troubles.append({"kind": "checksum", "file": name, "why": str(exc)})
            except Exception as exc:
                troubles.append({"kind": judge(exc), "file": name, "why": "%s: %s" % (type(exc).__name__, exc)})
                if troubles[-1]["kind"] != "entry":
                    for other in running.values():
                        other.cancel()
    troubles = [one for one in troubles if not one["why"].startswith("CancelledError")]
    answer(files=fetched, troubles=troubles)


try:
    {"list": list_files, "peek": peek_files, "fetch": fetch_files}[request["act"]]()
except Exception as exc:
    answer(error={"kind": judge(exc), "why": "%s: %s" % (type(exc).__name__, exc)})
"""

_TROUBLES: Dict[str, Any] = {
    "client": (
        "the Hugging Face client is missing",
        "run the role anvil.serving.models, which makes a venv for it, and name its python in `client`; "
        "or pip install huggingface_hub for the interpreter Ansible uses here",
    ),
    "gated": ("the repository is gated", "accept its terms on the hub with the account whose token is used, then run again"),
    "token": ("the hub refuses the token", "give a token that may read this repository (token or token_file)"),
    "missing": ("there is no such repository", "check the name; a private repository needs a token that may read it"),
    "revision": ("there is no such revision", "name a branch, a tag or a commit of the repository"),
    "entry": ("a file is not in the repository", "check allow and ignore against the repository's files"),
    "disk": ("the disk is full", "free some room: what was fetched is kept, and the next run goes on from there"),
    "cut": ("the download was cut short", "run again: what was fetched is kept, and the next run goes on from there"),
    "offline": (
        "the hub cannot be reached",
        "check the network, the proxy and the endpoint; or use copy_from with weights brought by hand. "
        "What was fetched is kept, and the next run goes on from there",
    ),
    "checksum": (
        "a file does not have the checksum that the hub announces",
        "run again: the file was thrown away and the others are kept; if it stays so, a proxy or mirror alters files",
    ),
    "hub": ("the hub does not answer as it should", "run again later: what was fetched is kept"),
}


# What is wrong with the repository or with what was asked of it, and not with the way to it.
REFUSALS = ("gated", "token", "missing", "revision", "entry")


class HubError(AnvilError):
    """Trouble with the hub; ``kind`` is a key of its own for each."""

    def __init__(self, kind: str, problem: Problem) -> None:
        super().__init__(problem)
        self.kind = kind


def hub_error(kind: str, where: str, why: str) -> HubError:
    """The error of one kind of trouble; its ``what`` is distinct for each."""
    what, hint = _TROUBLES.get(kind, _TROUBLES["hub"])
    return HubError(kind, Problem(what, where, " ".join(why.split())[:500], hint))


def ask_hub(client: str, request: Mapping[str, Any], timeout: float, tick: Callable[[], None] = lambda: None) -> Dict[str, Any]:
    """Have the client do one thing. ``timeout``: seconds for all of it; ``tick`` is called about once a second."""
    where = "{0}@{1}".format(request["repo"], request["revision"])
    # Isolated from the user's site and PYTHONPATH, which AnsiballZ has set; proxies and CA settings stay.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    deadline = time.monotonic() + timeout
    try:
        process = subprocess.Popen(
            [client, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
    except OSError as exc:
        raise hub_error("client", where, "{0}: {1}".format(client, exc.strerror)) from exc
    body: Any = json.dumps(request).encode("utf-8")
    while True:
        try:
            said, log = process.communicate(body, timeout=1.0)
            break
        except subprocess.TimeoutExpired:
            body = None
            tick()
            if time.monotonic() > deadline:
                process.kill()
                process.communicate()
                why = "not done within {0:g} s".format(timeout)
                raise hub_error("cut", where, why) from None
    try:
        answer: Dict[str, Any] = json.loads(said.decode("utf-8").splitlines()[-1])
    except (ValueError, IndexError):
        token = str(request["token"] or "")
        lines = log.decode("utf-8", "replace")
        lines = lines.replace(token, "***") if token else lines
        raise fail(
            "the Hugging Face client died", where=where, why="exit {0}".format(process.returncode), log=lines.splitlines()[-10:]
        ) from None
    if "error" in answer:
        raise hub_error(answer["error"]["kind"], where, answer["error"]["why"])
    return answer
