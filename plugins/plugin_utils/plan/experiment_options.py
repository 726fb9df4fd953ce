# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the options of an experiment as they were typed: its name, GPUs, arguments and time to live. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import NAME, NAME_RULE, UUID

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class ExperimentOptions:
    """The options of an experiment, parsed. ttl: seconds; 0 is no limit. Empty: the default of the inventory applies."""

    name: str
    model: str = ""
    engine: str = "vllm"
    image: str = ""
    served_name: str = ""
    port: str = ""
    gpu: str = ""
    extra_args: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()
    vram_mib: str = ""
    ready_timeout: str = ""
    mem_limit: str = ""
    pids_limit: str = ""
    ttl: int = 0
    profiles: tuple[str, ...] = ()


def parse_ttl(text: str) -> int:
    """``90``, ``90s``, ``30m``, ``2h``, ``1d`` in seconds; an empty text and ``never`` are 0. Raises AnvilError otherwise."""
    word = text.strip().lower()
    if word in ("", "never", "none"):
        return 0
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", word)
    if not match or not int(match[1]):
        raise fail(
            f"{text!r} is not a time to live", where="ttl", hint="use a number with s, m, h or d, such as 30m, 2h or 1d; or never"
        )
    return int(match[1]) * UNITS[match[2] or "s"]


def split_words(text: str) -> tuple[str, ...]:
    """``extra_args``, split as a shell would split it. No shell runs."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise fail("the text cannot be split into words", where="extra_args", why=str(error), hint="close the quotes") from error


def derive_name(text: str) -> str:
    """The default name of an experiment: ``openai/gpt-oss-20b`` becomes ``gpt-oss-20b``."""
    last = text.rstrip("/").rsplit("/", 1)[-1].lower()
    return re.sub(r"[^a-z0-9_-]+", "-", re.sub(r"\.(gguf|ya?ml)$", "", last)).strip("-_")[:40]


def check_name(name: str) -> str:
    """The name itself. Raises AnvilError if an experiment cannot have it."""
    if not NAME.fullmatch(name):
        raise fail(f"{name!r} is not a valid name for an experiment", where="name", hint="use " + NAME_RULE)
    return name


def choose_gpus(words: str, base: HostPlan) -> list[str]:
    """The aliases of the GPUs in ``gpu=…``: aliases, UUIDs, or names of serves for their GPUs, separated by commas."""
    by_uuid = {gpu.uuid.lower(): alias for alias, gpu in base.gpus.items()}
    by_serve = {serve.name: list(serve.gpus) for serve in base.serves}
    chosen: list[str] = []
    for word in (part.strip() for part in words.split(",")):
        if not word:
            continue
        if word in base.gpus:
            chosen.append(word)
        elif word.lower() in by_uuid:
            chosen.append(by_uuid[word.lower()])
        elif by_serve.get(word):
            chosen.extend(by_serve[word])
        else:
            known = ", ".join([*base.gpus, *(name for name, cards in by_serve.items() if cards)]) or "none"
            raise fail(
                f"{word!r} is not a GPU of this host",
                where="gpu",
                hint=f"use an alias of anvil_gpus, the UUID of any card, or the name of a serve for its GPUs; known: {known}",
            )
    return list(dict.fromkeys(chosen))


def choose_uuids(words: str, base: HostPlan) -> list[str]:
    """The UUIDs of the GPUs in ``gpu=…``."""
    return [base.gpus[alias].uuid for alias in choose_gpus(words, base)]


def list_unknown_uuids(words: str, base: HostPlan) -> list[str]:
    """The UUIDs in ``gpu=…`` that the inventory does not have."""
    known = {gpu.uuid.lower() for gpu in base.gpus.values()}
    parts = [part.strip() for part in words.split(",")]
    return [word for word in dict.fromkeys(parts) if UUID.fullmatch(word) and word.lower() not in known]


def add_cards(unknown: Sequence[str], cards: Sequence[Mapping[str, Any]], base: HostPlan) -> dict[str, dict[str, Any]]:
    """``anvil_gpus`` with the cards that the inventory lacks. cards: as ``anvil_host_info`` lists them; MIG devices count.

    Raises AnvilError for a UUID that the driver does not know, or whose memory it does not report.
    """
    devices = [device for card in cards for device in (card, *(card.get("mig_devices") or ()))]
    memory = {str(one.get("uuid")).lower(): one.get("vram_total_mib") for one in devices}
    found = {
        alias: {"uuid": gpu.uuid, "vram_mib": gpu.vram_mib, "reserve_mib": gpu.reserve_mib}
        | ({} if gpu.index is None else {"index": gpu.index})
        | ({"compute_capability": gpu.compute_capability} if gpu.compute_capability else {})
        | ({"name": gpu.name} if gpu.name else {})
        for alias, gpu in base.gpus.items()
    }
    problems = []
    for uuid in unknown:
        if uuid.lower() not in memory:
            listed = ", ".join(str(one.get("uuid")) for one in devices) or "none"
            hint = "choose one that the driver lists (nvidia-smi -L on the host)"
            problems.append(Problem(f"GPU {uuid} is not on this host", "gpu", f"the driver lists: {listed}", hint))
        elif not memory[uuid.lower()]:
            hint = "add the card to anvil_gpus with its vram_mib"
            problems.append(Problem(f"the driver does not report the memory of GPU {uuid}", "gpu", hint=hint))
        else:
            found[re.sub(r"[^a-z0-9]+", "-", uuid.lower())] = {"uuid": uuid, "vram_mib": memory[uuid.lower()]}
    if problems:
        raise AnvilError(*problems)
    return found


def read_options(typed: Mapping[str, Any]) -> ExperimentOptions:
    """The options of anvil_experiment_plan, checked as far as no inventory is needed. Raises AnvilError."""
    if bool(typed["model"]) == bool(typed["compose"]):
        raise fail("an experiment needs either a model or a compose file", where="model", hint="pass -e model=… or -e compose=…")
    for key in ("vram_mib", "ready_timeout", "pids_limit"):
        if typed[key] and not (typed[key].isdigit() and int(typed[key])):
            raise fail(f"{typed[key]!r} is not a whole number above 0", where=key)
    same = ("model", "engine", "image", "served_name", "port", "gpu", "vram_mib", "ready_timeout", "mem_limit", "pids_limit")
    return ExperimentOptions(
        name=check_name(typed["name"] or derive_name(typed["model"] or typed["compose"])),
        extra_args=split_words(typed["extra_args"]),
        environment={key: str(value) for key, value in typed["environment"].items()},
        volumes=tuple(typed["volumes"]),
        ttl=parse_ttl(typed["ttl"]),
        profiles=tuple(typed["profiles"]),
        **{key: typed[key] for key in same},
    )


def refuse_stray_words(variables: Iterable[str]) -> None:
    """Ansible splits ``-e extra_args="--a b"`` at the blank: the second word becomes another variable, or is lost.

    variables: the names of all variables of the task. Raises AnvilError.
    """
    if any(name == "_raw_params" or name.startswith("-") for name in variables):
        raise fail(
            "a part of extra_args was lost on the command line",
            where="extra_args",
            why="ansible-playbook splits -e key=value at blanks",
            hint="quote the value twice: -e \"extra_args='--max-model-len 32768'\"",
        )
