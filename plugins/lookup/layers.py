# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lookup ``layers``."""

from __future__ import annotations

DOCUMENTATION = r"""
name: layers
short_description: A variable of this collection with all of its layers
version_added: 1.1.0
author:
  - the anvil.serving authors (@fakoli)
description:
  - Merges a variable such as C(anvil_secrets) with its layers, C(anvil_secrets__SUFFIX), key by key, as
    M(anvil.serving.anvil_plan) does. C(docs/inventory.md) has the rule.
  - The roles and playbooks of this collection read their secrets through it.
options:
  _terms:
    description:
      - Names of variables, such as V(anvil_secrets). One that is not defined is an empty mapping.
      - V(anvil_secrets.router_token) is one entry. The templates of the other entries are not evaluated.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Converge with the secrets of all layers
  anvil.serving.anvil_serve:
    project: "{{ anvil.serves }}"
    secrets: "{{ lookup('anvil.serving.layers', 'anvil_secrets') }}"
"""

RETURN = r"""
_raw:
  description: The merged mapping of each variable, or the entry.
  type: list
  elements: raw
"""

from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_layers import LAYERED, list_layers, merge_layers


class LookupModule(LookupBase):
    """Merge the layers of variables of the host."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[Any]:
        self.set_options(var_options=variables, direct=kwargs)
        return [self._merge(str(term), variables or {}) for term in terms]

    def _merge(self, term: str, variables: dict[str, Any]) -> Any:
        name, dot, key = term.partition(".")
        if name not in LAYERED:
            raise AnsibleLookupError(f"{name} has no layers; use one of: {', '.join(LAYERED)}")
        layers = []
        for layer in list_layers(variables, name):
            value = variables[layer]
            if not (dot and isinstance(value, dict)):
                value = self._templar.template(value)
            if isinstance(value, dict):
                layers.append((layer, value))
            elif value is not None:
                raise AnsibleLookupError(f"{layer} must be a mapping")
        merged = layers[0][1] if len(layers) == 1 else merge_layers(layers).value
        if not dot:
            return merged
        if key not in merged:
            raise AnsibleLookupError(f"{name} has no entry {key}")
        return self._templar.template(merged[key])
