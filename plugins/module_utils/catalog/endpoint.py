# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a serve answers and under which model names, as its settings say: TLS, prefix, socket, LoRA modules. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog import engine_options as options
from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import Settings, read_json_table


@dataclass(frozen=True)
class Endpoint:
    """tls: the engine itself speaks TLS. prefix: the path before ``/v1``. socket: a Unix socket instead of a port."""

    tls: bool = False
    prefix: str = ""
    socket: str = ""


def read_endpoint(settings: Settings) -> Endpoint:
    """``--root-path`` does not count: it tells an application that a proxy adds a path, and moves nothing."""
    prefix = (settings.text(options.API_PREFIX) or "").strip("/")
    return Endpoint(
        tls=settings.has(options.TLS_CERTIFICATE) and settings.has(options.TLS_KEY),
        prefix="/" + prefix if prefix else "",
        socket=settings.text(options.SOCKET) or "",
    )


def list_lora_names(settings: Settings, served_name: str) -> Tuple[str, ...]:
    """The model names of the LoRA modules of a serve, as clients write them. llama.cpp has none: it applies all of them.

    vLLM lists each module as a model; SGLang takes ``model:module``.
    """
    if settings.engine not in ("vllm", "sglang"):
        return ()
    names: List[str] = []
    for word in settings.words(options.LORAS):
        table = read_json_table(word) if word.startswith("{") else {"name": word.partition("=")[0]}
        name = (table or {}).get("name") or (table or {}).get("lora_name")
        names += [str(name)] if name else []
    return tuple("{0}:{1}".format(served_name, name) if settings.engine == "sglang" else name for name in names)
