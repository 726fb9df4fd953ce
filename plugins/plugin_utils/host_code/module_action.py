# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The base of the action plugins: run a module with the code that the host keeps, and send the code where the host lacks it.

The first call of a module carries a small program and the parameters (``core/programs/kept_code.py``). If the program answers
that the code is absent, a second call carries the code too. If the host cannot keep it, the module is sent as Ansible does it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import os
from typing import Any

from ansible import constants
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import module_utils_loader
from ansible.utils.display import Display
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.core.program_source import read_source
from ansible_collections.anvil.serving.plugins.module_utils.core.programs import kept_code
from ansible_collections.anvil.serving.plugins.plugin_utils.host_code.sources import (
    ANSIBLE,
    PACKAGE,
    PLUGINS,
    RunCache,
    pack_sources,
    read_sources,
)

try:  # parts of Ansible that are not meant for others
    from ansible.executor.interpreter_discovery import InterpreterDiscoveryRequiredError
    from ansible.executor.module_common import _BuiltModule, _get_shebang
    from ansible.module_utils._internal._ansiballz._loader import run_module
    from ansible.module_utils.common.json import Direction, get_module_encoder
except ImportError:
    run_module = None
# Settings of Ansible for debugging, which only its own way of sending a module knows.
OWN_WAY_SETTINGS = (
    "PYTHON_MODULE_RLIMIT_NOFILE",
    "_ANSIBALLZ_COVERAGE_CONFIG",
    "_ANSIBALLZ_DEBUGPY_CONFIG",
    "_ANSIBALLZ_PYDEVD_CONFIG",
    "_MODULE_METADATA",
)


@functools.cache
def knows_this_ansible() -> bool:
    """Whether the functions of Ansible that are used here exist and take the arguments that are given here."""
    if run_module is None:
        return False
    ours = {"json_params", "profile", "module_fqn", "modlib_path", "extensions"}
    built = {"b_module_data", "module_style", "shebang", "serialization_profile"}
    shebang = ["interpreter", "task_vars", "templar", "args", "remote_is_local"]
    required = {name for name, one in inspect.signature(run_module).parameters.items() if one.default is one.empty}
    return (
        required == ours
        and {field.name for field in dataclasses.fields(_BuiltModule)} == built
        and list(inspect.signature(_get_shebang).parameters) == shebang
    )


def is_replaced() -> bool:
    """Whether a folder of the user replaces some of Ansible's code for modules; only Ansible's own way of sending knows that."""
    folders = [path for path in module_utils_loader._get_paths(subdirs=False) if os.path.isdir(path)]
    own = [path for path in folders if not os.path.samefile(path, ANSIBLE)]
    return any(os.path.exists(ANSIBLE / name) for path in own for name in os.listdir(path) if name != "__init__.py")


class HostCodeAction(ActionBase):
    """Runs modules of this collection, each with the code that the host keeps."""

    _supports_check_mode = True
    # What the call under way sends: "" (the module, as Ansible does), "parameters", or "sources" too.
    _sends = ""

    def _execute_module(self, *positional: Any, **options: Any) -> dict[str, Any]:
        """As Ansible's own: run a module and return its result. A module in the background is sent as Ansible does it."""
        task_vars = options.get("task_vars") or {}
        cannot = "unusable-" + hashlib.sha256(self._name_place(task_vars).encode()).hexdigest()
        cache = RunCache(constants.DEFAULT_LOCAL_TMP)
        if not self._can_keep(task_vars) or cache.recall(cannot):
            return self._execute_with("", *positional, **options)
        answer = self._execute_with("parameters", *positional, **options)
        if answer.get(kept_code.ANSWER) == "absent":
            answer = self._execute_with("sources", *positional, **options)
        if kept_code.ANSWER in answer:
            Display().vv(f"{self._name_place(task_vars)}: the code is sent in every task: {answer.get('why')}")
            cache.remember(cannot, lambda: "")
            answer = self._execute_with("", *positional, **options)
        return answer

    def _ask_host(self, module: str, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """The result of a module of this collection that only reads. Raises AnvilError with its problems."""
        answer = self._execute_module(module_name=f"anvil.serving.{module}", module_args=arguments, task_vars=task_vars)
        if answer.get("failed") or answer.get("unreachable"):
            found = [Problem(**{**one, "log": tuple(one["log"])}) for one in answer.get("problems") or ()]
            raise AnvilError(*found or [Problem("the host cannot be asked", module, str(answer.get("msg")))])
        return dict(answer)

    def _execute_with(self, sends: str, *positional: Any, **options: Any) -> dict[str, Any]:
        self._sends = sends
        answer: dict[str, Any] = super()._execute_module(*positional, **options)
        return answer

    def _can_keep(self, task_vars: dict[str, Any]) -> bool:
        config = constants.config
        settings = [name for name in OWN_WAY_SETTINGS if config.get_configuration_definition(name)]
        return (
            knows_this_ansible()
            and not self._task.async_val
            and not constants.DEFAULT_KEEP_REMOTE_FILES
            and self._connection._shell.SHELL_FAMILY == "sh"
            and not any(config.get_config_value(name, variables=task_vars) for name in settings)
            and not is_replaced()
        )

    def _name_place(self, task_vars: dict[str, Any]) -> str:
        """The host, and the user there."""
        host = self._task.delegate_to or task_vars.get("inventory_hostname", "localhost")
        return f"{self._get_remote_user()}@{host} ({self.get_become_option('become_user')})"

    def _configure_module(self, module_name: str, module_args: dict[str, Any], task_vars: dict[str, Any]) -> Any:
        """As Ansible's own: the text to run on the host, and the file of the module."""
        if not self._sends:
            return super()._configure_module(module_name, module_args, task_vars)
        built = self._choose_interpreter(task_vars)
        name = module_name.rpartition(".")[2]
        encoder = get_module_encoder("legacy", Direction.CONTROLLER_TO_MODULE)
        try:
            parameters = json.dumps({"ANSIBLE_MODULE_ARGS": module_args}, cls=encoder)
        except TypeError as exc:
            raise AnsibleError(f"Failed to serialize arguments for the {module_name!r} module.") from exc
        cache = RunCache(constants.DEFAULT_LOCAL_TMP)
        arguments = {
            "code": cache.remember("name", lambda: kept_code.hash_sources(read_sources())),
            "module": f"{PACKAGE}/modules/{name}".replace("/", "."),
            "parameters": parameters,
            "profile": "legacy",
        }
        if self._sends == "sources":
            arguments["sources"] = cache.remember("sources", lambda: pack_sources(read_sources()))
        call = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        text = f"{built.shebang}\n{read_source(kept_code)}\n\nmain({call})\n"
        return dataclasses.replace(built, b_module_data=text.encode()), str(PLUGINS / "modules" / f"{name}.py")

    def _choose_interpreter(self, task_vars: dict[str, Any]) -> Any:
        """A module without text, with the Python that Ansible chooses on the host."""
        variables = task_vars
        if self._task.delegate_to:
            variables = task_vars["ansible_delegated_vars"][self._task.delegate_to]
        local = bool(getattr(self._connection, "_remote_is_local", False))
        try:
            shebang, _interpreter = _get_shebang("/usr/bin/python", variables, self._templar, remote_is_local=local)
        except InterpreterDiscoveryRequiredError:  # Ansible looks for it while it prepares any module
            return super()._configure_module("ansible.builtin.ping", {}, task_vars)[0]
        return _BuiltModule(b_module_data=b"", module_style="new", shebang=shebang, serialization_profile="legacy")
