# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""anvil_model with progress on the operator's terminal, and with weights that only the controller has.

The plugin announces the files to the module, which returns those that the host lacks. They are sent in pieces, one module call
for each piece; a last call puts the model in place.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.utils.vars import merge_hash
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.weights.fetch_progress import ProgressLines
from ansible_collections.anvil.serving.plugins.module_utils.weights.local_files import open_files
from ansible_collections.anvil.serving.plugins.module_utils.weights.uploads import ControllerFiles
from ansible_collections.anvil.serving.plugins.plugin_utils.report.action_result import failure_result
from ansible_collections.anvil.serving.plugins.plugin_utils.report.progress import (
    ControllerOutput,
    ProgressAction,
    shows_progress,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.weights.upload import (
    check_archive,
    cut_into_pieces,
    hash_files,
    list_controller_files,
)


class ActionModule(ProgressAction):
    """Run the module anvil_model, and send it weights of the controller that the host lacks."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        arguments = dict(self._task.args)
        if not arguments.get("upload_from") or arguments.get("state", "present") != "present":
            answer, _selector = self.run_with_progress(arguments, task_vars)
            return merge_hash(result, answer)
        try:
            return merge_hash(result, self._upload(arguments, task_vars))
        except AnvilError as error:
            return merge_hash(result, failure_result(error))
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)

    def _call(self, task_vars: dict[str, Any], arguments: dict[str, Any], **handover: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(
            module_name="anvil.serving.anvil_model", module_args={**arguments, "handover": handover}, task_vars=task_vars
        )
        return answer

    def _upload(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        if self._task.async_val:
            raise fail(
                "weights cannot be sent from the controller in the background",
                where="upload_from",
                hint="remove async from the task",
            )
        try:
            path = str(self._find_needle("files", str(Path(arguments["upload_from"]).expanduser())))
        except AnsibleError as exc:
            raise fail(
                "there is nothing to send",
                where=f"{arguments['upload_from']} on the controller",
                why=str(exc),
                hint="correct upload_from; a relative path is searched in files/ beside the playbook or role",
            ) from exc
        announced = list_controller_files(path)
        answer = self._call(task_vars, arguments, step="ask", announced=announced.as_dict())
        if answer.get("failed") or not answer["changed"]:
            return answer
        check_archive(path, str(arguments.get("sha256") or "").lower())
        announced = ControllerFiles(announced.signature, announced.sizes, hash_files(path))
        answer = self._call(task_vars, arguments, step="ask", announced=announced.as_dict())
        if answer.get("failed") or not answer["changed"] or self._task.check_mode:
            return {key: value for key, value in answer.items() if key != "arrived"}
        began = time.monotonic()
        refused = self._send(path, announced, answer, arguments, task_vars)
        if refused is not None:
            return refused
        seconds = max(time.monotonic() - began, 0.001)
        final = self._call(task_vars, arguments, step="seal", announced=announced.as_dict())
        if not final.get("failed"):
            sent = sum(announced.sizes[name] - at for name, at in answer["arrived"].items())
            final["seconds"].update(fetch=round(seconds, 2), mib_per_second=round(sent / seconds / (1 << 20), 1))
        return final

    def _send(
        self,
        path: str,
        announced: ControllerFiles,
        predicted: dict[str, Any],
        arguments: dict[str, Any],
        task_vars: dict[str, Any],
    ) -> dict[str, Any] | None:
        """Send the files that the host lacks. Returns the result of the module where it refuses a piece."""
        if self._connection._shell.tmpdir is None:
            self._make_tmp_path()
        remote = self._connection._shell.join_path(self._connection._shell.tmpdir, "piece")
        begin: dict[str, int] = predicted["arrived"]
        done, need = 0, sum(announced.sizes[name] - at for name, at in begin.items())
        output = ControllerOutput(str(task_vars.get("inventory_hostname", "localhost")), shows_progress(self._task))
        progress, began = ProgressLines(output.write_line, predicted["name"], need), time.monotonic()
        length = max(1, int(arguments.get("piece_mib") or 256)) << 20
        with tempfile.TemporaryDirectory(prefix="anvil-send-") as folder, open_files(path) as files:
            for name, at, count, piece in cut_into_pieces(files, begin, length, folder):
                self._transfer_file(str(piece), remote)
                self._fixup_perms2((self._connection._shell.tmpdir, remote), execute=False)
                taken = {"name": name, "at": at, "size": announced.sizes[name], "sha256": announced.sums[name], "path": remote}
                answer = self._call(task_vars, arguments, step="piece", piece=taken)
                if answer.get("failed"):
                    return answer
                done += count
                progress.report(done, time.monotonic() - began)
        return None
