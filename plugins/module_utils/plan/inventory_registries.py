# SPDX-License-Identifier: GPL-3.0-or-later
"""Check ``anvil_registries``: the registries that a host logs in to. The role ``registries`` does the login."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_secrets import InventorySecrets
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import UNREAD, InventoryCheck

# The key is what ``docker login`` takes: a host with its port, or the address of Docker Hub.
REGISTRY = re.compile(r"(https?://)?[A-Za-z0-9.-]+(:[0-9]{1,5})?(/v[12]/?)?|\[[0-9A-Fa-f:]+\](:[0-9]{1,5})?")
REGISTRY_RULE = "a host name with its port, as in the names of its images: registry.example.com:5000"
REGISTRY_KEYS = ("username", "password")
EXAMPLE = "anvil_registries: {registry.example.com: {username: ci, password: registry_token}}"


def check_registries(check: InventoryCheck, value: Any, secrets: InventorySecrets) -> None:
    """Report every mistake. ``password`` names an entry of ``anvil_secrets``, so that it cannot be in clear text."""
    section = check.read_mapping(("anvil_registries",), value, EXAMPLE)
    for name, path, raw in section.read_entries(REGISTRY, REGISTRY_RULE) if section else ():
        inner = check.read_mapping(path, {} if raw is None else raw, EXAMPLE)
        if inner is None:
            continue
        inner.check_keys(REGISTRY_KEYS)
        inner.read_text("username", "the user of the registry, such as ci")
        secrets.read_secret_name(inner.path_of("password"), inner.raw.get("password"))
        for key in REGISTRY_KEYS:
            if not inner.has(key) and inner.raw.get(key) is not UNREAD:
                inner.add_problem(key, "registry {0} has no {1}".format(name, key), "for example: " + EXAMPLE)
