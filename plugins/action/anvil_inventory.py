# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the first inventory of a host on the controller, or show how the host differs from the inventory that it has."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.modules.anvil_inventory import OPTIONS
from ansible_collections.anvil.serving.plugins.plugin_utils.plan import first_inventory, inventory_folder
from ansible_collections.anvil.serving.plugins.plugin_utils.report.action_result import failure_result
from ansible_collections.anvil.serving.plugins.plugin_utils.report.first_steps import describe_host_read, next_commands
from ansible_collections.anvil.serving.plugins.plugin_utils.report.terminal import display_text
from ansible_collections.anvil.serving.plugins.plugin_utils.report.typed_command import read_typed

HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
CONNECTION = ("ansible_port", "ansible_python_interpreter", "ansible_ssh_private_key_file")


def check_name(name: str) -> None:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        if HOST_NAME.fullmatch(name):
            return
    raise fail(f"{name!r} is no name for a host", "name", "it names files and messages", "choose one: -e name=my-host")


class ActionModule(ActionBase):
    """Write the files of one host, or compare them with the host."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, options = self.validate_argument_spec(argument_spec=OPTIONS)
        try:
            check_name(options["name"])
            result.update(self._write(options, task_vars or {}))
        except AnvilError as error:
            result.update(failure_result(error))
        return result

    def _write(self, options: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        name, facts, needs = options["name"], options["facts"], options["requirements"]
        check, folder = bool(self._task.check_mode), Path(options["folder"]).expanduser().absolute()
        hosts, known = folder / "hosts.yml", inventory_folder.list_variable_files(folder, name)
        token = Path("~").expanduser() / ".config/anvil" / name / "router-token"
        home = "lookup('ansible.builtin.env', 'HOME')"
        listed = inventory_folder.names_host(inventory_folder.read_document(hosts), name) if hosts.exists() else False
        lines, differences, written = describe_host_read(facts, needs), [], []
        if known:
            found, more = self._compare(name, facts, known)
            differences += found
            lines += more
        else:
            expression = f"{home} ~ '/.config/anvil/{name}/router-token'"
            driver = str(needs.get("gpu_driver") or "nvidia")
            texts = first_inventory.lay_out_inventory(name, inventory_folder.show_path(folder), facts, driver, expression)
            written += [inventory_folder.show_path(folder / "host_vars" / name / file) for file in texts]
            if not check:
                inventory_folder.write_folder(folder / "host_vars" / name, texts)
            written += [str(token)] if not token.exists() and (check or inventory_folder.make_token(token)) else []
        entry = first_inventory.lay_out_hosts(name, self._read_connection(task_vars))
        if not hosts.exists():
            written.append(inventory_folder.show_path(hosts))
            if not check:
                inventory_folder.write_new(hosts, entry, 0o644)
        elif not listed:
            lines += [
                f"{inventory_folder.show_path(hosts)} does not name {name}; add it there:",
                *("  " + line for line in entry.splitlines()[2:]),
            ]
        display_text("\n".join(f"  {line}" if line else "" for line in lines))
        typed = read_typed(sys.argv, shutil.which, os.getcwd())
        return {
            "changed": bool(written),
            "files": written,
            "token": str(token),
            "differences": differences,
            "next": next_commands(typed, inventory_folder.show_path(folder), bool(needs.get("missing")), os.path.exists),
        }

    @staticmethod
    def _compare(name: str, facts: dict[str, Any], known: list[Path]) -> tuple[list[str], list[str]]:
        """What differs, and the lines that show it."""
        values, place = inventory_folder.find_variables(known, ("anvil_gpus", "init_read"))
        written = first_inventory.read_written(values)
        now = first_inventory.read_facts(facts, written.cards)
        if facts["unread"]:
            return [], [f"{name} has its variables already; it could not be read as a whole, so they were not compared"]
        differences = first_inventory.compare_readings(written, now)
        if not differences:
            return [], [f"{name} has its variables already; its cards and versions are as they are written there"]
        shown = inventory_folder.show_path(place or known[0])
        diff = first_inventory.lay_out_difference(name, written, now, shown)
        lines = [f"{name} differs from its variables (nothing was written):", *("  " + line for line in differences), "", *diff]
        return differences, lines

    def _read_connection(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """The variables by which Ansible reaches the host as it does now."""
        kind = str(task_vars.get("ansible_connection") or self._play_context.connection or "ssh")
        if plugin := re.fullmatch(r"ansible_collections\.(\w+\.\w+)\.plugins\.connection\.(\w+)", kind):
            kind = ".".join(plugin.groups())
        found = {} if kind == "local" else {"ansible_host": str(task_vars.get("ansible_host") or task_vars["inventory_hostname"])}
        if kind not in ("ssh", "smart"):
            found["ansible_connection"] = kind
        user = task_vars.get("ansible_user") or (self._play_context.remote_user if kind in ("ssh", "smart") else None)
        if user:
            found["ansible_user"] = str(user)
        if self._play_context.become:
            found["ansible_become"] = "true"
        found.update({key: str(task_vars[key]) for key in CONNECTION if task_vars.get(key)})
        return found
