# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``anvil_gpus``: the cards of a host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.card_capabilities import (
    CAPABILITIES,
    VERSION,
    find_capability,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import Gpu
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import NAME, NAME_RULE, UUID, Check, Node

GPU_KEYS = ("uuid", "vram_mib", "reserve_mib", "index", "compute_capability")


@dataclass(frozen=True)
class Gpus:
    """aliases is None when ``anvil_gpus`` could not be read; by_alias holds the cards without a mistake."""

    aliases: Optional[Tuple[str, ...]]
    by_alias: Dict[str, Gpu]


def _read_capability(node: Node) -> str:
    if isinstance(node.raw.get("compute_capability"), float):
        node.check.wrong(
            node.at("compute_capability"), "text is wanted, not a number", 'put it in quotes: "12.0"', "YAML reads 12.10 as 12.1"
        )
        return ""
    found = node.text("compute_capability", 'as nvidia-smi --query-gpu=compute_cap tells it: "12.0"', VERSION) or ""
    if found and not find_capability(found):
        known = ", ".join(CAPABILITIES)
        node.check.note(node.at("compute_capability"), "nothing is known of {0} (known: {1})".format(found, known))
    return found


def _read_gpu(node: Node, alias: str) -> Optional[Gpu]:
    node.known(GPU_KEYS)
    rule = "GPU- or MIG- and 8-4-4-4-12 hexadecimal digits: nvidia-smi -L tells it"
    uuid = node.text("uuid", rule, UUID)
    vram = node.whole("vram_mib", 1, 10**7, "MiB")
    reserve = node.whole("reserve_mib", 0, 10**7, "MiB")
    index = node.whole("index", 0, 255)
    capability = _read_capability(node)
    for key, hint in (("uuid", rule), ("vram_mib", "the card's total memory in MiB: nvidia-smi tells it")):
        if not node.has(key):
            node.check.wrong(node.at(key), "GPU {0} has no {1}".format(alias, key), hint)
    if vram is not None and reserve is not None and reserve >= vram:
        node.check.wrong(
            node.at("reserve_mib"),
            "the reserve of {0} MiB leaves nothing of {1} MiB".format(reserve, vram),
            "reserve less than vram_mib",
        )
        return None
    if uuid is None or vram is None or (node.has("reserve_mib") and reserve is None):
        return None
    head, dash, tail = uuid.partition("-")
    uuid = head.upper() + dash + tail.lower().replace("gpu-", "GPU-")
    return Gpu(alias=alias, uuid=uuid, vram_mib=vram, reserve_mib=reserve or 0, index=index, compute_capability=capability)


def read_gpus(check: Check, value: Any) -> Gpus:
    example = "anvil_gpus: {big: {uuid: GPU-…, vram_mib: 97887, reserve_mib: 2048}}"
    node = check.mapping(("anvil_gpus",), value, example)
    if node is None:
        return Gpus(() if value is None else None, {})
    aliases, by_alias = [], {}
    uuids: Dict[str, str] = {}
    indexes: Dict[int, str] = {}
    for alias, path, raw in node.entries(NAME, NAME_RULE):
        aliases.append(alias)
        inner = check.mapping(path, {} if raw is None else raw, example)
        gpu = _read_gpu(inner, alias) if inner else None
        if gpu is None:
            continue
        first = uuids.setdefault(gpu.uuid, alias)
        if first != alias:
            check.wrong((*path, "uuid"), "{0} is also the UUID of {1}".format(gpu.uuid, first), "one alias for each card")
        if gpu.index is not None and indexes.setdefault(gpu.index, alias) != alias:
            check.wrong(
                (*path, "index"),
                "{0} is also the index of {1}".format(gpu.index, indexes[gpu.index]),
                "nvidia-smi tells each card's index",
            )
        by_alias[alias] = gpu
    return Gpus(tuple(aliases), by_alias)
