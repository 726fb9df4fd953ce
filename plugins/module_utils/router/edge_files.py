# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of an edge's revision: HAProxy's configuration, its maps, and the private ones with certificates and keys."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import PRIVATE
from ansible_collections.anvil.serving.plugins.module_utils.router.certificate_files import (
    Certificate,
    describe_expiry,
    read_certificate,
)
from ansible_collections.anvil.serving.plugins.module_utils.router.drained_backends import mark_drained
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import Edge
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_layout import (
    CA_NAME,
    CONFIG_FOLDER,
    CONFIG_HASH,
    CONFIG_NAME,
    name_certificate,
)

# Shorter keys can be guessed: the edge limits guesses per address, not in all.
SHORTEST_KEY = 20


@dataclass(frozen=True)
class EdgeFiles:
    """The files of a revision, and what an operator should know about them. expiry: file of a certificate -> its last day."""

    texts: Dict[str, str]
    warnings: Tuple[str, ...]
    expiry: Dict[str, str]


def assemble_files(options: Mapping[str, Any]) -> EdgeFiles:
    """All files of a revision, from the options of ``anvil_router_edge``. Raises AnvilError with every problem."""
    problems: List[Problem] = []
    found: List[Certificate] = []
    for each in options["certificates"]:
        try:
            found.append(read_certificate(str(each["certificate"]), str(each.get("key") or "")))
        except AnvilError as exc:
            problems += exc.problems
    clients, servers, secrets = options["clients"], options["servers"], options["secrets"]
    warnings = [text for each in found for text in each.warnings]
    texts = {str(name): str(text) for name, text in options["maps"].items()}
    if clients:
        texts[PRIVATE + "clients.map"] = _list_clients(clients, secrets, problems, warnings)
    if servers:
        texts[PRIVATE + "servers.map"] = _list_servers(servers, secrets, problems)
    if options.get("ca"):
        texts[CA_NAME] = _read_authorities(str(options["ca"]), problems)
    if problems:
        raise AnvilError(*problems)
    for number, certificate in enumerate(found):
        texts[name_certificate(number)[len(CONFIG_FOLDER) + 1 :]] = certificate.text
    told = {each.source: describe_expiry(each.source, each.expires, time.time()) for each in found}
    config = rest_servers(str(options["config"]), options.get("resting") or ())
    # The mark of a drained backend is no part of the hash: the running process was told, and has read all other files.
    texts[CONFIG_NAME] = mark_drained(seal_config(config, texts) if texts else config, options.get("drained") or {})
    expiry = {source: day for source, (day, _warning) in told.items()}
    return EdgeFiles(texts, (*warnings, *(text for _day, text in told.values() if text)), expiry)


def _read_authorities(path: str, problems: List[Problem]) -> str:
    """The certificates that the edges of other hosts must be signed by."""
    try:
        with open(path, encoding="ascii") as stream:
            text = stream.read()
    except (OSError, ValueError) as exc:
        problems.append(Problem("the certificates of anvil_edge.ca cannot be read", path, str(exc), "put the PEM file there"))
        return ""
    if "-----BEGIN CERTIFICATE-----" not in text:
        problems.append(Problem("the file of anvil_edge.ca has no certificate", path, hint="it must be a PEM file"))
    if "PRIVATE KEY-----" in text:
        problems.append(Problem("the file of anvil_edge.ca has a private key", path, hint="name a file with certificates only"))
    return text


def rest_servers(config: str, names: Sequence[str]) -> str:
    """The configuration with these servers disabled: they get no request until another one is promoted."""
    lines = config.split("\n")
    heads = tuple("    server {0} ".format(name) for name in names)
    return "\n".join(line + " disabled" if heads and line.startswith(heads) else line for line in lines)


def read_server_key(edge: Edge, backend: str) -> str:
    """The key that a running edge presents to the servers of a backend; empty if it presents none."""
    if not edge.docker.read_archive(edge.container, CONFIG_FOLDER + "/" + PRIVATE + "servers.map"):
        return ""
    lines = edge.read_file(CONFIG_FOLDER + "/" + PRIVATE + "servers.map").splitlines()
    return next((key for name, _space, key in (line.partition(" ") for line in lines) if name == backend), "")


def seal_config(config: str, others: Mapping[str, str]) -> str:
    """The configuration with a hash of all files in its description: the running process reports which files it has read."""
    digest = hashlib.sha256(config.encode("utf-8"))
    for name in sorted(others):
        digest.update("\0{0}\0{1}".format(name, others[name]).encode("utf-8"))
    return CONFIG_HASH.sub("description anvil " + digest.hexdigest(), config, count=1)


def _list_clients(
    clients: Mapping[str, Sequence[str]], secrets: Mapping[str, str], problems: List[Problem], warnings: List[str]
) -> str:
    """One line for each key: its digest, and the client that holds it."""
    lines: Dict[str, str] = {}
    for name in sorted(clients):
        for secret in clients[name]:
            key = _read_key(secret, "client " + name, secrets, problems)
            digest = hashlib.sha256(key.encode("utf-8")).hexdigest()
            owner = lines.setdefault(digest, name)
            if key and owner != name:
                what = "clients {0} and {1} have the same key".format(owner, name)
                problems.append(Problem(what, "secret " + secret, hint="give each client a key of its own"))
            if key and len(key) < SHORTEST_KEY:
                told = "the key of client {0} (secret {1}) has fewer than {2} characters and could be guessed; a new one: {3}"
                warnings.append(told.format(name, secret, SHORTEST_KEY, "openssl rand -hex 32"))
    return "".join("{0} {1}\n".format(digest, lines[digest]) for digest in sorted(lines))


def _list_servers(servers: Mapping[str, str], secrets: Mapping[str, str], problems: List[Problem]) -> str:
    """One line for each backend: the key that the edge presents to its servers."""
    keys = {backend: _read_key(servers[backend], "backend " + backend, secrets, problems) for backend in sorted(servers)}
    return "".join("{0} {1}\n".format(backend, key) for backend, key in keys.items())


def _read_key(secret: str, where: str, secrets: Mapping[str, str], problems: List[Problem]) -> str:
    """The value of a secret, fit for an HTTP header; empty after a reported problem."""
    value = str(secrets.get(secret) or "")
    if not value:
        problems.append(Problem("secret {0} has no value".format(secret), where, hint="set it in anvil_secrets"))
    elif not (value.isascii() and value.isprintable()) or " " in value:
        why = "it holds characters that a key in an HTTP header may not have"
        problems.append(
            Problem("secret {0} cannot be a key".format(secret), where, why, "use letters and digits: openssl rand -hex 32")
        )
        return ""
    return value
