#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_place
short_description: Propose hosts and cards for serves, by the VRAM ledger
version_added: 1.1.0
description:
  - Plans all hosts of the play on the controller, and proposes a host and cards for each serve by the arithmetic of the VRAM
    ledger. Nothing is moved, and no host is contacted.
  - The largest serve comes first. It gets the host with the fewest serves of this proposal, of those the one with the most free
    memory after the reserve; there, the cards with the least free memory that suffices. Equal cards are preferred.
  - A host that has a serve of the same name is not considered, nor one where the port or the container name is in use. The plan
    of the host judges each proposal. Whether a model can run on a card is not judged; C(playbooks/compatibility.yml) does that.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: With O(output), reports whether files would change. Without it, nothing can change.
    support: full
  diff_mode:
    description: There is no diff.
    support: none
  idempotent:
    description: The same inventories give the same proposal and the same files.
    support: full
options:
  serve:
    description: Name of a serve. With O(file) only this serve of the file is placed; else it is a serve of the inventory that
      gets further hosts.
    type: str
    default: ""
  file:
    description:
      - YAML file on the controller with serves, as in C(anvil_serves). C(gpus) is the number of cards that each needs. Without
        it, the arguments of the serve decide, else it is one card.
    type: path
  backends:
    description: On how many hosts each serve shall run, beside those that have it.
    type: int
    default: 1
  hosts:
    description: The hosts to consider. The default is all hosts of the play.
    type: list
    elements: str
    default: []
  looks:
    description: The results of M(anvil.serving.anvil_host_info) for these hosts, in the same order. The free memory that the
      drivers report then counts too, and a host without a result is left out.
    type: list
    elements: dict
    default: []
  output:
    description: Folder on the controller for the proposed layers, such as the folder of the inventory. Each goes to
      C(host_vars/HOST/placed-SERVE.yml).
    type: path
notes:
  - An action plugin of the same name does the work. The module contains the documentation only.
"""

EXAMPLES = r"""
- name: Where does a second backend of the serve fast fit?
  anvil.serving.anvil_place:
    serve: fast
  run_once: true
  register: place
"""

RETURN = r"""
placed:
  description: Each backend that has a place.
  returned: success
  type: list
  elements: dict
  sample: [{"serve": "fast", "host": "gpu1", "gpus": ["gpu1"], "vram_mib": {"gpu1": 41000}}]
missing:
  description: Each serve with fewer places than wanted, with the reason for each host.
  returned: success
  type: dict
  sample: {"huge": {"gpu1": "it has 2 of the 4 cards needed"}}
lines:
  description: The proposal as text, with its arithmetic and YAML.
  returned: success
  type: list
  elements: str
files:
  description: The paths of the files in O(output).
  returned: when O(output) is given and a serve has a place
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

# The action plugin of the same name imports them.
OPTIONS = {
    "serve": {"type": "str", "default": ""},
    "file": {"type": "path"},
    "backends": {"type": "int", "default": 1},
    "hosts": {"type": "list", "elements": "str", "default": []},
    "looks": {"type": "list", "elements": "dict", "default": []},
    "output": {"type": "path"},
}


def main():
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    module.fail_json(msg="anvil_place is an action plugin and runs on the controller only: use it in a playbook")


if __name__ == "__main__":
    main()
