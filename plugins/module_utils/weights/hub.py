# SPDX-License-Identifier: GPL-3.0-or-later
"""The Hugging Face hub, through its own client library in a process of its own.

The client runs under an interpreter that has ``huggingface_hub`` (a managed virtual environment on the host, or the module's
own interpreter), so that a module with nothing to fetch never imports it. The token travels through standard input only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any, Callable, Dict, Mapping, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.program_source import read_source
from ansible_collections.anvil.serving.plugins.module_utils.weights.fetch_errors import build_fetch_error
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import ModelLocation
from ansible_collections.anvil.serving.plugins.module_utils.weights.source import (
    FetchOptions,
    Source,
    SourceFile,
    check_file_name,
    choose_files,
)

LISTING_SECONDS = 120.0


def run_client(
    client: str, request: Mapping[str, Any], timeout: float, tick: Callable[[], None] = lambda: None
) -> Dict[str, Any]:
    """Send one request to the client and return its answer. Raises AnvilError.

    client: the interpreter that has the library; empty for this one. timeout: seconds for all of it. tick: called about once
    a second.
    """
    from ansible_collections.anvil.serving.plugins.module_utils.weights.programs import hub_client

    where = "{0}@{1}".format(request["repo"], request["revision"])
    # Without Python's variables, which AnsiballZ has set; the variables of proxies and CA certificates stay.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    deadline = time.monotonic() + timeout
    client = client or sys.executable
    try:
        process = subprocess.Popen(
            [client, "-c", read_source(hub_client)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
    except OSError as exc:
        raise build_fetch_error("client", where, "{0}: {1}".format(client, exc.strerror)) from exc
    body: Any = json.dumps(request).encode("utf-8")
    while True:
        try:
            output, log = process.communicate(body, timeout=1.0)
            break
        except subprocess.TimeoutExpired:
            body = None
            try:
                tick()
            except AnvilError:
                process.kill()
                process.communicate()
                raise
            if time.monotonic() > deadline:
                process.kill()
                process.communicate()
                raise build_fetch_error("cut", where, "not finished within {0:g} s".format(timeout)) from None
    try:
        answer: Dict[str, Any] = json.loads(output.decode("utf-8").splitlines()[-1])
    except (ValueError, IndexError):
        token = str(request["token"] or "")
        lines = log.decode("utf-8", "replace")
        lines = lines.replace(token, "***") if token else lines
        raise fail(
            "the Hugging Face client ended without an answer",
            where=where,
            why="{0} ended with exit code {1}".format(client, process.returncode),
            hint="read the end of its log below; then run again: what was fetched is kept",
            log=lines.splitlines()[-10:],
        ) from None
    if "error" in answer:
        raise build_fetch_error(answer["error"]["kind"], where, answer["error"]["why"])
    return answer


def build_request(act: str, location: ModelLocation, source: Source, options: FetchOptions) -> Dict[str, Any]:
    """A request to the client. act: ``list``, ``ranges`` (needs ``spans`` too) or ``fetch`` (needs ``files`` too)."""
    return {
        "act": act,
        "repo": source.repo,
        "revision": source.revision,
        "endpoint": options.endpoint,
        "token": options.token,
        "home": location.home,
        "folder": location.files,
        "parts": location.parts,
        "workers": options.workers,
    }


def list_repository(location: ModelLocation, source: Source, options: FetchOptions) -> Tuple[str, Dict[str, SourceFile]]:
    """The commit that the revision is now, and the chosen files of it."""
    listed = run_client(options.client, build_request("list", location, source, options), LISTING_SECONDS)
    names = choose_files(listed["files"], source.allow, source.ignore)
    for name in names:
        check_file_name(name)
    if not names:
        raise fail(
            "no file of the repository matches",
            where=source.repo,
            why="the repository holds " + (", ".join(sorted(listed["files"])[:8]) or "no files"),
            hint="correct allow and ignore",
        )
    return str(listed["commit"]), {name: SourceFile(**listed["files"][name]) for name in names}


def fetch_from_hub(
    location: ModelLocation,
    source: Source,
    commit: str,
    wanted: Mapping[str, SourceFile],
    options: FetchOptions,
    tick: Callable[[], None],
) -> Dict[str, Dict[str, Any]]:
    """Fetch files into the staging folder. Returns size and sha256 of each; raises AnvilError with every failure."""
    request = build_request("fetch", location, source, options)
    request.update(revision=commit, files={name: asdict(file) for name, file in wanted.items()})
    answer = run_client(options.client, request, options.timeout, tick)
    problems = [
        build_fetch_error(failure["kind"], "{0}: {1}".format(source.repo, failure["file"]), failure["why"]).problems[0]
        for failure in answer["failures"]
    ]
    if problems:
        raise AnvilError(*problems)
    return dict(answer["files"])
