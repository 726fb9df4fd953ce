# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""anvil_model with progress on the operator's terminal, and with weights that only the controller has.

The plugin announces the files to the module, which returns those that the host lacks. They are sent in pieces, one module call
for each piece; a last call puts the model in place.
"""

from __future__ import annotations

import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.utils.vars import merge_hash
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.weights.checksums import hash_file, hash_stream
from ansible_collections.anvil.serving.plugins.module_utils.weights.fetch_progress import ProgressLines
from ansible_collections.anvil.serving.plugins.module_utils.weights.local_files import LocalFile, compute_signature, open_files
from ansible_collections.anvil.serving.plugins.module_utils.weights.uploads import ControllerFiles
from ansible_collections.anvil.serving.plugins.plugin_utils.report.outcome import as_failure
from ansible_collections.anvil.serving.plugins.plugin_utils.report.progress import Screen, TellingAction, wants_lines


def list_controller_files(path: str) -> ControllerFiles:
    """The names and sizes of the files at a path of the controller, without checksums. Raises AnvilError."""
    try:
        with open_files(path) as files:
            sizes = {name: size for name, size, _open in files}
        signature = compute_signature(path)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as exc:
        raise fail(
            "the weights to send cannot be read",
            where=f"{path} on the controller",
            why=str(exc),
            hint="check the permissions of the folder; an archive that was cut short must be brought again",
        ) from exc
    if not sizes:
        raise fail(
            "there is nothing to send", where=f"{path} on the controller", hint="the folder or archive is empty; check the path"
        )
    return ControllerFiles(signature, sizes, {})


def hash_files(path: str) -> dict[str, str]:
    """The sha256 of every file of a folder or archive."""
    sums = {}
    with open_files(path) as files:
        for name, _size, open_file in files:
            with open_file() as stream:
                sums[name] = hash_stream(stream)
    return sums


def cut_into_pieces(
    files: Iterable[LocalFile], begin: dict[str, int], length: int, folder: str
) -> Iterator[tuple[str, int, int, Path]]:
    """Name, offset, length and temporary file of each piece. begin: the files to cut, each with the offset to begin at.

    All pieces use the same temporary file: the next one overwrites it.
    """
    piece = Path(folder) / "piece"
    for name, size, open_file in files:
        at = begin.get(name)
        if at is None or at >= size > 0:
            continue
        with open_file() as stream:
            stream.seek(at)
            while True:
                left = length
                with piece.open("wb") as out:
                    while left:
                        chunk = stream.read(min(left, 4 << 20))
                        if not chunk:
                            break
                        out.write(chunk)
                        left -= len(chunk)
                yield name, at, length - left, piece
                at += length - left
                if at >= size or left == length:
                    break


class ActionModule(TellingAction):
    """Run the module anvil_model, and send it weights of the controller that the host lacks."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        arguments = dict(self._task.args)
        if not arguments.get("upload_from") or arguments.get("state", "present") != "present":
            answer, _teller = self.tell_while(arguments, task_vars)
            return merge_hash(result, answer)
        try:
            return merge_hash(result, self._upload(arguments, task_vars))
        except AnvilError as error:
            return merge_hash(result, as_failure(error))
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
        self._check_archive(path, str(arguments.get("sha256") or "").lower())
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

    def _check_archive(self, path: str, sha256: str) -> None:
        if not sha256:
            return
        found = hash_file(path)
        if found != sha256:
            raise fail(
                "the archive does not have the checksum that sha256 gives",
                where=f"{path} on the controller",
                why=f"sha256 of the file is {found}, expected {sha256}",
                hint="bring the right archive; nothing was sent",
            )

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
        screen = Screen(str(task_vars.get("inventory_hostname", "localhost")), wants_lines(self._task))
        progress, began = ProgressLines(screen.say, predicted["name"], need), time.monotonic()
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
