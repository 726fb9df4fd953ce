# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Template the ``anvil_*`` variables of a host one by one, and find out how each secret is stored.

Ansible 2.19 tags every value with its origin. The tags are not a public interface: without them a secret counts as stored in a
file, and all else works as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from ansible.errors import AnsibleError, AnsibleTemplateSyntaxError, AnsibleValueOmittedError
from ansible.template import is_trusted_as_template
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_layers import (
    LAYERED,
    KeyPath,
    MergedLayers,
    has_layers,
    list_layers,
    merge_layers,
    split_layer,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import UNREAD, describe_type, format_path
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.layer_conflicts import judge_layers
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.source_lines import Origin, read_tag

try:
    from ansible._internal._datatag._tags import VaultedValue
    from ansible.parsing.vault import EncryptedString
except ImportError:
    VaultedValue = EncryptedString = None

VAULT_HEADER = b"$ANSIBLE_VAULT"


@dataclass
class HostVariables:
    """The ``anvil_*`` variables of a host, templated.

    raw: as written, with the tags. values: templated, with the layers of a variable merged into it; ``UNREAD`` stands for a value
    whose template failed. secrets: name -> value. facts: how each secret is stored, as ``build_plan`` takes it. problems: the
    templates that failed. conflicts: layers that contradict each other; notes: those that probably do. layers: variable -> its
    merged layers, if it has any.
    """

    raw: dict[str, Any]
    values: dict[str, Any] = field(default_factory=dict)
    secrets: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    conflicts: list[Problem] = field(default_factory=list)
    layers: dict[str, MergedLayers] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def sources(self) -> dict[str, dict[KeyPath, str]]:
        """Variable -> the layer that wrote each of its leaves; only variables with layers."""
        return {name: merged.sources for name, merged in self.layers.items()}


def read_variables(templar: Any, raw: Mapping[str, Any]) -> HostVariables:
    """Template each variable separately, so that a failing template does not hide mistakes in the others."""
    variables = HostVariables(raw=dict(raw))
    for name, value in raw.items():
        if split_layer(name)[0] != "anvil_secrets":
            variables.values[name] = _template(variables, templar, (name,), value)
            variables.problems.extend(_find_vaulted(variables.values[name], (name,)))
    for name in LAYERED:
        if has_layers(raw, name):
            _merge_layers(variables, templar, name)
    if "anvil_secrets" in variables.layers:
        _read_secrets(variables, templar, variables.layers["anvil_secrets"].value)
    elif "anvil_secrets" in raw:
        _read_secrets(variables, templar, raw["anvil_secrets"])
    return variables


def _merge_layers(variables: HostVariables, templar: Any, variable: str) -> None:
    """Replace the layers of a variable by the merged one. A layer that cannot be read makes the variable unread."""
    layers, unread = [], False
    for name in list_layers(variables.raw, variable):
        value = variables.raw[name] if variable == "anvil_secrets" else variables.values.pop(name)
        if not isinstance(value, Mapping) and variable == "anvil_secrets":
            value = _template(variables, templar, (name,), value)
        if isinstance(value, Mapping):
            layers.append((name, value))
        elif value is not None:
            unread = True
            if value is not UNREAD:
                what = f"must be a mapping, not {describe_type(value)}"
                variables.problems.append(Problem(what, name, hint=f"write it as {variable}: every layer has the same form"))
    merged = merge_layers(layers)
    variables.layers[variable] = merged
    variables.values[variable] = UNREAD if unread else merged.value
    conflicts, notes = judge_layers(variables.raw, variable, merged)
    variables.conflicts.extend(conflicts)
    variables.notes.extend(notes)


def _template(variables: HostVariables, templar: Any, path: KeyPath, raw: Any) -> Any:
    try:
        return templar.template(raw)
    except AnsibleValueOmittedError:
        return None
    except AnsibleError as error:
        if isinstance(raw, Mapping):
            return {key: _template(variables, templar, (*path, str(key)), value) for key, value in raw.items()}
        if isinstance(raw, list):
            return [_template(variables, templar, (*path, number), value) for number, value in enumerate(raw)]
        variables.problems.append(
            Problem(
                what="the template of this value failed",
                where=format_path(path),
                why=str(error),
                hint="correct the template, or define the variable that it refers to",
            )
        )
        return UNREAD


def _read_secrets(variables: HostVariables, templar: Any, raw: Any) -> None:
    """Template ``anvil_secrets`` entry by entry, so that a missing file does not hide how the others are stored."""
    if not isinstance(raw, Mapping):
        whole = _template(variables, templar, ("anvil_secrets",), raw)
        variables.values["anvil_secrets"] = whole if whole is UNREAD or isinstance(whole, Mapping) else [describe_type(whole)]
        if whole is None or not isinstance(whole, Mapping):
            if whole is None:
                variables.values["anvil_secrets"] = None
            return
        raw = whole
    else:
        variables.values["anvil_secrets"] = raw
    for name, entry in raw.items():
        try:
            value = templar.template(entry)
        except AnsibleError as error:
            # The message of a syntax error quotes the template, which may contain a secret.
            broken = isinstance(error, AnsibleTemplateSyntaxError)
            variables.facts[name] = "its template has a syntax error" if broken else str(error)
            continue
        variables.secrets[name] = value
        variables.facts[name] = classify_storage(templar, entry, value)
    variables.values["anvil_secrets"] = {name: variables.secrets.get(name) for name in raw}


def list_secret_names(raw: Mapping[str, Any]) -> list[str]:
    """The names of all secrets in ``anvil_secrets`` and its layers; none of a layer that is a template."""
    layers = [raw[name] for name in list_layers(raw, "anvil_secrets")]
    return [name for layer in layers if isinstance(layer, Mapping) for name in layer]


def _in_vaulted_file(origin: Any) -> bool:
    try:
        with Path(origin.path).open("rb") as stream:
            return stream.read(len(VAULT_HEADER)) == VAULT_HEADER
    except OSError:
        return False


def _is_constant(template: str) -> bool:
    """Whether a template is a constant, like ``{{ 'hunter2' }}``."""
    try:
        parsed = jinja2.Environment(autoescape=True).parse(template)
    except jinja2.TemplateError:
        return False
    return parsed.find(jinja2.nodes.Name) is None


def classify_storage(templar: Any, raw: Any, value: Any) -> str:
    """How a secret is stored: ``vault``, ``file`` (any result of a lookup), ``clear``; or why it has no value.

    raw: as written in ``anvil_secrets``. value: the templated value. A reference to another variable carries the tags of that
    variable, so ``"{{ vault_token }}"`` is stored as ``vault_token`` is.
    """
    if not isinstance(value, str):
        return "it is {0}, not text".format(describe_type(value))
    if not value.strip():
        return "it is empty"
    if read_tag(VaultedValue, value) or (EncryptedString is not None and isinstance(raw, EncryptedString)):
        return "vault"
    origin = read_tag(Origin, value)
    computed = isinstance(raw, str) and templar.is_template(raw)
    literal = is_trusted_as_template(value) if computed else origin is not None
    if origin is None or not (literal or (computed and _is_constant(raw))):
        return "file"
    return "vault" if origin.path and _in_vaulted_file(origin) else "clear"


def _find_vaulted(value: Any, path: KeyPath) -> Iterator[Problem]:
    """Problems for vaulted values in variables that are rendered into files in clear text."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _find_vaulted(item, (*path, str(key)))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _find_vaulted(item, (*path, number))
    elif read_tag(VaultedValue, value):
        yield Problem(
            what="a vaulted value would be written in clear text into a rendered file",
            where=format_path(path),
            hint="move it to anvil_secrets, and use secrets: {NAME: <name in anvil_secrets>}",
        )
