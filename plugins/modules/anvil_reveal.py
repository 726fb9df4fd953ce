#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_reveal
short_description: Show a secret on the operator's terminal, and nowhere else
version_added: 1.0.0
author:
  - The anvil.serving authors (@fakoli)
description:
  - Writes a secret to the terminal that C(ansible-playbook) was started from. It is in no result, passes no callback and
    no log, and a redirected output does not hold it.
  - Refused where there is no terminal, as in a pipeline of a build server.
  - An action; nothing runs on the host.
options:
  name:
    description: What to call it.
    type: str
    required: true
  secret:
    description: The secret.
    type: str
    required: true
attributes:
  check_mode:
    support: full
    description: Shows it in any mode; nothing is changed.
  diff_mode:
    support: none
    description: Nothing to compare.
requirements:
  - C(ps) on the controller
"""

EXAMPLES = r"""
- name: Show the router's token
  anvil.serving.anvil_reveal:
    name: router_token
    secret: "{{ anvil_secrets.router_token }}"
"""

RETURN = r"""
msg:
  description: Why it was not shown.
  returned: failure
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

# The action plugin of this name reads them from here.
OPTIONS = {
    "name": {"type": "str", "required": True},
    "secret": {"type": "str", "required": True, "no_log": True},
}


def main():
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    module.fail_json(msg="anvil_reveal is an action: it runs on the controller, through ansible-playbook")


if __name__ == "__main__":
    main()
