# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``anvil_secrets``: their names, who uses them, and how each is held. No value is ever looked at."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    UNREAD,
    Check,
    Path,
    kind_of,
    nearest,
    path_text,
    suggest,
)

SECRET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass
class Secrets:
    """The names of ``anvil_secrets`` and who uses them. names is None when they could not be read."""

    check: Check
    names: Optional[Tuple[str, ...]]
    used: Dict[str, Path] = field(default_factory=dict)

    def name_at(self, path: Path, value: Any) -> str:
        """The name of a secret. A value that is no known name may be the secret itself: it is not shown."""
        if value is None or value is UNREAD:
            return ""
        if not isinstance(value, str):
            self.check.wrong(path, "the name of a secret is wanted, not {0}".format(kind_of(value)), "an entry of anvil_secrets")
            return ""
        if self.names is None or value in self.names:
            self.used.setdefault(str(value), path)
            return str(value)
        shown = (
            repr(str(value))
            if nearest(value, self.names) or re.fullmatch(r"[a-z]+(_[a-z]{1,12}){1,3}", value)
            else "what is given"
        )
        self.check.wrong(
            path,
            "{0} is not the name of a secret in anvil_secrets".format(shown),
            suggest(value, self.names, "add it to anvil_secrets") + "; the name of an entry goes here, never the secret",
        )
        return ""


def read_secrets(check: Check, value: Any) -> Secrets:
    path: Path = ("anvil_secrets",)
    if value is UNREAD:
        return Secrets(check, None)
    node = check.mapping(path, value, "anvil_secrets: {router_token: \"{{ lookup('ansible.builtin.file', '…') }}\"}")
    if node is None:
        return Secrets(check, () if value is None else None)
    rule = "use letters, digits and _, starting with a letter"
    return Secrets(check, tuple(name for name, _path, _value in node.entries(SECRET_NAME, rule)))


def check_secrets(secrets: Secrets, facts: Mapping[str, str], required: bool) -> None:
    """How each secret is held: see ``build_plan``."""
    for name in secrets.names or ():
        fact, path = facts.get(name, "nothing is known of how it is held"), ("anvil_secrets", name)
        if fact == "clear":
            secrets.check.wrong(
                path,
                "the secret is written in clear",
                "encrypt it (ansible-vault encrypt_string --name {0}) or keep it in a file of mode 0600 and write "
                "\"{{{{ lookup('ansible.builtin.file', '/path/to/it') }}}}\"".format(name),
                "whoever reads the inventory, its history or the process list can read it",
            )
        elif name not in secrets.used:
            secrets.check.note(path, "nobody uses it")
        elif fact not in ("vault", "file"):
            user = path_text(secrets.used[name])
            if required:
                secrets.check.wrong(
                    path,
                    "the secret cannot be read; {0} needs it".format(user),
                    "create the file that the lookup names (mode 0600), or give --vault-password-file",
                    fact,
                )
            else:
                secrets.check.note(path, "has no value yet, and {0} needs it: {1}".format(user, fact))
