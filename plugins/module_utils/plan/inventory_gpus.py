# SPDX-License-Identifier: GPL-3.0-or-later
"""Check ``anvil_gpus``: the cards of a host."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.card_capabilities import (
    CAPABILITIES,
    VERSION,
    find_capability,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import Gpu
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    NAME,
    NAME_RULE,
    UUID,
    InventoryCheck,
    Section,
)

LINE = re.compile(r"[^\0\n\r]{1,200}")
GPU_KEYS = ("uuid", "vram_mib", "reserve_mib", "index", "compute_capability", "name")


@dataclass(frozen=True)
class InventoryGpus:
    """The cards of the inventory.

    aliases: of all cards; None if ``anvil_gpus`` could not be read. by_alias: the cards without a mistake.
    """

    aliases: Optional[Tuple[str, ...]]
    by_alias: Dict[str, Gpu]


def _read_compute_capability(section: Section) -> str:
    if isinstance(section.raw.get("compute_capability"), float):
        section.add_problem(
            "compute_capability", "must be text, not a number", 'put it in quotes: "12.0"', "YAML reads 12.10 as 12.1"
        )
        return ""
    found = (
        section.read_text(
            "compute_capability",
            'the version that "nvidia-smi --query-gpu=compute_cap --format=csv" prints, in quotes: "12.0"',
            VERSION,
        )
        or ""
    )
    if found and not find_capability(found):
        known = ", ".join(CAPABILITIES)
        section.add_note(
            "compute_capability",
            "compute capability {0} is unknown, so nothing is derived from it (known: {1})".format(found, known),
        )
    return found


def _read_gpu(section: Section, alias: str) -> Optional[Gpu]:
    section.check_keys(GPU_KEYS)
    rule = "GPU- or MIG- and 8-4-4-4-12 hexadecimal digits, as nvidia-smi -L prints it"
    uuid = section.read_text("uuid", rule, UUID)
    vram = section.read_integer("vram_mib", 1, 10**7, "MiB")
    reserve = section.read_integer("reserve_mib", 0, 10**7, "MiB")
    index = section.read_integer("index", 0, 255)
    capability = _read_compute_capability(section)
    name = section.read_text("name", 'the name of the card, as "nvidia-smi -L" prints it: NVIDIA H100 80GB HBM3', LINE)
    memory = "the total memory of the card in MiB, as nvidia-smi prints it; only a plan that asks the driver may lack it"
    for key, hint in (("uuid", rule), ("vram_mib", memory)):
        if not section.has(key):
            section.add_problem(key, "GPU {0} has no {1}".format(alias, key), "set it to " + hint)
    if vram is not None and reserve is not None and reserve >= vram:
        section.add_problem(
            "reserve_mib",
            "the reserve of {0} MiB leaves nothing of the card's {1} MiB".format(reserve, vram),
            "set reserve_mib to less than vram_mib",
        )
        return None
    if uuid is None or vram is None or (section.has("reserve_mib") and reserve is None):
        return None
    head, dash, tail = uuid.partition("-")
    uuid = head.upper() + dash + tail.lower().replace("gpu-", "GPU-")
    return Gpu(alias, uuid, vram, reserve or 0, index, capability, name or "")


def read_gpus(check: InventoryCheck, value: Any) -> InventoryGpus:
    example = "anvil_gpus: {big: {uuid: GPU-…, vram_mib: 97887, reserve_mib: 2048}}"
    section = check.read_mapping(("anvil_gpus",), value, example)
    if section is None:
        return InventoryGpus(() if value is None else None, {})
    aliases, by_alias = [], {}
    uuids: Dict[str, str] = {}
    indexes: Dict[int, str] = {}
    for alias, path, raw in section.read_entries(NAME, NAME_RULE):
        aliases.append(alias)
        inner = check.read_mapping(path, {} if raw is None else raw, example)
        gpu = _read_gpu(inner, alias) if inner else None
        if gpu is None:
            continue
        first = uuids.setdefault(gpu.uuid, alias)
        if first != alias:
            check.add_problem(
                (*path, "uuid"), "{0} is also the UUID of {1}".format(gpu.uuid, first), "keep one alias for each card"
            )
        if gpu.index is not None and indexes.setdefault(gpu.index, alias) != alias:
            check.add_problem(
                (*path, "index"),
                "{0} is also the index of {1}".format(gpu.index, indexes[gpu.index]),
                "set the index that nvidia-smi -L prints for this card",
            )
        by_alias[alias] = gpu
    return InventoryGpus(tuple(aliases), by_alias)
