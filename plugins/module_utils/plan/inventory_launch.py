# SPDX-License-Identifier: GPL-3.0-or-later
"""Check ``launch``: the options that llama.cpp's server starts with."""

from __future__ import annotations

from typing import Dict, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import ENGINES, Engine
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import Section

FLASH_ATTENTION = ("on", "off", "auto")


def read_launch(section: Section, engine: Optional[Engine]) -> Dict[str, str]:
    """The options of ``launch``: option -> value, as llama.cpp's command line takes it."""
    known = engine.launch if engine else ENGINES["llama_cpp"].launch
    inner = section.check.read_mapping(
        section.path_of("launch"), section.raw.get("launch"), "launch: {context: 32768, gpu_layers: 99}"
    )
    if inner is None:
        return {}
    if not known:
        section.add_problem("launch", "launch is for engine llama_cpp only", "write the flags into args of this serve")
        return {}
    inner.check_keys(tuple(known))
    found: Dict[str, Optional[str]] = {"flash_attn": _read_switch(inner, "flash_attn")}
    for key, lowest in (("context", 0), ("gpu_layers", 0), ("threads", 1), ("batch", 1), ("ubatch", 1)):
        number = inner.read_integer(key, lowest, 10**8)
        found[key] = None if number is None else str(number)
    mmap = inner.read_boolean("mmap")
    found["mmap"] = None if mmap is None else str(mmap).lower()
    batch, ubatch = found["batch"], found["ubatch"]
    if batch and ubatch and int(ubatch) > int(batch):
        inner.add_problem(
            "ubatch", "ubatch {0} is larger than batch {1}".format(ubatch, batch), "set ubatch to at most {0}".format(batch)
        )
    return {key: value for key, value in found.items() if value is not None}


def _read_switch(section: Section, key: str) -> Optional[str]:
    if isinstance(section.raw.get(key), bool):  # YAML reads a bare on as true
        return "on" if section.raw[key] else "off"
    return section.read_choice(key, FLASH_ATTENTION)


def launch_arguments(launch: Mapping[str, str], engine: Engine) -> Tuple[str, ...]:
    """``launch`` as command line arguments in a fixed order, without the options that are environment variables."""
    words: List[str] = []
    for key, flags in engine.launch.items():
        if key in launch and key not in engine.switches:
            words += [flags[0], launch[key]]
    return tuple(words)


def launch_environment(launch: Mapping[str, str], engine: Engine) -> Dict[str, str]:
    """The environment variables that ``launch`` sets."""
    return {name: value for key, option in launch.items() for name, value in engine.switches.get(key, {}).get(option, {}).items()}
