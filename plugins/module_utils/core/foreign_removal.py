# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove what lies in a folder that a container or another user can write: no link is followed, and no mount is entered.

It needs the same few descriptors for a tree of any depth: folders are moved up before they are emptied.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import List

from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_folder import (
    ENTRY_LIMIT,
    ForeignError,
    ForeignFolder,
    read_mount_number,
    refuse,
)

# How often a folder that fills again is emptied.
ATTEMPTS = 100


def remove(folder: ForeignFolder, path: str) -> None:
    """Remove what lies at a path, with all that lies below it; absence is success.

    Raises ForeignError for a mount below it, and OSError as the system does, such as for an immutable file.
    """
    with contextlib.suppress(FileNotFoundError), folder.parent(path) as (handle, name):
        for _attempt in range(ATTEMPTS):
            try:
                os.unlink(name, dir_fd=handle)
                return
            except (IsADirectoryError, PermissionError):
                if not stat.S_ISDIR(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode):
                    raise
            try:
                top = folder.enter(name, handle, path)
            except ForeignError:
                continue  # it is a link by now
            try:
                _empty(folder, top, path)
            finally:
                os.close(top)
            try:
                os.rmdir(name, dir_fd=handle)
                return
            except OSError as exc:
                if exc.errno not in (errno.ENOTEMPTY, errno.ENOTDIR):
                    raise
        raise refuse(folder.shown(path), "another process still writes there")


def _empty(folder: ForeignFolder, top: int, path: str) -> None:
    own = read_mount_number(top)
    for _round in range(ENTRY_LIMIT):  # others may put new files there as fast as they are removed
        folders = _unlink_files(top, top)
        if not folders:
            return
        for name in folders:
            try:
                below = folder.enter(name, top, path + "/" + name)
            except (FileNotFoundError, ForeignError):
                continue  # replaced meanwhile; the next round sees it
            try:
                if read_mount_number(below) != own:
                    raise refuse(folder.shown(path + "/" + name), "another file system is mounted there")
                _unlink_files(below, top)
            finally:
                os.close(below)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                try:
                    os.rmdir(name, dir_fd=top)
                except OSError as exc:
                    if exc.errno != errno.ENOTEMPTY:
                        raise
    raise refuse(folder.shown(path), "its folders lie too deep, or another process still writes there")


def _unlink_files(handle: int, top: int) -> List[str]:
    """Remove the files of a folder. Its folders are moved to ``top``; those of ``top`` itself are returned."""
    found = []
    with os.scandir(handle) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        try:
            os.unlink(name, dir_fd=handle)
        except FileNotFoundError:
            pass
        except (IsADirectoryError, PermissionError):
            if not stat.S_ISDIR(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode):
                raise
            if handle == top:
                found.append(name)
            else:
                os.rename(name, ".anvil-{0}".format(os.urandom(8).hex()), src_dir_fd=handle, dst_dir_fd=top)
    return found
