#!/usr/bin/python
"""A module with a warning and a deprecation."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    module.warn("the profile denies every tier")
    module.deprecate("the option old is old", version="9.0.0", collection_name="anvil.serving")
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
