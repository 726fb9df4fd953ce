# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Interpret a compose file with Docker Compose: that of the controller, else that of the host, which gets no secret."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import is_secret_entry, mask_text
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_config import (
    find_compose,
    run_config,
    run_config_of_texts,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.compose_references import ComposeFiles, collect_files

PROFILES = re.compile(r"^\s*(?:export\s+)?COMPOSE_PROFILES\s*=\s*[\"']?([\w.,* -]*)", re.MULTILINE)
# Interprets a file of that name among these texts on the host; returns what ``run_config`` returns.
RunOnHost = Callable[[str, dict[str, str]], dict[str, Any]]


@dataclass(frozen=True)
class InterpretedFile:
    """document: the project as Compose writes JSON, each ``$`` doubled. extensions: service -> its ``x-anvil``. notes: for the
    operator. problems: why the document is not whole; it shows what else is wrong. profiles: those that ``.env`` chooses."""

    document: dict[str, Any]
    extensions: dict[str, Any]
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    profiles: tuple[str, ...] = ()


def interpret_file(path: Path, run_on_host: RunOnHost) -> InterpretedFile:
    """Raises AnvilError where nothing of the file can be interpreted."""
    files = collect_files(path)
    compose = find_compose()
    if not compose:
        problems = [*files.problems, *_find_clear_secrets(files)]
        if problems:
            raise AnvilError(*problems)
        return _read_answer(files, run_on_host(files.name, files.without_secrets()))
    if files.problems:
        return _interpret_rest(files, compose, files.problems)
    extensions = any("x-anvil" in text for text in files.texts.values())
    try:
        return _read_answer(files, run_config(compose, str(files.folder), files.name, _environment(), extensions))
    except AnvilError as error:
        return _interpret_rest(files, compose, error.problems)


def _interpret_rest(files: ComposeFiles, compose: list[str], problems: Sequence[Problem]) -> InterpretedFile:
    """The file without what it refers to, so that everything that is wrong with it is told at once."""
    texts = {files.name: files.without_references()}
    texts.update({name: text for name, text in files.texts.items() if name == ".env"})
    try:
        found = _read_answer(files, run_config_of_texts(compose, files.name, texts, consistent=False))
    except AnvilError:
        raise AnvilError(*problems) from None
    return replace(found, problems=tuple(problems))


def _read_answer(files: ComposeFiles, found: Mapping[str, Any]) -> InterpretedFile:
    written = (yaml.safe_load(found["text"]) or {}).get("services") or {}
    extensions = {str(name): (raw or {}).get("x-anvil") or {} for name, raw in written.items()}
    where = files.folder / ".env"
    notes = tuple(f"{name} is not set, so it is empty; to set it, write it into {where}" for name in found["unset"])
    chosen = PROFILES.findall(files.texts.get(".env", ""))
    profiles = tuple(word.strip() for word in chosen[-1].split(",")) if chosen else ()
    return InterpretedFile(found["document"], extensions, notes, profiles=profiles)


def _environment() -> dict[str, str]:
    """That of the operator, who may set variables of the file, without those that make Compose read other files."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("COMPOSE_", "DOCKER_"))}


def _find_clear_secrets(files: ComposeFiles) -> Iterator[Problem]:
    """Secrets in the compose files themselves: such a file is not sent to the host."""
    for path, document in files.documents.items():
        services = document.get("services") if isinstance(document, Mapping) else None
        for name, raw in services.items() if isinstance(services, Mapping) else ():
            values = raw if isinstance(raw, Mapping) else {}
            environment = values.get("environment") or {}
            pairs = environment.items() if isinstance(environment, Mapping) else (str(line).split("=", 1) for line in environment)
            entries = [(str(pair[0]), str(pair[1])) for pair in map(list, pairs) if len(pair) == 2 and pair[1] is not None]
            named = [key for key, value in entries if "$" not in value and is_secret_entry(key, value)]
            texts = [str(values.get(key) or "") for key in ("command", "entrypoint")]
            if named or any(mask_text(text) != text and "$" not in text for text in texts):
                yield Problem(
                    "the file holds a secret in clear text" + (": " + ", ".join(named) if named else ""),
                    f"compose: {path}, services.{name}",
                    hint="remove it, and write x-anvil: {secrets: {VARIABLE: <name in anvil_secrets>}} in the service",
                )
