# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""anvil_evaluate with progress on the operator's terminal, and with evaluation data of the controller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.utils.vars import merge_hash
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.plugin_utils.report.action_result import failure_result
from ansible_collections.anvil.serving.plugins.plugin_utils.report.progress import ProgressAction

# Prompts and grades are small texts; a folder with more is not evaluation data.
LONGEST_DATA = 16 << 20


def read_folder(folder: str) -> dict[str, str]:
    """Path below the folder -> text, of every file in it. Raises AnvilError."""
    root = Path(folder).expanduser()
    found: dict[str, str] = {}
    try:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                found[path.relative_to(root).as_posix()] = path.read_text(encoding="utf-8")
                if sum(map(len, found.values())) > LONGEST_DATA:
                    raise fail("the folder is too large for evaluation data", where=folder, why="more than 16 MiB")
    except (OSError, UnicodeDecodeError) as exc:
        raise fail("the evaluation data cannot be read", where=folder, why=str(exc)) from exc
    if not found:
        raise fail("there is no evaluation data", where=f"{folder} on the controller", hint="give an existing folder with files")
    return found


class ActionModule(ProgressAction):
    """Run the module anvil_evaluate, and show its progress."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        folder = arguments.pop("eval_data_from", None)
        try:
            if folder:
                arguments["eval_data"] = read_folder(str(folder))
        except AnvilError as error:
            return merge_hash(result, failure_result(error))
        answer, _selector = self.run_with_progress(arguments, task_vars or {})
        return merge_hash(result, answer)
