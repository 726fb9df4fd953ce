# SPDX-License-Identifier: GPL-3.0-or-later
"""Check the GPUs of a serve: which cards, how they are pinned, and what follows from the cards for its engine."""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.card_capabilities import find_capability, torch_environment
from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import Settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engine_options import CONFIG, DEVICE, KV_TYPE, SLEEP
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import Engine
from ansible_collections.anvil.serving.plugins.module_utils.catalog.parallelism import states_parallelism
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import Gpu
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_engines import SharedSettings
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_gpus import InventoryGpus
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    Section,
    describe_value,
    shorten,
    suggest_name,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import TRT_LABEL

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def read_gpu_aliases(section: Section, gpus: InventoryGpus) -> Tuple[Tuple[str, ...], bool]:
    """The aliases in ``gpus``, and whether all of them are cards without a mistake."""
    listed = section.check.read_list(section.path_of("gpus"), section.raw.get("gpus"), "gpus: [alias]")
    found: List[str] = []
    for path, alias in listed or ():
        if not isinstance(alias, str):
            section.check.add_problem(
                path, "must be the alias of a GPU, not {0}".format(describe_value(alias)), "for example: gpus: [big]"
            )
        elif alias in found:
            section.check.add_problem(path, "GPU {0} is listed twice".format(alias), "list each GPU once")
        elif gpus.aliases is not None and alias not in gpus.aliases:
            hint = suggest_name(alias, gpus.aliases, "anvil_gpus has no GPU: add this one there")
            section.check.add_problem(path, "unknown GPU {0!r}".format(shorten(alias)), hint)
        else:
            found.append(str(alias))
    sound = (listed is not None or not section.has("gpus")) and all(alias in gpus.by_alias for alias in found)
    return tuple(found), sound and len(found) == len(listed or ())


def decide_visible_devices(section: Section, pin: str, cards: Sequence[Gpu], platform: str) -> Tuple[str, ...]:
    """The value of ``CUDA_VISIBLE_DEVICES``; empty if the device reservation alone pins the serve.

    On WSL2 a container sees every card of the host, so the indexes are those of the host. Elsewhere a container sees only its
    own cards, numbered from 0.
    """
    if pin == "uuid":
        return tuple(card.uuid for card in cards)
    if pin == "device_ids":
        if cards and platform == "wsl2":
            section.add_note(
                "gpu_pin", "on WSL2, device_ids does not pin a serve, because every container sees every card: use uuid or index"
            )
        return ()
    for card in cards:
        if card.index is None:
            section.add_problem(
                "gpu_pin",
                "gpu_pin is index, but GPU {0} has no index".format(card.alias),
                "set anvil_gpus.{0}.index to the index that nvidia-smi -L prints, or use gpu_pin: uuid".format(card.alias),
            )
    if platform == "wsl2":
        return tuple(str(card.index) for card in cards)
    return tuple(str(number) for number in range(len(cards)))


def describe_cards(cards: Sequence[Gpu]) -> Dict[str, str]:
    """``GPU_SM_ARCH`` (such as ``sm120``) and ``DETECTED_GPU_NAME``, for programs that choose their defaults by the card.

    Of several cards it is the one that can least: what it supports, all of them support. Nothing is set where the compute
    capability of a card is unknown.
    """
    if not cards or not all(card.compute_capability for card in cards):
        return {}
    least = min(cards, key=lambda card: tuple(int(part) for part in card.compute_capability.split(".")))
    found = {"GPU_SM_ARCH": "sm" + least.compute_capability.replace(".", "")}
    return {**found, "DETECTED_GPU_NAME": least.name} if least.name else found


def decide_card_environment(
    section: Section, engine: Engine, shared: SharedSettings, settings: Settings, cards: Sequence[Gpu], platform: str
) -> Dict[str, str]:
    """Environment variables that follow from the compute capability of all cards of a serve. The inventory's own values take
    precedence. A note lists what was set."""
    versions = [card.compute_capability for card in cards if card.compute_capability]
    if not engine.torch or not versions:
        return {}
    if len(versions) < len(cards):
        section.add_note(
            "gpus", "not every card has a compute_capability in anvil_gpus, so nothing is derived from it for this serve"
        )
        return {}
    given = set(shared.environment) | set(shared.secrets)
    if given.intersection(ALLOCATOR_VARIABLES):  # two names of one setting
        given.update(ALLOCATOR_VARIABLES)
    # WSL2's driver has no virtual memory management for expandable segments. The allocator of an engine that can release its
    # memory does not work with them: vLLM before 0.20 ends with an assertion.
    decided = torch_environment(versions, expandable=platform != "wsl2" and not settings.is_on(SLEEP))
    found = {name: value for name, value in decided.items() if name not in given}
    if found:
        listed = ", ".join("{0}={1}".format(name, value) for name, value in found.items())
        section.check.add_note(section.path, "set from the compute capability of its cards: " + listed)
    rows = [find_capability(version) for version in versions]
    if all(row and row.fp8 for row in rows) and not settings.has(KV_TYPE):
        # SGLang has no word without the form of the bits.
        word = "fp8_e4m3" if settings.engine == "sglang" else "fp8"
        section.add_note(
            "args",
            "its cards support an fp8 KV cache, which takes half the memory: {0} {1}".format(settings.spelling(KV_TYPE), word),
        )
    return found


def decide_parallel_arguments(
    section: Section, engine: Engine, settings: Settings, model: Optional[str], cards: int
) -> Tuple[str, ...]:
    """The argument that lets an engine use all cards of its serve, unless the arguments say how it uses them.

    Without one, vLLM, SGLang and TensorRT-LLM load the whole model on the first card. A folder with a TensorRT-LLM engine was
    built for a number of cards, and the engine takes it from there.
    """
    if cards < 2 or not engine.parallel_flag or TRT_LABEL.fullmatch((model or "").rstrip("/").rpartition("/")[2]):
        return ()
    if (settings.text(DEVICE) or "").lower() == "cpu":
        return ()
    if states_parallelism(settings):
        if settings.has(CONFIG):
            section.add_note(
                "args",
                "{0} may say how the serve uses its {1} cards, so no parallel flag was added".format(
                    settings.spelling(CONFIG), cards
                ),
            )
        return ()
    section.add_note("gpus", "the serve has {0} cards, so it gets {1} {0}".format(cards, engine.parallel_flag))
    return (engine.parallel_flag, str(cards))
