# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of an action on the controller: a failure with every mistake, or files written into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, problems_as_dicts
from ansible_collections.anvil.serving.plugins.module_utils.core.files import differs, write_file
from ansible_collections.anvil.serving.plugins.module_utils.core.printable import make_data_printable, make_showable


def failure_result(error: AnvilError, opening: str = "") -> dict[str, Any]:
    """The result of an action that fails: ``msg`` (after the opening line, if one is given) and ``problems``."""
    text = make_showable(error.as_text())
    problems = make_data_printable(problems_as_dicts(error.problems), make_showable)
    return {"failed": True, "msg": f"{opening}\n{text}" if opening else text, "problems": problems}


def count_mistakes(error: AnvilError) -> str:
    """``1 mistake``, ``2 mistakes``."""
    count = len(error.problems)
    return "1 mistake" if count == 1 else f"{count} mistakes"


def write_files(folder: Path, texts: dict[str, str], check: bool) -> tuple[list[str], bool]:
    """Write the texts (path below the folder -> text) that differ from the files there.

    Returns all paths, and whether any file changed. check: write nothing.
    """
    targets = {str(folder / path): text for path, text in texts.items()}
    stale = [path for path, text in targets.items() if differs(path, text, 0o644)]
    if not check:
        for path in stale:
            write_file(path, targets[path], 0o644)
    return sorted(targets), bool(stale)
