# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory that would replace a container, as YAML to paste, and its files. What a container says is never a template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.core.files import read_file, write_file
from ansible_collections.anvil.serving.plugins.module_utils.core.printable import make_printable


class _Dumper(yaml.SafeDumper):
    """Texts that Ansible would read as a template are marked ``!unsafe``: they come from a container of somebody else."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> Any:
    if any(sign in text for sign in ("{{", "{%", "{#")):
        return dumper.represent_scalar("!unsafe", text, style='"')
    if make_printable(text) != text:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')  # where `\u202e` is the character itself
    return dumper.represent_str(text)


_Dumper.add_representer(str, _represent_text)


def lay_out_offer(name: str, offer: Mapping[str, Any]) -> str:
    """One serve as YAML for ``host_vars``, with its notes and the secrets that it needs as comments."""
    notes = [*offer["notes"], *(f"anvil_secrets needs {key}: {place}" for key, place in offer["secrets"].items())]
    comments = "".join("# " + " ".join(str(note).split()) + "\n" for note in notes)
    document = ({"anvil_gpus": dict(offer["gpus"])} if offer["gpus"] else {}) | {"anvil_serves": {name: dict(offer["serve"])}}
    return make_printable(comments + yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=140))


def write_offers(folder: Path, texts: Mapping[str, str], check: bool) -> tuple[list[str], bool]:
    """Write ``SERVE.yml`` for each serve; returns the paths, and whether any is new.

    Raises AnvilError if a file exists with another content: somebody may have edited it.
    """
    paths = {folder / f"{name}.yml": text for name, text in texts.items()}
    there = {path: read_file(str(path)) for path in paths}
    problems = [
        Problem(
            "the file exists and has another content",
            str(path),
            "it was written by an earlier run and edited since, or the container has changed",
            "compare it with the text that --check prints; then remove it, or choose another folder with -e output=FOLDER",
        )
        for path, text in paths.items()
        if there[path] not in (None, text)
    ]
    if problems:
        raise AnvilError(*problems)
    fresh = [path for path in paths if there[path] is None]
    if not check:
        for path in fresh:
            write_file(str(path), paths[path], 0o644)
    return sorted(map(str, paths)), bool(fresh)
