# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find and read the env file of a workflow, and check that it sets every variable the workflow needs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.plugin_utils.workflow.options import WorkflowOptions

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def parse_env_file(text: str, path: str) -> dict[str, str]:
    """The variables of ``NAME=value`` lines; comments, ``export`` and quotes are understood.

    Raises AnvilError with every wrong line. No message contains a value.
    """
    values: dict[str, str] = {}
    problems = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip().removeprefix("export ").strip()
        if not line or line.startswith("#"):
            continue
        name, sign, value = line.partition("=")
        name, value = name.strip(), value.strip()
        quote = value[:1] if value[:1] in ("'", '"') else ""
        if not sign or not VARIABLE.fullmatch(name):
            problems.append(Problem("the line is not NAME=value", f"{path}:{number}", hint="quote a value that has line breaks"))
        elif quote and (len(value) < 2 or not value.endswith(quote)):
            problems.append(
                Problem(f"the quotes of {name} are not closed", f"{path}:{number}", hint="close them on the same line")
            )
        else:
            values[name] = value[1:-1] if quote else value.split(" #", 1)[0].rstrip()
    if problems:
        raise AnvilError(*problems)
    return values


def find_env_file(options: WorkflowOptions) -> str:
    """The path of the env file: the option, else ``.env`` beside the workflow or in the current folder, else empty."""
    if options.no_env_file or options.standalone:
        return ""
    if options.env_file:
        if not Path(options.env_file).is_file():
            hint = "pass env_file=PATH of a file that exists, or no_env_file=true and set the variables later"
            raise fail("there is no such env file", where=f"env_file {options.env_file}", hint=hint)
        return str(Path(options.env_file).resolve())
    places = [Path(options.workflow).resolve().parent / ".env", Path.cwd() / ".env"]
    return next((str(place) for place in places if place.is_file()), "")


def read_env_file(path: str) -> dict[str, str]:
    """The variables of an env file; none for an empty path. Raises AnvilError."""
    if not path:
        return {}
    try:
        return parse_env_file(Path(path).read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise fail("the env file cannot be read", where=path, why=str(getattr(error, "strerror", None) or error)) from error


def find_missing_variables(
    variables: Mapping[str, str | None], values: Mapping[str, str], options: WorkflowOptions, env_file: str
) -> Iterator[Problem]:
    """Variables that the workflow needs and the env file does not set."""
    if options.no_env_file or options.standalone:
        return  # the files run without Ansible, with an env file that their user writes
    for name, default in variables.items():
        if default is None and not values.get(name):
            hint = f"write {name}=… into {env_file}" if env_file else f"write {name}=… into a file .env beside the workflow"
            yield Problem(f"the workflow needs the variable {name}", env_file or "env file", "it is not set there", hint)
