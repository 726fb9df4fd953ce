# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that a compose file reads: env files, ``extends``, ``include``. None of them may lie outside of its folder."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import is_secret_entry

LARGEST_BYTES = 1 << 20
# The value that stands for a secret of an env file on another machine: it has the shape of one, so it is found again.
PLACEHOLDER = "sk-hidden-by-anvil-serving"
ASSIGNMENT = re.compile(r"^(\s*(?:export\s+)?([A-Za-z_][\w.-]*)\s*[=:]\s*)(.*)$")


class _Loader(yaml.SafeLoader):
    """YAML as it is written, with the tags of Compose (``!reset``, ``!override``) ignored."""


def _ignore_tag(loader: yaml.SafeLoader, _suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)  # type: ignore[arg-type]


_Loader.add_multi_constructor("!", _ignore_tag)


@dataclass
class ComposeFiles:
    """A compose file and the files that it reads. name: its name. texts: path below its folder -> text. documents: those that are
    YAML, as they are written."""

    folder: Path
    name: str
    texts: dict[str, str] = field(default_factory=dict)
    documents: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def without_references(self) -> str:
        """The compose file without what it reads from others: to find what else is wrong with it."""
        document = copy.deepcopy(self.documents[self.name])
        if not isinstance(document, dict):
            return ""
        document.pop("include", None)
        services = document.get("services")
        for raw in services.values() if isinstance(services, dict) else ():
            for key in ("env_file", "label_file", "extends") if isinstance(raw, dict) else ():
                raw.pop(key, None)
        return str(yaml.safe_dump(document, sort_keys=False))

    def without_secrets(self) -> dict[str, str]:
        """The texts for another machine: in env files, a placeholder for each secret."""
        return {
            path: text if path in self.documents else "".join(_hide_line(line) for line in text.splitlines(keepends=True))
            for path, text in self.texts.items()
        }


def _hide_line(line: str) -> str:
    found = ASSIGNMENT.match(line.rstrip("\r\n"))
    if found is None or not is_secret_entry(found[2], found[3].strip().strip("\"'")):
        return line
    return found[1] + PLACEHOLDER + "\n"


def collect_files(path: Path) -> ComposeFiles:
    """The compose file and every file that it reads; ``problems`` has each one that is missing, or may not be read."""
    found = ComposeFiles(path.parent.resolve(), path.name)
    _add_document(found, found.folder / path.name)
    return found


def _read(path: Path) -> str:
    try:
        if not path.is_file():
            raise fail("the compose file is not a regular file", where=str(path))
        if path.stat().st_size > LARGEST_BYTES:
            raise fail("the compose file cannot be read", where=str(path), why=f"it is larger than {LARGEST_BYTES} bytes")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise fail("the compose file cannot be read", where=str(path), why=str(error)) from error


def _add_document(found: ComposeFiles, path: Path) -> None:
    name = str(path.relative_to(found.folder))
    if name in found.texts:
        return
    found.texts[name] = _read(path)
    try:
        document = yaml.load(found.texts[name], Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise fail("the compose file is not valid YAML", where=str(path), why=str(error)) from error
    found.documents[name] = document
    if not isinstance(document, Mapping):
        return
    _add_plain(found, path.parent / ".env", required=False)
    for where, value, is_compose, required in _list_references(document):
        reference = _locate(found, path.parent, f"{name}: {where}", value)
        if reference is None:
            continue
        if not reference.exists():
            if required:
                hint = "put the file there, or set required: false"
                found.problems.append(Problem(f"the file {value} does not exist", f"{name}: {where}", hint=hint))
        elif is_compose:
            _add_document(found, reference)
        else:
            _add_plain(found, reference, required)


def _add_plain(found: ComposeFiles, path: Path, required: bool) -> None:
    if path.exists() or required:
        inside = _locate(found, path.parent, path.name, path.name)
        if inside is not None:
            found.texts.setdefault(str(inside.relative_to(found.folder)), _read(inside))


def _locate(found: ComposeFiles, base: Path, where: str, value: str) -> Path | None:
    """The file of a reference; None where it may not be read, with the problem noted."""
    what, hint = "", "copy the file into the folder of the compose file, and write its path there"
    if "$" in value:
        what, hint = f"the path {value} has a variable, so it is not known before it is read", "write the path itself"
    elif "://" in value or value.startswith(("git@", "oci:", "github.com/")):
        what = f"{value} is fetched from another machine"
    elif value.startswith("~") or not _is_inside(found.folder, base / value):
        what = f"the file {value} lies outside of the compose file's folder"
    if what:
        found.problems.append(Problem(what, where, hint=hint))
        return None
    return Path(os.path.normpath(base / value))


def _is_inside(folder: Path, path: Path) -> bool:
    """Also where a link leads, and as it is written."""
    return path.resolve().is_relative_to(folder) and Path(os.path.normpath(path)).is_relative_to(folder)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _list_references(document: Mapping[str, Any]) -> Iterator[tuple[str, str, bool, bool]]:
    """(key, path, whether it is a compose file, whether it must exist) of each file that Compose would read."""
    for item in _as_list(document.get("include")):
        entry = item if isinstance(item, Mapping) else {"path": item}
        for path in _as_list(entry.get("path")):
            yield "include", str(path), True, True
        for path in _as_list(entry.get("env_file")):
            yield "include.env_file", str(path), False, True
        if entry.get("project_directory"):
            yield "include.project_directory", str(entry["project_directory"]) + "/.env", False, False
    services = document.get("services")
    for name, raw in services.items() if isinstance(services, Mapping) else ():
        if not isinstance(raw, Mapping):
            continue
        extends = raw.get("extends")
        if isinstance(extends, Mapping) and extends.get("file"):
            yield f"services.{name}.extends", str(extends["file"]), True, True
        for item in _as_list(raw.get("env_file")):
            required = not (isinstance(item, Mapping) and item.get("required") is False)
            path = item.get("path") if isinstance(item, Mapping) else item
            yield f"services.{name}.env_file", str(path), False, required
        for item in _as_list(raw.get("label_file")):
            yield f"services.{name}.label_file", str(item), False, True
