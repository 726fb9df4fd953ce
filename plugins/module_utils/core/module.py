# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every module does around its one call: connection options, and errors without tracebacks."""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping

from ansible.module_utils.basic import AnsibleModule, env_fallback
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, problems_as_dicts

DEFAULT_SOCKET = "unix:///var/run/docker.sock"

ENGINE_OPTIONS: Dict[str, Any] = {
    "docker_host": {"type": "str", "default": DEFAULT_SOCKET, "fallback": (env_fallback, ["DOCKER_HOST"])},
}

PROJECT_OPTIONS: Dict[str, Any] = {
    "project": {
        "type": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "compose": {"type": "str", "required": True},
            "services": {"type": "dict", "required": True},
            "files": {"type": "dict", "default": {}},
        },
    },
    "secrets": {"type": "dict", "default": {}, "no_log": True},
    "serves": {"type": "list", "elements": "str", "default": []},
}

# Of modules whose results anvil_report lays out: one host that cannot be looked at must hide no other.
TOLERANT_OPTION: Dict[str, Any] = {"tolerant": {"type": "bool", "default": False}}


def run_module(options: Mapping[str, Any], work: Callable[[AnsibleModule], Dict[str, Any]], **module: Any) -> None:
    """Build the module, call ``work``, and exit with what it returns; an ``AnvilError`` fails with all its problems.

    A ``work`` that must fail and still return facts puts ``problems`` (a list of Problem) into its result.
    """
    run_plain_module({**ENGINE_OPTIONS, **options}, work, **module)


def run_plain_module(options: Mapping[str, Any], work: Callable[[AnsibleModule], Dict[str, Any]], **module: Any) -> None:
    """As ``run_module``, for a module that talks to no engine."""
    made = AnsibleModule(argument_spec=dict(options), supports_check_mode=True, **module)
    if made.params.get("docker_host") == "":  # DOCKER_HOST is set, but empty
        made.params["docker_host"] = DEFAULT_SOCKET
    try:
        result = work(made)
    except AnvilError as exc:
        if made.params.get("tolerant"):
            made.exit_json(changed=False, trouble=exc.as_text())
        made.fail_json(msg=exc.as_text(), problems=problems_as_dicts(exc.problems))
    for warning in result.pop("warnings", ()):
        made.warn(warning)
    problems = result.pop("problems", ())
    if problems:
        made.fail_json(msg=AnvilError(*problems).as_text(), problems=problems_as_dicts(problems), **result)
    made.exit_json(**result)
