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

from ansible_collections.anvil.serving.plugins.module_utils.errors import AnvilError, fail

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
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers
except ImportError as exc:
    answer(error={"kind": "client", "why": "%s: %s" % (sys.executable, exc)})

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


class Altered(Exception):
    pass


def check(name, path, wanted):
    size = os.path.getsize(path)
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    with open(path, "rb") as stream:
        while True:
            piece = stream.read(4 << 20)
            if not piece:
                break
            sha256.update(piece)
            if wanted["blob"]:
                blob.update(piece)
        os.fsync(stream.fileno())
    for what, found, expected in (
        ("size", size, wanted["size"]),
        ("sha256", sha256.hexdigest(), wanted["sha256"]),
        ("git blob", blob.hexdigest(), wanted["blob"]),
    ):
        if expected is not None and found != expected:
            os.unlink(path)
            raise Altered("%s: %s is %s, the hub says %s" % (name, what, found, expected))
    return {"size": size, "sha256": sha256.hexdigest()}


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
        return
    headers = build_hf_headers(token=token)
    if urlsplit(known.location).netloc != urlsplit(url).netloc:
        headers = {key: value for key, value in headers.items() if key.lower() != "authorization"}
    part = os.path.join(request["parts"], hashlib.sha256((name + "@" + known.etag).encode()).hexdigest())
    os.makedirs(request["parts"], exist_ok=True)
    with open(part, "ab") as stream:
        start = os.path.getsize(part)
        if start > known.size:
            stream.truncate(0)
            start = 0
        http_get(known.location, stream, resume_size=start, headers=headers, expected_size=known.size)
    os.makedirs(os.path.dirname(staged), exist_ok=True)
    os.rename(part, staged)


def fetch(name, wanted):
    staged = os.path.join(request["folder"], name)
    if os.path.isfile(staged) and os.path.getsize(staged) == wanted["size"]:
        try:
            return check(name, staged, wanted)
        except Altered:
            pass
    transfer(name, staged)
    return check(name, staged, wanted)


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
    list_files() if request["act"] == "list" else fetch_files()
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


def hub_error(kind: str, where: str, why: str) -> AnvilError:
    """The error of one kind of trouble; its ``what`` is distinct for each."""
    what, hint = _TROUBLES.get(kind, _TROUBLES["hub"])
    return fail(what, where=where, why=" ".join(why.split())[:500], hint=hint)


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
