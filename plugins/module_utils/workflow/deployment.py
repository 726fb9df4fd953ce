# SPDX-License-Identifier: GPL-3.0-or-later
"""The deployment of one workflow: the parameters of anvil_workflow, checked, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Project, read_project

CERTIFICATE = "certificate"


@dataclass(frozen=True)
class Deployment:
    """The wanted state of one workflow on its host.

    private: name -> value of the private files whose values come from the controller. generated: names of the private files
    that the host fills at random, once. replicas: services behind the edge, empty without an edge. edge: its container, empty
    without an edge. drain_timeout, ready_timeout: seconds for one replica.
    """

    project: Project
    private: Mapping[str, str] = field(default_factory=dict, repr=False)
    generated: Tuple[str, ...] = ()
    replicas: Tuple[str, ...] = ()
    edge: str = ""
    drain_timeout: float = 60.0
    ready_timeout: float = 120.0


def read_deployment(params: Mapping[str, Any]) -> Deployment:
    """The parameters of anvil_workflow as a Deployment. Raises AnvilError for a private file that has no value."""
    project = read_project(params["project"], params["secrets"], ())
    given = {**params, CERTIFICATE: read_certificate(params["tls"] or {})}
    needed = {name for names in params["private"].values() for name in names}
    private = {name: str(given[name]) for name in ("api_key", CERTIFICATE, "model_key") if name in needed}
    missing = sorted(name for name, value in private.items() if not value)
    if missing:
        raise AnvilError(*(Problem("no value is given", name, hint="set workflow_" + name) for name in missing))
    return Deployment(
        project=project,
        private=private,
        generated=tuple(sorted(needed - set(private))),
        replicas=tuple(params["replicas"]),
        edge=str(params["edge"]),
        drain_timeout=float(params["drain_timeout"]),
        ready_timeout=float(params["ready_timeout"]),
    )


def read_certificate(tls: Mapping[str, Any]) -> str:
    """The certificates and the key of ``tls``, files of this host, in one text; empty without them. Raises AnvilError."""
    texts, problems = [], []
    for name in ("certificate", "key"):
        path = str(tls.get(name) or "")
        if not path:
            continue
        text = files.read_file(path)
        if text is None or "-----BEGIN " not in text:
            why = "it does not exist" if text is None else "it holds no PEM"
            hint = "set workflow_tls to PEM files of the host"
            problems.append(Problem("the {0} cannot be used".format(name), path, why, hint))
        texts.append((text or "").strip() + "\n")
    if problems:
        raise AnvilError(*problems)
    return "".join(texts)


def read_project_to_remove(raw: Mapping[str, Any]) -> Project:
    """The project of a workflow that is removed, stopped or started. The values of its secrets are not needed for that."""
    anvil = [service.get("anvil") or {} for service in (raw.get("services") or {}).values()]
    unknown: Dict[str, str] = {name: "unknown" for one in anvil for name in (one.get("secrets") or {}).values()}
    return read_project(raw, unknown, ())
