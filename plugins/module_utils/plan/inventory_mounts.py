# SPDX-License-Identifier: GPL-3.0-or-later
"""Check the volumes of serves against the policy, read ``anvil_allow_mounts``, and mount weights read-only."""

from __future__ import annotations

import posixpath
import re
from dataclasses import replace
from typing import Any, Iterator, List, Mapping, Sequence, Set, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import flag_of
from ansible_collections.anvil.serving.plugins.module_utils.catalog.container_policy import (
    AllowedMount,
    clean_path,
    is_below,
    is_opened,
    judge_mount,
    parse_allowed,
    suggest_opening,
)
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import CUSTOM
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Mount
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import ServePlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import InventoryCheck, describe_value, shorten

EXAMPLE = "anvil_allow_mounts: [/etc/vllm:ro]"
# Flags whose value is a file or folder that the engine only reads. A path in any other flag may be written.
READING = re.compile(
    r"-(m|mm|md|a)|--(model|model-path|models-preset|models-dir|mmproj|model-draft|lora|lora-scaled|lora-modules|lora-paths"
    r"|control-vector|control-vector-scaled|tokenizer|tokenizer-path|hf-config-path|config|chat-template|chat-template-file"
    r"|speculative-config|speculative-model|speculative-draft-model-path|served-model-name|alias|api-key-file|ssl-[a-z-]+"
    r"|grammar-file|json-schema-file|extra-llm-api-options|generation-config|quantization-param-path|model-vocoder"
    r"|allowed-local-media-path|tool-parser-plugin|reasoning-parser-plugin)"
)


def read_allowed_mounts(check: InventoryCheck, value: Any) -> Tuple[AllowedMount, ...]:
    """``anvil_allow_mounts``: paths of the host that serves and experiments may have although the policy refuses them."""
    found = []
    for path, text in check.read_list(("anvil_allow_mounts",), value, EXAMPLE) or ():
        entry = parse_allowed(text) if isinstance(text, str) else None
        if entry is None:
            shown = shorten(text) if isinstance(text, str) else describe_value(text)
            check.add_problem(path, "{0!r} is not a path of the host".format(shown), "such as " + EXAMPLE)
        else:
            found.append(entry)
    return tuple(found)


def check_mounts(
    check: InventoryCheck,
    serves: Sequence[ServePlan],
    root: str,
    allowed: Sequence[AllowedMount],
) -> None:
    """Refuse volumes that lead to the host."""
    for serve in serves:
        for mount in serve.mounts:
            why = judge_mount(mount.source, mount.read_only, (root,)) if mount.kind == "bind" else ""
            if why and not is_opened(mount.source, mount.read_only, allowed):
                check.add_problem(
                    ("anvil_serves", serve.name, "volumes"),
                    "serve {0} cannot have {1}: {2}".format(serve.name, shorten(mount.source), why),
                    suggest_opening(mount.source, mount.read_only),
                )


def list_written_modes(*sections: Any) -> Set[str]:
    """The paths in the container whose volume says ``:rw`` or ``:ro`` itself. sections: a serve and its engine, as written."""
    found = set()
    for section in sections:
        listed = section.get("volumes") if isinstance(section, Mapping) else None
        for text in listed if isinstance(listed, (list, tuple)) else ():
            parts = str(text).split(":")
            if len(parts) == 3:
                found.add(clean_path(parts[1]))
    return found


def mount_weights_read_only(check: InventoryCheck, serves: Sequence[ServePlan], variables: Mapping[str, Any]) -> List[ServePlan]:
    """The serves, with each volume that holds their weights read-only, unless ``:rw`` is written or the serve writes there."""
    engines, written = variables.get("anvil_engines"), variables.get("anvil_serves")
    return [
        replace(
            serve,
            mounts=tuple(
                _decide_mode(
                    check,
                    serve,
                    mount,
                    list_written_modes(
                        engines.get(serve.engine) if isinstance(engines, Mapping) else None,
                        written.get(serve.name) if isinstance(written, Mapping) else None,
                    ),
                )
                for mount in serve.mounts
            ),
        )
        for serve in serves
    ]


def _decide_mode(check: InventoryCheck, serve: ServePlan, mount: Mount, written: Set[str]) -> Mount:
    target = clean_path(mount.target)
    holds_weights = any(is_below(clean_path(path), target) for path in _list_weights(serve))
    if mount.read_only or target in written or not holds_weights or serve.engine in ("", CUSTOM):
        return mount
    reason = next(_find_writers(serve, target), None)
    if reason is None:
        return replace(mount, read_only=True)
    check.add_note(
        ("anvil_serves", serve.name, "volumes"),
        "{0} holds the weights and stays writable, because {1}; write :rw to say so, or :ro".format(mount.target, reason),
    )
    return mount


def _list_weights(serve: ServePlan) -> List[str]:
    """The absolute paths of a serve's models."""
    listed = [serve.model, *(value for options in serve.models.values() for value in options.values())]
    return [path for path in listed if path.startswith("/")]


def _find_writers(serve: ServePlan, target: str) -> Iterator[str]:
    """Why a serve may write below a path of its container."""
    for home in ("/root/.cache", "/tmp", "/var/tmp", "/home", "/workspace"):
        if is_below(home, target):
            yield "it holds {0} too".format(home)
    for name, value in sorted(serve.environment.items()):
        for word in str(value).split(":"):
            if word.startswith("/") and is_below(clean_path(word), target) and not name.endswith("MODEL"):
                yield "{0} names a path in it".format(name)
    flag = ""
    for word in serve.args:
        if word.startswith("-"):
            flag = flag_of(word)
        value = word.partition("=")[2] if word.startswith("-") else word
        if value.startswith("/") and is_below(posixpath.normpath(value), target) and not READING.fullmatch(flag):
            yield "{0} names a path in it".format(flag or "an argument")
