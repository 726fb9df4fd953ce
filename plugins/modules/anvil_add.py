#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_add
short_description: Propose a serve for a model
version_added: 1.1.0
description:
  - Proposes a serve of the inventory for a model - engine, image, cards, arguments, claim of memory and port. A recipe of this
    collection says how the model is served; without one, the headers of its weights do.
  - A long context counts most, then few cards, then the order of the variants of the recipe. The place is decided as
    M(anvil.serving.anvil_place) does, by the VRAM ledger, and the plan of the host judges the serve. What does not fit and what
    fits as well is listed with its figure.
  - With O(write), writes the file of a proposal on the controller. A file that exists is never changed.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: With O(write), reports whether the file would be written. Without it, nothing can change.
    support: full
  diff_mode:
    description: There is no diff.
    support: none
  idempotent:
    description: The same inventory, hosts and weights give the same proposal. A serve that is there is not proposed again.
    support: full
options:
  model:
    description: Repository of the Hugging Face hub, or the path of a file or folder on the hosts.
    type: str
    default: ""
  name:
    description: Name of the serve. If not given, it follows from the model.
    type: str
  recipe:
    description: Name of the recipe. If not given, the recipe that names the model.
    type: str
  recipes:
    description: Folder on the controller with further recipes, or a checkout of vllm-project/recipes. They come first.
    type: path
  engine:
    description: Engine. If not given, one that the recipe names, preferably with an image in C(anvil_engines).
    type: str
  variant:
    description: Variant of the recipe, such as V(fp8).
    type: str
  context:
    description: Tokens of one request. If not given, those of the model, at most 32768, or fewer if that does not fit.
    type: int
  gpus:
    description: Number of cards, or their names with commas between. V(0) is a serve without a card.
    type: str
  port:
    description: Port on the host. If not given, the first free one from 30001.
    type: int
  image:
    description: Image of the serve. If not given, that of C(anvil_engines), unless the recipe needs a newer release.
    type: str
  speculative:
    description: Turn on speculative decoding, where the recipe says how.
    type: bool
    default: false
  inspect:
    description: Whether the headers of a repository count. If V(false), the figures of the recipe do.
    type: bool
    default: true
  list_repositories:
    description: Only list the repositories whose headers are to be read.
    type: bool
    default: false
  headers:
    description:
      - The results of a loop of M(anvil.serving.anvil_model_info) over RV(repositories). Those of repositories that were not read
        may be missing; the figure of the recipe counts then.
    type: list
    elements: dict
    default: []
  hosts:
    description: The hosts to consider. The default is all hosts of the play.
    type: list
    elements: str
    default: []
  looks:
    description: The results of M(anvil.serving.anvil_host_info) for these hosts, in this order. A host without one is left out.
    type: list
    elements: dict
    default: []
  models:
    description: The results of M(anvil.serving.anvil_model_info) for a path, in the same order.
    type: list
    elements: dict
    default: []
  output:
    description: Folder of the inventory on the controller. The default is the folder of the inventory of the play.
    type: path
  write:
    description: The files of a proposal, as RV(proposed) returned them. Nothing else is done then.
    type: dict
    default: {}
notes:
  - An action plugin of the same name does the work. The module contains the documentation only.
seealso:
  - module: anvil.serving.anvil_place
"""

EXAMPLES = r"""
- name: Propose a serve
  anvil.serving.anvil_add:
    model: openai/gpt-oss-20b
  run_once: true
  register: add

- name: Write it into the inventory
  anvil.serving.anvil_add:
    write: "{{ add.proposed }}"
  run_once: true
"""

RETURN = r"""
repositories:
  description: The repositories whose headers say how much memory the model needs, the preferred one first.
  returned: with O(list_repositories)
  type: list
  elements: str
fits:
  description: Whether the model fits as it was asked for.
  returned: success, without O(write) and O(list_repositories)
  type: bool
proposed:
  description: Path on the controller and text of the file of the proposal. Empty if the host has the serve already.
  returned: success, without O(write) and O(list_repositories)
  type: dict
  sample: {"/home/ops/inventory/my-host/host_vars/my-host/added-fast.yml": "---\n..."}
files:
  description: The paths of the files that were written, or would be in check mode.
  returned: with O(write)
  type: list
  elements: str
lines:
  description: The proposal as text, with its arithmetic and YAML.
  returned: success, without O(write) and O(list_repositories)
  type: list
  elements: str
next:
  description: The command that starts the serve.
  returned: with O(write)
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

# The action plugin of the same name imports them.
OPTIONS = {
    "model": {"type": "str", "default": ""},
    "name": {"type": "str"},
    "recipe": {"type": "str"},
    "recipes": {"type": "path"},
    "engine": {"type": "str"},
    "variant": {"type": "str"},
    "context": {"type": "int"},
    "gpus": {"type": "str"},
    "port": {"type": "int"},
    "image": {"type": "str"},
    "speculative": {"type": "bool", "default": False},
    "inspect": {"type": "bool", "default": True},
    "list_repositories": {"type": "bool", "default": False},
    "headers": {"type": "list", "elements": "dict", "default": []},
    "hosts": {"type": "list", "elements": "str", "default": []},
    "looks": {"type": "list", "elements": "dict", "default": []},
    "models": {"type": "list", "elements": "dict", "default": []},
    "output": {"type": "path"},
    "write": {"type": "dict", "default": {}},
}


def main():
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    module.fail_json(msg="anvil_add is an action plugin and runs on the controller only: use it in a playbook")


if __name__ == "__main__":
    main()
