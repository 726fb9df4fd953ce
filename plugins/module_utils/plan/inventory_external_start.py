# SPDX-License-Identifier: GPL-3.0-or-later
"""Check how an external server is started, for the script that ``render.yml`` writes for the machine where it runs."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import ENGINES
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_engines import read_arguments
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    NO_SPACE,
    Section,
    is_loopback,
    read_address,
)

# The engine whose command line the plan knows outside of containers: one program, no environment of its own.
ENGINE = "llama_cpp"
PROGRAM = "llama-server"
ONE_LINE = re.compile(r"[^\0\n]+")
EXTERNAL_START_KEYS = ("model", "args", "program", "listen", "command")


def read_start(section: Section, served_name: str, port: int, elsewhere: bool) -> Tuple[Tuple[str, ...], Tuple[str, ...]]:
    """(the command line, the arguments of the inventory); both empty where nothing says how the server is started.

    Its words are those of a serve with llama.cpp, or ``command`` as it is. elsewhere: the server is on another machine.
    """
    model = section.read_text("model", "the path of the GGUF file on the machine of the server", ONE_LINE)
    program = (
        section.read_text("program", "the program, or its path, such as /opt/homebrew/bin/llama-server", NO_SPACE) or PROGRAM
    )
    listen = section.read_text("listen", "an IP address of the machine of the server, such as 127.0.0.1")
    address = read_address(section.check, section.path_of("listen"), listen) if listen else None
    if section.has("command"):
        for key in ("model", "args", "program", "listen"):
            if section.has(key):
                section.add_problem("command", "{0} is set too".format(key), "keep command, or the other keys")
        command = read_arguments(section, "command", None)
        if not command:
            section.add_problem("command", "is empty", "for example: command: [mlx_lm.server, --port, 8081]")
        return command, ()
    flags = {flag: "listen" if key == "publish" else key for flag, key in ENGINES[ENGINE].flags.items()}
    args = read_arguments(section, "args", replace(ENGINES[ENGINE], flags=flags))
    if not model:
        for key in ("args", "program", "listen"):
            if section.has(key):
                section.add_problem(key, "the server has no model", "add model: the path of its GGUF file, or use command")
        return (), ()
    if elsewhere and not section.has("listen"):
        section.add_problem(
            "listen",
            "the server is on another machine, and would listen on 127.0.0.1 only",
            "set it to the address of that machine in the network of this host",
        )
    if address and not is_loopback(address) and not section.has("api_key"):
        hint = "set api_key: <name in anvil_secrets>, or listen: 127.0.0.1"
        section.add_problem("listen", "the server listens on {0}, beyond loopback, without an API key".format(address), hint)
    words = (program, "--model", model, "--alias", served_name, "--host", (address or "127.0.0.1").strip("[]"), "--port")
    return (*words, str(port), *args), args
