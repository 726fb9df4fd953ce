# SPDX-License-Identifier: GPL-3.0-or-later
"""Where weights come from, which files of a source are wanted, and whether the policy allows the source."""

from __future__ import annotations

import fnmatch
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import COMMIT, Origin, judge_origin
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.files import read_file
from ansible_collections.anvil.serving.plugins.module_utils.core.live_output import LiveOutput
from ansible_collections.anvil.serving.plugins.module_utils.core.printable import hide_credentials
from ansible_collections.anvil.serving.plugins.module_utils.weights.manifest import MANIFEST
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_record import OLD_STAGING
from ansible_collections.anvil.serving.plugins.module_utils.weights.uploads import ControllerFiles

HUB_OPTIONS: Dict[str, Any] = {
    "endpoint": {"type": "str"},
    "token": {"type": "str", "no_log": True},
    "token_file": {"type": "path", "no_log": False},
    "client": {"type": "path"},
}


@dataclass(frozen=True)
class Source:
    """Where weights come from. kind: hub (repo, revision, allow, ignore), url (url, sha256), copy (path, sha256), or
    upload (sha256): from the controller, whose paths mean nothing on this host.
    """

    kind: str
    repo: str = ""
    revision: str = ""
    allow: Tuple[str, ...] = ()
    ignore: Tuple[str, ...] = ()
    url: str = ""
    path: str = ""
    sha256: str = ""

    def as_dict(self) -> Dict[str, Any]:
        """As the records of models keep it: without the credentials in its URL."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items() if value}
        return clean_record(plain)


def clean_record(source: Mapping[str, Any]) -> Dict[str, Any]:
    """The source in a record, without the credentials that an earlier version kept in its URL."""
    return {**source, "url": hide_credentials(str(source["url"]))} if "url" in source else dict(source)


@dataclass(frozen=True)
class SourceFile:
    """A file as its source announces it: size in bytes, checksum; None where the source does not say."""

    size: Optional[int]
    sha256: Optional[str] = None
    blob: Optional[str] = None


@dataclass(frozen=True)
class FetchOptions:
    """How to fetch.

    endpoint: of the hub; empty for the library's own. client: interpreter with the hub's client library; empty for this one.
    timeout: seconds for the whole transfer. reserve_mib: MiB to leave free on the disk. refresh: follow a branch that moved.
    full: read every file of the present model. allowed: the policy; None allows every model. controller_files: what the
    controller has (upload). live_output: gets lines about the
    progress.
    """

    endpoint: str = ""
    token: str = ""
    client: str = ""
    workers: int = 4
    timeout: float = 21600.0
    reserve_mib: int = 1024
    refresh: bool = False
    full: bool = False
    allowed: Optional[Tuple[Origin, ...]] = None
    controller_files: Optional[ControllerFiles] = None
    live_output: LiveOutput = field(default_factory=lambda: LiveOutput(None))


def read_hub_options(params: Mapping[str, Any]) -> FetchOptions:
    """How to reach the hub, from the options of ``HUB_OPTIONS``. Raises AnvilError for a token file without a token."""
    token = params["token"] or ""
    if params["token_file"]:
        token = (read_file(params["token_file"]) or "").strip()
        if not token:
            raise fail(
                "the token file is empty or missing",
                where="token_file",
                why=params["token_file"],
                hint="write the access token of the hub into this file (mode 0600), or leave token_file out",
            )
    return FetchOptions(endpoint=params["endpoint"] or "", token=token, client=params["client"] or "")


def choose_files(names: Sequence[str], allow: Sequence[str], ignore: Sequence[str]) -> List[str]:
    """The names that match a pattern of ``allow`` (none: all do) and none of ``ignore``; ``dir/`` means all files below it."""

    def matches(name: str, patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(name, word + "*" if word.endswith("/") else word) for word in patterns)

    return sorted(name for name in names if (not allow or matches(name, allow)) and not matches(name, ignore))


def check_file_name(name: str) -> None:
    """Raise AnvilError for a name that leads out of the model's folder, or is the name of one of our own files."""
    parts = name.split("/")
    if (
        not name
        or "\0" in name
        or "\\" in name
        or any(part in ("", ".", "..") for part in parts)
        or parts[0] in (MANIFEST, OLD_STAGING)
    ):
        raise fail(
            "the source has a file with a name that is not allowed",
            where=repr(name),
            why="it leads out of the model's folder, or replaces a file of anvil_model",
            hint="do not use this source: it tries to write elsewhere",
        )


def check_allowed(name: str, source: Source, commit: str, allowed: Optional[Sequence[Origin]]) -> None:
    """Raise AnvilError for a source that the policy does not allow. commit: of a repository; empty while it is not known."""
    if allowed is None:
        return
    pinned = commit or (source.revision if COMMIT.fullmatch(source.revision) else "")
    if source.kind == "hub" and not pinned and any(entry.repo == source.repo for entry in allowed):
        return  # the commit decides, once the hub has resolved the branch or tag
    origin = Origin(source.repo, pinned or source.revision) if source.kind == "hub" else Origin(sha256=source.sha256)
    problem = judge_origin(name, origin, allowed)
    if problem is not None:
        raise AnvilError(problem)
