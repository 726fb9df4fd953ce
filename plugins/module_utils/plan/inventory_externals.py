# SPDX-License-Identifier: GPL-3.0-or-later
"""Check ``anvil_external``: servers that this collection does not manage, as backends for tiers."""

from __future__ import annotations

from typing import Any, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.served_kinds import CHAT, KINDS
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import HOST_GATEWAY
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import ExternalPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_external_start import (
    ENGINE,
    EXTERNAL_START_KEYS,
    read_start,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_secrets import InventorySecrets
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    ABSOLUTE,
    CONTAINER,
    NAME,
    NAME_RULE,
    NO_SPACE,
    UNREAD,
    InventoryCheck,
    Section,
)

EXTERNAL_KEYS = ("port", "served_name", "api_key", "host", "kind", "tls", *EXTERNAL_START_KEYS)
EXTERNAL_TLS_KEYS = ("ca",)


def read_externals(
    check: InventoryCheck, value: Any, names: Sequence[str], secrets: InventorySecrets
) -> Tuple[ExternalPlan, ...]:
    """Read ``anvil_external``: servers on the host or elsewhere that this collection does not manage."""
    example = "anvil_external: {mac: {port: 8081}}"
    section = check.read_mapping(("anvil_external",), value, example)
    found = []
    for name, path, raw in section.read_entries(NAME, NAME_RULE) if section else ():
        inner = check.read_mapping(path, {} if raw is None else raw, example)
        if inner is None:
            continue
        inner.check_keys(EXTERNAL_KEYS)
        port = inner.read_integer("port", 1, 65535)
        if not inner.has("port"):
            check.add_problem(
                inner.path_of("port"),
                "external server {0} has no port".format(name),
                "set it to the port that the server listens on, such as 8081",
            )
        if name in names:
            check.add_problem(path, "{0} is also the name of a serve".format(name), "choose another name")
            continue
        host = (
            inner.read_text("host", "a host name or an address; without it, {0}".format(HOST_GATEWAY), CONTAINER) or HOST_GATEWAY
        )
        rule = "one word without spaces: the name of the model that it serves"
        served_name = inner.read_text("served_name", rule, NO_SPACE) or name
        tls, ca = _read_tls(inner, host)
        start, args = read_start(inner, served_name, port or 0, host != HOST_GATEWAY)
        found.append(
            ExternalPlan(
                name=name,
                container=host,
                port=port or 0,
                served_name=served_name,
                engine=ENGINE if start and not inner.has("command") else "",
                args=args,
                start=start,
                api_key=secrets.read_secret_name(inner.path_of("api_key"), inner.raw.get("api_key")),
                kind=inner.read_choice("kind", KINDS) or CHAT,
                tls=tls,
                ca=ca,
            )
        )
        check.add_note(path, "this server is not managed: it gets requests, but is never started, stopped or restarted")
    _check_one_ca(check, found)
    return tuple(found)


def _read_tls(section: Section, host: str) -> Tuple[bool, str]:
    """``tls: true``, or ``tls: {ca: FILE}``: (whether the server speaks HTTPS, the file with the certificates to trust)."""
    value = section.raw.get("tls")
    if value is None or value is UNREAD or isinstance(value, bool):
        tls, ca = bool(value) and value is not UNREAD, ""
    else:
        inner = section.check.read_mapping(section.path_of("tls"), value, "tls: true, or tls: {ca: /etc/anvil-tls/ca.pem}")
        if inner is None:
            return False, ""
        inner.check_keys(EXTERNAL_TLS_KEYS)
        rule = "an absolute path on the host of the router, such as /etc/anvil-tls/ca.pem"
        tls, ca = True, inner.read_text("ca", rule, ABSOLUTE) or ""
    if tls and host == HOST_GATEWAY:
        hint = "set host to the name or address that its certificate is for"
        section.add_problem("tls", "no certificate is for {0}".format(HOST_GATEWAY), hint)
    return tls, ca


def _check_one_ca(check: InventoryCheck, externals: Sequence[ExternalPlan]) -> None:
    """A router trusts one file of certificates."""
    files = sorted({external.ca for external in externals if external.ca})
    for external in externals:
        if external.ca and external.ca != files[0]:
            check.add_problem(
                ("anvil_external", external.name, "tls"),
                "the router can trust one file of certificates, and {0} is another one than {1}".format(external.ca, files[0]),
                "put the certificates of both into one file",
            )
