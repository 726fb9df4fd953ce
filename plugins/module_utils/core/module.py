# SPDX-License-Identifier: GPL-3.0-or-later
"""What all modules share: common options, running the one call, and reporting errors without tracebacks."""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping

from ansible.module_utils.basic import AnsibleModule, env_fallback
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, problems_as_dicts
from ansible_collections.anvil.serving.plugins.module_utils.core.printable import (
    hide_credentials,
    make_data_printable,
    make_showable,
)

# Characters of the longest parameter that a result returns.
LONGEST_RETURNED = 400
DEFAULT_SOCKET = "unix:///var/run/docker.sock"

DOCKER_OPTIONS: Dict[str, Any] = {
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

# For modules whose results anvil_report shows: an unreadable host must not hide the others.
TOLERANT_OPTION: Dict[str, Any] = {"tolerant": {"type": "bool", "default": False}}


def run_module(options: Mapping[str, Any], work: Callable[[AnsibleModule], Dict[str, Any]], **arguments: Any) -> None:
    """Build the module, call ``work``, and exit with its result; an ``AnvilError`` fails the module with all its problems.

    The result may hold ``warnings`` (texts) and ``problems`` (a list of Problem). With ``problems`` the module fails and still
    returns the other keys of the result.
    """
    run_module_without_docker({**DOCKER_OPTIONS, **options}, work, **arguments)


def run_module_without_docker(
    options: Mapping[str, Any], work: Callable[[AnsibleModule], Dict[str, Any]], **arguments: Any
) -> None:
    """As ``run_module``, for a module that does not use the Docker Engine."""
    module = AnsibleModule(argument_spec=dict(options), supports_check_mode=True, **arguments)
    if module.params.get("docker_host") == "":  # DOCKER_HOST is set, but empty
        module.params["docker_host"] = DEFAULT_SOCKET
    returned: Dict[str, Any] = {"invocation": {"module_args": shorten_parameter(module.params)}}
    try:
        returned.update(work(module))
    except AnvilError as exc:
        if module.params.get("tolerant"):
            module.exit_json(changed=False, trouble=make_showable(exc.as_text()), **returned)
        module.fail_json(**_describe_failure(exc), **returned)
    for warning in returned.pop("warnings", ()):
        module.warn(make_showable(warning))
    if "diff" in returned:
        returned["diff"] = make_data_printable(returned["diff"], make_showable)
    problems = returned.pop("problems", ())
    if problems:
        module.fail_json(**_describe_failure(AnvilError(*problems)), **returned)
    module.exit_json(**returned)


def _describe_failure(error: AnvilError) -> Dict[str, Any]:
    """What a module says must be printable by itself: not every output of Ansible is ours."""
    problems = make_data_printable(problems_as_dicts(error.problems), make_showable)
    return {"msg": make_showable(error.as_text()), "problems": problems}


def shorten_parameter(value: Any, depth: int = 0) -> Any:
    """A parameter as the result returns it: of a long text only its length, of a mapping in it only the keys.

    Ansible returns all parameters with each result, for ``-vvv``. For the projects of a host that is 3 KB for each serve, which
    both sides parse, check for secrets and keep.
    """
    if isinstance(value, str):
        return hide_credentials(value) if len(value) <= LONGEST_RETURNED else "({0} characters)".format(len(value))
    if isinstance(value, dict):
        return sorted(value) if depth > 1 else {name: shorten_parameter(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list):
        return [shorten_parameter(item, depth) for item in value]
    return value
