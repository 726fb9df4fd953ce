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
  - Writes a secret to the terminal in which C(ansible-playbook) was started. The secret is in no result, no callback and no
    log, and redirected output does not contain it.
  - Fails if there is no terminal, for example on a build server.
  - Runs on the controller; nothing runs on the host.
options:
  name:
    description: The name to print before the secret.
    type: str
    required: true
  secret:
    description: The secret.
    type: str
    required: true
attributes:
  check_mode:
    support: full
    description: Shows the secret in check mode too. Nothing is changed.
  diff_mode:
    support: none
    description: There is no diff.
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
  description: Why the secret was not shown.
  returned: failure
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

# The action plugin of the same name imports them.
OPTIONS = {
    "name": {"type": "str", "required": True},
    "secret": {"type": "str", "required": True, "no_log": True},
}


def main():
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    module.fail_json(msg="anvil_reveal is an action plugin and runs on the controller only: use it in a playbook")


if __name__ == "__main__":
    main()
