# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """Documentation that modules share.

    DOCKER_ENGINE: address of the Docker Engine. TOLERANT: failures that are only reported. READS: modules that change nothing.
    PROJECT: a compose project. SERVES: its secrets and the selection of its serves. HUB: the Hugging Face hub.
    MEASURED: the tiers that are measured.
    """

    DOCKER_ENGINE = r"""
options:
  docker_host:
    description:
      - Address of the Docker Engine, in the form of the Docker CLI's option C(-H).
      - If not given, the environment variable E(DOCKER_HOST) on the target is used.
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
      - If the host cannot be read, succeed and return the reason as C(trouble). M(anvil.serving.anvil_report) shows the
        reason beside the other hosts, and then fails.
    type: bool
    default: false
"""
    READS = r"""
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
  diff_mode:
    description: There are no changes to show.
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
        description: The services of the compose file in canonical form.
        type: dict
        required: true
      files:
        description: Further files that services mount, as a mapping of the path below O(project.directory) to the text.
        type: dict
        default: {}
"""
    SERVES = r"""
options:
  secrets:
    description:
      - Values of the secrets that the services of the project name.
      - They are written only to env files of mode 0600 on the host.
    type: dict
    default: {}
  serves:
    description:
      - The serves to act on, by name, tag or tier. An empty list selects every serve of the project.
    type: list
    elements: str
    default: []
"""

    HUB = r"""
options:
  endpoint:
    description: Address of the hub or of a mirror. If not given, the client's own default is used.
    type: str
  token:
    description: Access token of the hub.
    type: str
  token_file:
    description: File on the host that holds the token.
    type: path
  client:
    description:
      - Python interpreter on the host that has C(huggingface_hub) 0.30 or later. The role P(anvil.serving.models#role) creates a
        virtual environment with one.
      - If not given, the module's own interpreter is used.
    type: path
"""

    MEASURED = r"""
options:
  router:
    description: The plan of the router, RV(anvil.serving.anvil_plan#module:plan).
    type: dict
    required: true
  serves:
    description: The plan of the serves, to report what was measured.
    type: list
    elements: dict
    default: []
  container:
    description: The router's container; with replicas, one of them.
    type: str
    default: anvil-router
  via:
    description: V(router) measures what clients get. V(tiers) sends the requests to the serves, without the router.
    type: str
    choices: [router, tiers]
    default: router
  tiers:
    description: The tiers to measure. Without it, all tiers that answer chat completions.
    type: list
    elements: str
    default: []
  networks:
    description: The networks of Docker on which the router or the serves answer.
    type: list
    elements: str
    required: true
  secrets:
    description: The values of C(anvil_secrets). Only the router's token, or the keys of the measured serves, are used.
    type: dict
    default: {}
  progress:
    description:
      - Set by the action plugin of the same name, which prints the progress while the module runs.
      - Set the environment variable E(ANVIL_PROGRESS) of the controller to V(no) to turn this off.
    type: str
"""

    REVISIONS = r"""
options:
  on_failure:
    description:
      - What a change does that does not get ready, ignores a setting, or fails within O(settle) seconds. This option counts more
        than C(on_failure) of a serve in the inventory; without both it is V(roll_back).
      - V(roll_back) brings the last revision of the serve that was ready back, and the task fails with the reason. The same
        definition is not tried again; a changed one is. A serve that never was ready has no way back, and is left as it is.
      - V(keep) leaves the container of the failed change.
      - Experiments are never rolled back.
    type: str
    choices: [roll_back, keep]
  again:
    description: Try the definition of the inventory again where it failed before, or where an operator rolled back.
    type: bool
    default: false
  revision:
    description:
      - With O(state=rolled_back), a revision that M(anvil.serving.anvil_serve_info) lists, by the beginning of its name.
      - V(previous) is the one that was ready before the one that runs. A second roll back leads further back.
    type: str
    default: previous
  by:
    description: With O(state=rolled_back), who rolls back, for the messages of later runs.
    type: str
    default: ""
"""

    SEVERAL_HOSTS = r"""
options:
  hold:
    description:
      - If a serve would change, check whether it may (admission, and the judgement of O(engine_check)), and change nothing.
        RV(held) is true then. It has an effect with O(state=up), O(state=restarted) and O(state=recreated).
      - C(site.yml) sets it for more than one host, and changes the hosts that hold in waves. It is always set, and the task fails
        if it holds, where a serve spans several hosts and one of them is not in the run or failed in it.
    type: bool
    default: false
    version_added: 1.1.0
  parts:
    description:
      - Which of the selected serves to act on, where some span several hosts. V(members) are the parts that run here of serves
        whose head is on another host. V(others) are all other serves, heads too.
      - A head is ready only when its members answer, so a change starts the members of all hosts first.
    type: str
    choices: [all, members, others]
    default: all
    version_added: 1.1.0
"""
