# SPDX-License-Identifier: GPL-3.0-or-later
"""The errors of fetching weights: each kind with its message and what to do about it. Pure."""

from __future__ import annotations

from typing import Dict, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem

# kind -> what failed, what to do. {server} is the hub, or the server of a URL.
_MESSAGES: Dict[str, Tuple[str, str]] = {
    "client": (
        "the Hugging Face client is missing",
        "run the role anvil.serving.models, which installs it into a virtual environment, and set client to the python of that "
        "environment; or type on this host, with the python that Ansible uses: python3 -m pip install huggingface_hub",
    ),
    "gated": (
        "the repository is gated",
        "accept its terms on the hub with the account that owns the token, then run again",
    ),
    "token": ("{server} refuses the token", "set token or token_file to a token that may read this repository"),
    "missing": ("there is no such repository", "correct repo; a private repository needs a token that may read it"),
    "revision": ("there is no such revision", "set revision to a branch, a tag or a commit of the repository"),
    "entry": ("a file is not in the repository", "check allow and ignore against the files of the repository"),
    "disk": ("the disk is full", "free some space, then run again: what was fetched is kept, and the next run resumes it"),
    "space": (
        "the transfer was stopped, because the disk is about to be full",
        "free some space or lower reserve_mib, then run again: what was fetched is kept, and the next run resumes it",
    ),
    "cut": ("the download was cut short", "run again: what was fetched is kept, and the next run resumes it"),
    "offline": (
        "{server} cannot be reached",
        "check the network, the proxy and the address; or copy the weights to the host yourself and use copy_from. "
        "What was fetched is kept, and the next run resumes it",
    ),
    "checksum": (
        "a file does not have the checksum that the hub announces",
        "run again: the file was removed and the others are kept. If it happens again, a proxy or mirror alters files",
    ),
    "sha256": (
        "the file does not have the checksum that sha256 gives",
        "correct sha256 if the publisher of the file gives another one, or copy the right file to the host; then run again",
    ),
    "hub": ("{server} does not answer as expected", "run again later: what was fetched is kept"),
}

# These are about the repository or the request itself; the others are about the way to the hub.
REFUSALS = ("gated", "token", "missing", "revision", "entry")


class FetchError(AnvilError):
    """An error of fetching. kind: a key of its own for each cause."""

    def __init__(self, kind: str, problem: Problem) -> None:
        super().__init__(problem)
        self.kind = kind


def build_fetch_error(kind: str, where: str, why: str, server: str = "the hub") -> FetchError:
    """The error of one kind; a kind that is not known counts as ``hub``."""
    what, hint = _MESSAGES.get(kind, _MESSAGES["hub"])
    return FetchError(kind, Problem(what.format(server=server), where, " ".join(why.split())[:500], hint))
