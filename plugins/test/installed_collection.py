# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The test ``installed_collection``."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

DOCUMENTATION = r"""
name: installed_collection
short_description: Whether a collection is installed on the controller
version_added: 1.0.0
author:
  - the anvil.serving authors (@fakoli)
description:
  - Whether Ansible finds this collection. The roles of this collection ask it about C(community.docker) before they load its
    modules, so that an installation without it fails with the command that installs it.
options:
  _input:
    description: Namespace and name, such as V(community.docker).
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Fail if community.docker is missing
  ansible.builtin.assert:
    that: "'community.docker' is anvil.serving.installed_collection"
"""

RETURN = r"""
_value:
  description: Whether the collection is installed.
  type: bool
"""


def is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec("ansible_collections." + name) is not None
    except (ImportError, ValueError):
        return False


class TestModule:
    """The tests of this file, by name."""

    def tests(self) -> dict[str, Callable[[str], bool]]:
        return {"installed_collection": is_installed}
