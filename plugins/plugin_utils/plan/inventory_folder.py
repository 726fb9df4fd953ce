# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder of an inventory on the controller: what it says of one host, and new files. An existing file is never written."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail

SUFFIXES = (".yml", ".yaml", ".json")


class _Loader(yaml.SafeLoader):
    """Reads a file of variables; what a tag means (``!vault``, ``!unsafe``) is not needed here."""


def _ignore_tag(loader: yaml.SafeLoader, _suffix: str, node: yaml.Node) -> Any:
    return node.value if isinstance(node, yaml.ScalarNode) else None


_Loader.add_multi_constructor("!", _ignore_tag)


def show_path(path: Path) -> str:
    """A path below the current folder by its place there."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def read_document(path: Path) -> Any:
    """A file of variables. Raises AnvilError if it is not YAML."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 (a SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise fail("the file cannot be read", str(path), str(exc), "correct the file") from exc


def list_variable_files(folder: Path, name: str) -> list[Path]:
    """The files with the variables of a host: ``host_vars/NAME.yml``, and those in ``host_vars/NAME``."""
    here = [folder / "host_vars" / f"{name}{suffix}" for suffix in ("", *SUFFIXES)]
    inner = [path for one in here if one.is_dir() for path in sorted(one.iterdir()) if path.suffix in SUFFIXES]
    return [path for path in [*here, *inner] if path.is_file()]


def find_variables(files: list[Path], names: tuple[str, ...]) -> tuple[dict[str, Any], Path | None]:
    """The variables of these names in the files, and the file of the first name."""
    found: dict[str, Any] = {}
    place = None
    for path in files:
        document = read_document(path)
        for key in names if isinstance(document, Mapping) else ():
            if key in document:
                found[key] = document[key]
                place = path if key == names[0] else place
    return found, place


def names_host(document: Any, name: str) -> bool:
    """Whether an inventory in YAML names a host."""
    if not isinstance(document, Mapping):
        return False
    hosts = document.get("hosts")
    if isinstance(hosts, Mapping) and name in hosts:
        return True
    return any(names_host(value, name) for value in document.values())


def write_folder(folder: Path, texts: Mapping[str, str]) -> None:
    """Make a folder with these files: whole, or not at all. Raises AnvilError if it exists."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        part.chmod(0o755)
        for name, text in texts.items():
            _write_synced(part / name, text, 0o644)
        part.rename(folder)
    except OSError as exc:
        shutil.rmtree(part, ignore_errors=True)
        raise fail(
            "the folder cannot be made", str(folder), str(exc), "remove what is there, or choose another -e folder="
        ) from exc


def write_new(path: Path, text: str, mode: int) -> bool:
    """Write a file that does not exist, whole or not at all; false if it exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        _write_synced(Path(part), text, mode)
        os.link(part, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(part)
    return True


def make_token(path: Path) -> bool:
    """Write a new token of 256 bits with mode 0600 in a folder of mode 0700; false if the file exists."""
    path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    return write_new(path, secrets.token_hex(32) + "\n", 0o600)


def _write_synced(path: Path, text: str, mode: int) -> None:
    with path.open("w", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
