# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The templates of the collection, with the quoting that YAML and TOML need. Pure: same values, same text."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jinja2
from ansible import constants
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import CDI_PREFIX

TEMPLATES = Path(__file__).resolve().parents[3] / "templates"
# The preset file of a llama.cpp server with several models, in its container.
MODELS_FILE = "/etc/anvil-serve/models.ini"


def quote(value: Any) -> str:
    """A double-quoted YAML string. A dollar is doubled, because compose would interpolate it."""
    return json.dumps(str(value), ensure_ascii=False).replace("$", "$$")


def toml(value: Any) -> str:
    """A TOML value. Strings, numbers, booleans and lists are the same in JSON and TOML."""
    return json.dumps(value, ensure_ascii=False)


def block(text: str) -> str:
    """The text of a macro without its last newline, because the line that calls the macro ends with one."""
    return text.removesuffix("\n")


def env_file(service: str) -> str:
    """The env file with the secrets of a service, relative to the compose file."""
    return f"env/{service}.env"


@functools.cache
def environment() -> jinja2.Environment:
    """The templates, compiled once."""
    if not TEMPLATES.is_dir():
        raise fail(
            "the templates of the collection are missing",
            where=str(TEMPLATES),
            hint="install it again: ansible-galaxy collection install --force anvil.serving",
        )
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        # Ansible plans each host in a new process: the first one compiles the templates for all hosts of the run.
        bytecode_cache=jinja2.FileSystemBytecodeCache(constants.DEFAULT_LOCAL_TMP),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (YAML and TOML, not HTML; every value goes through quote or toml)
    )
    made.filters.update(block=block, quote=quote, toml=toml)
    made.globals.update(env_file=env_file, models_file=MODELS_FILE, cdi_prefix=CDI_PREFIX)
    return made


def render_template(name: str, /, **values: Any) -> str:
    """The text of one template with these values."""
    return environment().get_template(name).render(values)
