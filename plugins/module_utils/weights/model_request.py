# SPDX-License-Identifier: GPL-3.0-or-later
"""The request of a task of anvil_model: its options, cross-checked, with every mistake at once."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, List, Mapping, Optional

from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import REPO, SHA256, read_allowed
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.core.live_output import LiveOutput
from ansible_collections.anvil.serving.plugins.module_utils.weights.source import FetchOptions, Source, read_hub_options
from ansible_collections.anvil.serving.plugins.module_utils.weights.uploads import Piece, read_controller_files


@dataclass(frozen=True)
class ModelRequest:
    """state: present, verified or absent. source: None where the task gives none. layout: folder, or hub_cache.

    piece: a piece of a file that came from the controller. predict_only: report what is needed, in every mode.
    """

    state: str
    name: str
    folder: Optional[str]
    volume: Optional[str]
    source: Optional[Source]
    options: FetchOptions
    layout: str = "folder"
    piece: Optional[Piece] = None
    predict_only: bool = False


def _read_source(params: Mapping[str, Any], problems: List[Problem]) -> Optional[Source]:
    sha256 = params["sha256"].lower()
    if params["repo"]:
        if not REPO.fullmatch(params["repo"]):
            problems.append(
                Problem("not the name of a repository of the hub", "repo", repr(params["repo"]), "such as openai/gpt-oss-120b")
            )
        allow, ignore = tuple(params["allow"]), tuple(params["ignore"])
        return Source("hub", repo=params["repo"], revision=params["revision"], allow=allow, ignore=ignore)
    if params["url"]:
        if not SHA256.fullmatch(sha256):
            problems.append(
                Problem("a URL needs the sha256 of its file", "sha256", repr(params["sha256"]), "give its 64 hexadecimal digits")
            )
        if not params["url"].startswith(("https://", "http://")):
            problems.append(
                Problem(
                    "the URL cannot be fetched", "url", params["url"].split(":")[0], "give an address that begins with https://"
                )
            )
        return Source("url", url=params["url"], sha256=sha256)
    if params["upload_from"]:
        if not params["handover"]:
            problems.append(
                Problem(
                    "only a task can send weights from the controller",
                    "upload_from",
                    hint="call anvil_model in a playbook: its action plugin sends them",
                )
            )
        return Source("upload", sha256=sha256)
    if params["copy_from"]:
        if sha256 and (not SHA256.fullmatch(sha256) or os.path.isdir(params["copy_from"])):
            problems.append(
                Problem(
                    "not the checksum of an archive or file",
                    "sha256",
                    repr(params["sha256"]),
                    "give 64 hexadecimal digits; leave it out for a folder",
                )
            )
        return Source("copy", path=params["copy_from"], sha256=sha256)
    if params["state"] == "present":
        problems.append(Problem("no source is given", "anvil_model", hint="give one of repo, url, copy_from, upload_from"))
    return None


def read_request(params: Mapping[str, Any], live_output: LiveOutput) -> ModelRequest:
    """The options of a task. Raises AnvilError with every mistake."""
    problems: List[Problem] = []
    handover = params["handover"] or {}
    source = _read_source(params, problems)
    name = params["name"] or params["repo"]
    if not name:
        problems.append(Problem("the model has no name", "name", hint="give name; it can be left out only with repo"))
    if params["layout"] == "hub_cache" and (not params["repo"] or name != params["repo"]):
        hint = "give repo and no name, or leave layout out"
        problems.append(
            Problem("a hub cache holds repositories of the hub only", "layout", "repo: {0}".format(params["repo"]), hint)
        )
    hub = FetchOptions()
    try:
        hub = read_hub_options(params)
    except AnvilError as exc:
        problems.extend(exc.problems)
    if problems:
        raise AnvilError(*problems)
    options = replace(
        hub,
        workers=max(1, params["workers"]),
        timeout=params["timeout"],
        reserve_mib=params["reserve_mib"],
        refresh=params["refresh"],
        full=params["verify"] == "full",
        allowed=read_allowed(params["allowed"]),
        controller_files=read_controller_files(handover["announced"]) if handover.get("announced") else None,
        live_output=live_output,
    )
    piece = Piece(**handover["piece"]) if handover.get("piece") else None
    predict_only = handover.get("step") == "ask"
    return ModelRequest(
        params["state"], name, params["folder"], params["volume"], source, options, params["layout"], piece, predict_only
    )
