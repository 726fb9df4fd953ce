# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read a host's variables one by one, and tell where each was written and how each secret is held.

Ansible 2.19 tags every value with its origin. The tags are not a public interface: where they are missing, a secret
counts as held in a file and no line is named, and all else works as before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jinja2
from ansible.errors import AnsibleError, AnsibleTemplateSyntaxError, AnsibleValueOmittedError
from ansible.template import is_trusted_as_template
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import UNREAD, describe_type, format_path

try:
    from ansible._internal._datatag._tags import Origin, VaultedValue
    from ansible.parsing.vault import EncryptedString
except ImportError:
    Origin = VaultedValue = EncryptedString = None

VAULT_HEADER = b"$ANSIBLE_VAULT"
KeyPath = tuple[str | int, ...]
STEP = re.compile(r"\.?([\w-]+)|\[(\d+)\]")


@dataclass
class Reading:
    """The host's ``anvil_*`` variables, templated; and what could not be.

    raw: as written, with the tags. values: ``UNREAD`` stands where a template failed. secrets: name -> value.
    facts: how each secret is held, for ``build_plan``.
    """

    raw: dict[str, Any]
    values: dict[str, Any] = field(default_factory=dict)
    secrets: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_variables(templar: Any, raw: Mapping[str, Any]) -> Reading:
    """Template each variable by itself, so that one that fails does not hide the mistakes in the others."""
    reading = Reading(raw=dict(raw))
    for name, value in raw.items():
        if name == "anvil_secrets":
            _read_secrets(reading, templar, value)
        else:
            reading.values[name] = _read(reading, templar, (name,), value)
            reading.problems.extend(_vaulted(reading.values[name], (name,)))
    return reading


def _read(reading: Reading, templar: Any, path: KeyPath, raw: Any) -> Any:
    try:
        return templar.template(raw)
    except AnsibleValueOmittedError:
        return None
    except AnsibleError as error:
        if isinstance(raw, Mapping):
            return {key: _read(reading, templar, (*path, str(key)), value) for key, value in raw.items()}
        if isinstance(raw, list):
            return [_read(reading, templar, (*path, number), value) for number, value in enumerate(raw)]
        reading.problems.append(
            Problem(
                what="the value cannot be worked out",
                where=format_path(path),
                why=str(error),
                hint="mend the template, or define what it refers to",
            )
        )
        return UNREAD


def _read_secrets(reading: Reading, templar: Any, raw: Any) -> None:
    """``anvil_secrets``, entry by entry: a missing file must not hide how the others are held."""
    if not isinstance(raw, Mapping):
        whole = _read(reading, templar, ("anvil_secrets",), raw)
        reading.values["anvil_secrets"] = whole if whole is UNREAD or isinstance(whole, Mapping) else [describe_type(whole)]
        if whole is None or not isinstance(whole, Mapping):
            if whole is None:
                reading.values["anvil_secrets"] = None
            return
        raw = whole
    else:
        reading.values["anvil_secrets"] = raw
    for name, entry in raw.items():
        try:
            value = templar.template(entry)
        except AnsibleError as error:
            # A syntax error quotes the template, and with it perhaps a secret.
            broken = isinstance(error, AnsibleTemplateSyntaxError)
            reading.facts[name] = "its template is broken" if broken else str(error)
            continue
        reading.secrets[name] = value
        reading.facts[name] = how_held(templar, entry, value)
    reading.values["anvil_secrets"] = {name: reading.secrets.get(name) for name in raw}


def _tag(kind: Any, value: Any) -> Any:
    return None if kind is None else kind.get_tag(value)


def _in_vaulted_file(origin: Any) -> bool:
    try:
        with Path(origin.path).open("rb") as stream:
            return stream.read(len(VAULT_HEADER)) == VAULT_HEADER
    except OSError:
        return False


def _is_constant(template: str) -> bool:
    """Does a template say its result itself, like ``{{ 'hunter2' }}``?"""
    try:
        parsed = jinja2.Environment(autoescape=True).parse(template)
    except jinja2.TemplateError:
        return False
    return parsed.find(jinja2.nodes.Name) is None


def how_held(templar: Any, raw: Any, value: Any) -> str:
    """How a secret is held: ``vault``, ``file`` (anything that a lookup computes), ``clear``, or why it has no value.

    raw: as written in ``anvil_secrets``. value: what templating made of it. A reference to another variable brings
    that variable's tags along, so ``"{{ vault_token }}"`` counts as what ``vault_token`` is.
    """
    if not isinstance(value, str):
        return "it is {0}, not text".format(describe_type(value))
    if not value.strip():
        return "it is empty"
    if _tag(VaultedValue, value) or (EncryptedString is not None and isinstance(raw, EncryptedString)):
        return "vault"
    origin = _tag(Origin, value)
    computed = isinstance(raw, str) and templar.is_template(raw)
    literal = is_trusted_as_template(value) if computed else origin is not None
    if origin is None or not (literal or (computed and _is_constant(raw))):
        return "file"
    return "vault" if origin.path and _in_vaulted_file(origin) else "clear"


def _vaulted(value: Any, path: KeyPath) -> Iterator[Problem]:
    """Values out of the vault in variables that are written to files in clear."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _vaulted(item, (*path, str(key)))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _vaulted(item, (*path, number))
    elif _tag(VaultedValue, value):
        yield Problem(
            what="a secret from the vault would be written in clear into a rendered file",
            where=format_path(path),
            hint="put it in anvil_secrets and name it: secrets: {NAME: <name in anvil_secrets>}",
        )


def origin_of(raw: Mapping[str, Any], where: str) -> str:
    """``inventory/x/host_vars/h.yml:23`` for the key path of a problem: the deepest part of it that was written."""
    value, found, position = raw, "", 0
    while match := STEP.match(where, position):
        word, number = match.groups()
        position = match.end()
        if isinstance(value, Mapping):
            step = word if word is not None else number
            key = next((key for key in value if str(key) == step), None)
            if key is None:
                break
            value = value[key]
            found = _line(key) or _line(value) or found
        elif isinstance(value, list) and number is not None and int(number) < len(value):
            value = value[int(number)]
            found = _line(value) or found
        else:
            break
    return found


def _line(value: Any) -> str:
    origin = _tag(Origin, value)
    if origin is None or not origin.path:
        return "" if origin is None or origin.description == "<unknown>" else str(origin.description or "")
    path = Path(origin.path)
    here = Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return f"{shown}:{origin.line_num}" if origin.line_num else str(shown)


def name_origins(problems: list[Problem], raw: Mapping[str, Any]) -> list[Problem]:
    """The problems, each saying where its key was written."""
    named = []
    for problem in problems:
        line = origin_of(raw, problem.where)
        why = "; ".join(text for text in (f"written at {line}" if line else "", problem.why) if text)
        named.append(replace(problem, why=why))
    return named
