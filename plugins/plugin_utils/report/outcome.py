# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What actions on the controller end with: files in a folder, or every mistake at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, problems_as_dicts
from ansible_collections.anvil.serving.plugins.module_utils.core.files import differs, write_file


def as_failure(error: AnvilError, opening: str = "") -> dict[str, Any]:
    """The result of an action that fails: ``msg``, below its opening line if there is one, and ``problems``."""
    text = error.as_text()
    return {"failed": True, "msg": f"{opening}\n{text}" if opening else text, "problems": problems_as_dicts(error.problems)}


def count_mistakes(error: AnvilError) -> str:
    count = len(error.problems)
    return "1 mistake" if count == 1 else f"{count} mistakes"


def write_texts(folder: Path, texts: dict[str, str], check: bool) -> tuple[list[str], bool]:
    """Write what differs (path below the folder -> text); returns all paths, and whether any changed."""
    wanted = {str(folder / path): text for path, text in texts.items()}
    stale = [path for path, text in wanted.items() if differs(path, text, 0o644)]
    if not check:
        for path in stale:
            write_file(path, wanted[path], 0o644)
    return sorted(wanted), bool(stale)
