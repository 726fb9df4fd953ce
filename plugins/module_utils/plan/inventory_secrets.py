# SPDX-License-Identifier: GPL-3.0-or-later
"""Check ``anvil_secrets``: the names of secrets, which keys use them, and how each is stored. No value is read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    UNREAD,
    InventoryCheck,
    Path,
    describe_type,
    find_similar,
    format_path,
    suggest_name,
)

SECRET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass
class InventorySecrets:
    """The names in ``anvil_secrets``. names: None if they could not be read. used: name -> the first key that uses it."""

    check: InventoryCheck
    names: Optional[Tuple[str, ...]]
    used: Dict[str, Path] = field(default_factory=dict)

    def read_secret_name(self, path: Path, value: Any) -> str:
        """The name of a secret at a key. A value that is not a known name may be the secret itself, so no message shows it."""
        if value is None or value is UNREAD:
            return ""
        if not isinstance(value, str):
            self.check.add_problem(
                path,
                "must be the name of a secret, not {0}".format(describe_type(value)),
                "use the name of an entry of anvil_secrets",
            )
            return ""
        if self.names is None or value in self.names:
            self.used.setdefault(str(value), path)
            return str(value)
        shown = (
            repr(str(value))
            if find_similar(value, self.names) or re.fullmatch(r"[a-z]+(_[a-z]{1,12}){1,3}", value)
            else "the value"
        )
        self.check.add_problem(
            path,
            "{0} is not the name of a secret in anvil_secrets".format(shown),
            suggest_name(value, self.names, "add it to anvil_secrets")
            + " (this key takes the name of an entry, never the secret itself)",
        )
        return ""


def read_secrets(check: InventoryCheck, value: Any) -> InventorySecrets:
    path: Path = ("anvil_secrets",)
    if value is UNREAD:
        return InventorySecrets(check, None)
    section = check.read_mapping(path, value, "anvil_secrets: {router_token: \"{{ lookup('ansible.builtin.file', '…') }}\"}")
    if section is None:
        return InventorySecrets(check, () if value is None else None)
    rule = "letters, digits and _, not starting with a digit"
    return InventorySecrets(check, tuple(name for name, _path, _value in section.read_entries(SECRET_NAME, rule)))


def check_secrets(secrets: InventorySecrets, facts: Mapping[str, str], required: bool) -> None:
    """Refuse secrets in clear text, and used secrets without a value. facts: how each one is stored, as for ``build_plan``."""
    for name in secrets.names or ():
        fact, path = facts.get(name, "the way it is stored is unknown"), ("anvil_secrets", name)
        if fact == "clear":
            secrets.check.add_problem(
                path,
                "the secret is written in clear text",
                "encrypt it (ansible-vault encrypt_string --name {0}), or put it into a file of mode 0600 and write "
                "\"{{{{ lookup('ansible.builtin.file', '/path/to/it') }}}}\"".format(name),
                "everyone who can read the inventory or its history can read the secret",
            )
        elif name not in secrets.used:
            secrets.check.add_note(path, "no key uses this secret")
        elif fact not in ("vault", "file"):
            user = format_path(secrets.used[name])
            if required:
                secrets.check.add_problem(
                    path,
                    "the secret has no value, and {0} needs it".format(user),
                    "create the file that the lookup reads (mode 0600), or pass --vault-password-file",
                    fact,
                )
            else:
                secrets.check.add_note(path, "the secret has no value yet, and {0} needs it: {1}".format(user, fact))
