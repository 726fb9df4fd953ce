# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """What modules have in common: the engine they talk to (ENGINE), that they only read (READS), a compose project (PROJECT),
    its secrets and which of its serves are meant (SERVES), the hub (HUB)."""

    ENGINE = r"""
options:
  docker_host:
    description:
      - Where the Docker Engine listens, as the Docker CLI's C(-H) takes it.
      - If not given, E(DOCKER_HOST) of the target is used.
    type: str
    default: unix:///var/run/docker.sock
requirements:
  - Docker Engine 24 or later
  - Docker SDK for Python 5.0.3 or later (C(python3-docker), or C(pip install docker))
  - Python 3.9 or later
"""
    TOLERANT = r"""
options:
  tolerant:
    description:
      - Where the host cannot be looked at, succeed and say why in C(trouble), for M(anvil.serving.anvil_report), which shows it
        beside the other hosts and fails at its end.
    type: bool
    default: false
"""
    READS = r"""
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: Changes nothing.
    support: full
"""
    PROJECT = r"""
options:
  project:
    description:
      - The compose project as M(anvil.serving.anvil_plan) renders it (RV(anvil.serving.anvil_plan#module:serves) or
        RV(anvil.serving.anvil_plan#module:router)), or M(anvil.serving.anvil_workflow_plan)
        (RV(anvil.serving.anvil_workflow_plan#module:project)).
    type: dict
    required: true
    suboptions:
      name:
        description: Name of the compose project.
        type: str
        required: true
      directory:
        description: Absolute folder on the host for the compose file and its env files.
        type: path
        required: true
      compose:
        description: Text of the compose file.
        type: str
        required: true
      services:
        description: The services of that file in canonical form.
        type: dict
        required: true
      files:
        description: Further files, path below O(project.directory) to text, that services mount from there.
        type: dict
        default: {}
"""
    SERVES = r"""
options:
  secrets:
    description:
      - Values of the secrets that the project's services name.
      - They are written to env files of mode 0600 on the host, and nowhere else.
    type: dict
    default: {}
  serves:
    description:
      - Serves to act on, by name, by tag, or by the tier they serve; empty means every serve of the project.
    type: list
    elements: str
    default: []
"""

    HUB = r"""
options:
  endpoint:
    description: Address of the hub or a mirror of it; the client's own default if not given.
    type: str
  token:
    description: Access token of the hub.
    type: str
  token_file:
    description: File on the host that holds the token.
    type: path
  client:
    description:
      - Python interpreter on the host that has C(huggingface_hub) 0.30 or later, such as that of the venv which the role
        P(anvil.serving.models#role) makes. The module's own interpreter if not given.
    type: path
"""
