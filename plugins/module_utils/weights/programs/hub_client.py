# SPDX-License-Identifier: GPL-3.0-or-later
"""The client of the Hugging Face hub, as a program: it lists a repository, fetches headers of its files, or fetches the files.

It runs under the interpreter that has ``huggingface_hub``, from 0.30 on. It reads one request as JSON from standard input and
writes one answer as the last line of standard output; the log of the library goes to standard error. It ends when its parent
ends. ``hub`` sends it and reads its answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, Callable, Dict, Generator, List, Mapping, NoReturn, Optional, Tuple
from urllib.parse import urlsplit

PIECE = 4 << 20
CALL_ATTEMPTS = 6
TEMPORARY_STATUSES = (408, 429, 500, 502, 503, 504)
# The name of a class of the library's exceptions -> the kind of the error in the answer.
ERROR_KINDS = (
    ("GatedRepoError", "gated"),
    ("DisabledRepoError", "gated"),
    ("RevisionNotFoundError", "revision"),
    ("EntryNotFoundError", "entry"),
    ("RepositoryNotFoundError", "missing"),
    ("HFValidationError", "missing"),
    ("FileMetadataError", "hub"),
)


class AlteredFileError(Exception):
    """A fetched file is not what the hub announced."""


def open_no_link(path: str, flags: int) -> int:
    """Opens a file of the staging folder; a link there is not ours."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)


class HashedFile:
    """A file that is appended to, and the sha256 of its content.

    The bytes are hashed as they come, not read again. Writing them to the disk begins while others still come, so that little
    is left for the fsync at the end.
    """

    STRIDE = 32 << 20

    def __init__(self, path: str) -> None:
        self.sha256 = hashlib.sha256()
        self.pending = 0
        self.stream: BinaryIO = open(path, "a+b", opener=open_no_link)  # noqa: SIM115  closed by close()
        self.stream.seek(0)
        self._hash_rest()

    def _hash_rest(self) -> None:
        for piece in iter(lambda: self.stream.read(PIECE), b""):
            self.sha256.update(piece)

    def write(self, piece: bytes) -> int:
        self.sha256.update(piece)
        self.pending += len(piece)
        if self.pending >= self.STRIDE:
            # This starts the write of dirty pages and does not wait; none of these pages is clean yet, so none is dropped.
            end = self.stream.tell()
            os.posix_fadvise(self.stream.fileno(), end - self.pending, self.pending, os.POSIX_FADV_DONTNEED)
            self.pending = 0
        return self.stream.write(piece)

    def tell(self) -> int:
        return self.stream.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.stream.seek(offset, whence)

    def truncate(self, size: Optional[int] = None) -> int:
        left = self.stream.truncate(size)
        self.sha256 = hashlib.sha256()
        self.stream.seek(0)
        self._hash_rest()
        return left

    def close(self) -> None:
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()


def classify_error(error: BaseException) -> str:
    """The kind of an error, by its class, its HTTP status and its causes. One that is not known is ``hub``."""
    chain: List[BaseException] = []
    cause: Optional[BaseException] = error
    while cause is not None and len(chain) < 8:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    for one in chain:
        names = {base.__name__ for base in type(one).__mro__}
        if "LocalEntryNotFoundError" in names:
            continue
        for name, kind in ERROR_KINDS:
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


def describe_error(error: BaseException) -> str:
    return "{0}: {1}".format(type(error).__name__, error)


def call_with_retries(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call the hub, again while it is overloaded. The library does so in the middle of a download, but not for a listing."""
    for attempt in range(CALL_ATTEMPTS):
        try:
            return call(*args, **options)
        except Exception as exc:
            response = getattr(exc, "response", None)
            if getattr(response, "status_code", None) not in TEMPORARY_STATUSES or attempt == CALL_ATTEMPTS - 1:
                raise
            wait = str(response.headers.get("Retry-After", "")) if response is not None else ""
            time.sleep(min(120.0, float(wait)) if wait.isdigit() else min(30.0, 2.0**attempt))
    raise AssertionError("not reached")


def check_file(name: str, path: str, announced: Mapping[str, Any], known: Optional[str] = None) -> Dict[str, Any]:
    """Compare a fetched file with what the hub announced; one that differs is removed. Raises AlteredFileError.

    announced: size, sha256 and git blob hash, each None where the hub does not give it. known: the sha256 of the file, where
    its bytes were hashed as they came.
    """
    size = os.path.getsize(path)
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)  # noqa: S324  git's choice, not ours
    if known is None or announced["blob"]:
        with open(path, "rb", opener=open_no_link) as stream:
            for piece in iter(lambda: stream.read(PIECE), b""):
                sha256.update(piece)
                if announced["blob"]:
                    blob.update(piece)
            os.fsync(stream.fileno())
    known = known or sha256.hexdigest()
    for what, found, expected in (
        ("size", size, announced["size"]),
        ("sha256", known, announced["sha256"]),
        ("git blob", blob.hexdigest(), announced["blob"]),
    ):
        if expected is not None and found != expected:
            os.unlink(path)
            raise AlteredFileError("{0}: {1} is {2}, the hub announces {3}".format(name, what, found, expected))
    return {"size": size, "sha256": known}


class HubClient:
    """One request: ``repo`` at ``revision`` of the hub at ``endpoint`` (empty: the library's own), read with ``token``.

    folder: where files go. parts: where half a file stays for the next run. workers: transfers at once.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.request = request
        self.repo, self.revision = str(request["repo"]), str(request["revision"])
        self.endpoint = str(request["endpoint"]) or None
        self.token = request["token"] or False
        self.folder, self.parts = str(request["folder"]), str(request["parts"])

    def list_files(self) -> Dict[str, Any]:
        """The commit of the revision, and size and checksum of each file."""
        import huggingface_hub

        api = huggingface_hub.HfApi(endpoint=self.endpoint, token=self.token)
        info = call_with_retries(api.model_info, self.repo, revision=self.revision, files_metadata=True)
        files = {}
        for file in info.siblings or []:
            lfs = file.lfs
            sha256 = (lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)) if lfs else None
            files[file.rfilename] = {"size": file.size, "sha256": sha256, "blob": None if lfs else file.blob_id}
        return {"commit": info.sha, "files": files, "client": huggingface_hub.__version__}

    def _locate(self, name: str) -> Tuple[Any, Dict[str, str]]:
        """The metadata of a file, with its location, and the headers of a request for it. Another server never gets the token."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(self.repo, name, revision=self.revision, endpoint=self.endpoint)
        metadata = call_with_retries(get_hf_file_metadata, url, token=self.token)
        headers = dict(build_hf_headers(token=self.token))
        if urlsplit(metadata.location).netloc != urlsplit(url).netloc:
            headers = {key: value for key, value in headers.items() if key.lower() != "authorization"}
        return metadata, headers

    def fetch_ranges(self) -> Dict[str, Any]:
        """Append a range of bytes to each file: ``spans`` is name -> [start, end)."""
        self._run_at_once({name: (self._fetch_range, name, span[0], span[1]) for name, span in self.request["spans"].items()})
        return {}

    def _fetch_range(self, name: str, start: int, end: int) -> None:
        metadata, headers = self._locate(name)
        headers.update({"Range": "bytes={0}-{1}".format(start, end - 1), "Accept-Encoding": "identity"})
        left, path = end - start, os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with (
            open(path, "ab", opener=open_no_link) as stream,
            contextlib.closing(read_pieces(metadata.location, headers)) as pieces,
        ):
            skip: Optional[int] = None
            for status, piece in pieces:
                # A server that does not know ranges sends the file from its beginning; the connection is closed early then.
                skip = start if skip is None and status == 200 else skip or 0
                rest, skip = piece[skip:], max(0, skip - len(piece))
                stream.write(rest[:left])
                left -= min(left, len(rest))
                if not left:
                    break

    def _run_at_once(self, calls: Mapping[str, Tuple[Any, ...]]) -> None:
        with ThreadPoolExecutor(self.request["workers"]) as pool:
            for job in [pool.submit(*call) for call in calls.values()]:
                job.result()

    def fetch_files(self) -> Dict[str, Any]:
        """Fetch ``files`` (name -> size, sha256, blob), the largest first. A failure other than ``entry`` stops the others."""
        announced = self.request["files"]
        fetched: Dict[str, Any] = {}
        failures: List[Dict[str, str]] = []
        names = sorted(announced, key=lambda name: -(announced[name]["size"] or 0))
        with ThreadPoolExecutor(self.request["workers"]) as pool:
            running = {name: pool.submit(self._fetch_file, name, announced[name]) for name in names}
            for name, job in running.items():
                try:
                    fetched[name] = job.result()
                except AlteredFileError as exc:
                    failures.append({"kind": "checksum", "file": name, "why": str(exc)})
                except Exception as exc:
                    failures.append({"kind": classify_error(exc), "file": name, "why": describe_error(exc)})
                    if failures[-1]["kind"] != "entry":
                        for other in running.values():
                            other.cancel()
        return {"files": fetched, "failures": [one for one in failures if not one["why"].startswith("CancelledError")]}

    def _fetch_file(self, name: str, announced: Mapping[str, Any]) -> Dict[str, Any]:
        path = os.path.join(self.folder, name)
        if os.path.isfile(path) and os.path.getsize(path) == announced["size"]:
            with contextlib.suppress(AlteredFileError):
                return check_file(name, path, announced)
        return check_file(name, path, announced, self._transfer(name, path))

    def _transfer(self, name: str, path: str) -> Optional[str]:
        """Download a file, from where an earlier run stopped. Returns its sha256; None where it was not hashed on the way.

        hf_hub_download of huggingface_hub 2 discards half a file when its process dies (its pull request 4228). We hold a lock
        of our own, so the library's transfer gets a file that stays. Files in Xet storage go through hf_hub_download: the
        chunk cache of the library resumes them.
        """
        from huggingface_hub import hf_hub_download
        from huggingface_hub.file_download import http_get

        metadata, headers = self._locate(name)
        if getattr(metadata, "xet_file_data", None) is not None or metadata.etag is None or metadata.size is None:
            hf_hub_download(
                self.repo, name, revision=self.revision, local_dir=self.folder, endpoint=self.endpoint, token=self.token
            )
            return None
        part = os.path.join(self.parts, hashlib.sha256((name + "@" + metadata.etag).encode()).hexdigest())
        os.makedirs(self.parts, exist_ok=True)
        stream = HashedFile(part)
        try:
            start = stream.tell()
            if start > metadata.size:
                stream.truncate(0)
                start = 0
            target: Any = stream  # it has what http_get uses of a file
            http_get(metadata.location, target, resume_size=start, headers=headers, expected_size=metadata.size)
        finally:
            stream.close()
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.rename(part, path)
        return stream.sha256.hexdigest()


def read_pieces(url: str, headers: Mapping[str, str]) -> Generator[Tuple[int, bytes], None, None]:
    """The status of an answer with each piece of its body; the first piece is empty."""
    from huggingface_hub.utils import get_session

    session: Any = get_session()
    if callable(getattr(session, "stream", None)):  # httpx, from huggingface_hub 1 on
        with session.stream("GET", url, headers=headers, timeout=30) as response:
            response.raise_for_status()
            yield response.status_code, b""
            for piece in response.iter_bytes():
                yield response.status_code, piece
    else:
        with session.get(url, headers=headers, timeout=30, stream=True) as response:
            response.raise_for_status()
            yield response.status_code, b""
            for piece in response.iter_content(1 << 16):
                yield response.status_code, piece


def load_library() -> None:
    """Import all that is used of the library, so that one that is missing or too old is found at once. Raises ImportError."""
    from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url  # noqa: F401
    from huggingface_hub.file_download import http_get  # noqa: F401
    from huggingface_hub.utils import build_hf_headers, get_session  # noqa: F401

    # The library's own 10 MB are fresh memory for each piece, and the kernel needs longer to provide it than to receive it.
    constants.DOWNLOAD_CHUNK_SIZE = 1 << 20


def carry_out(request: Mapping[str, Any]) -> Dict[str, Any]:
    """The answer to a request; ``error`` with kind and why where all of it failed."""
    try:
        load_library()
    except ImportError as exc:
        return {"error": {"kind": "client", "why": "{0}: {1}".format(sys.executable, exc)}}
    client = HubClient(request)
    try:
        return {"list": client.list_files, "ranges": client.fetch_ranges, "fetch": client.fetch_files}[request["act"]]()
    except Exception as exc:
        return {"error": {"kind": classify_error(exc), "why": describe_error(exc)}}


def end_with(parent: int) -> NoReturn:
    """End this process when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(9)


def main() -> NoReturn:
    request = json.loads(sys.stdin.read())
    # The library reads its environment when it is imported.
    os.environ.update(HF_HOME=request["home"], HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
    os.environ.pop("HF_TOKEN", None)
    if request["endpoint"]:
        os.environ["HF_ENDPOINT"] = request["endpoint"]
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    sys.stdout.write(json.dumps(carry_out(request)) + "\n")
    sys.stdout.flush()
    os._exit(0)  # threads that are cut off in a transfer are not waited for


if __name__ == "__main__":
    main()
