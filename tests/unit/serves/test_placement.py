# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where serves without a host are placed: the memory of the cards decides, by the arithmetic of the ledger."""

from __future__ import annotations

import itertools

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import Gpu, HostPlan, ServePlan
from ansible_collections.anvil.serving.plugins.module_utils.serves.placement import (
    HostRoom,
    WantedServe,
    count_cards,
    place_serves,
)

PORTS = itertools.count(30000)


def running(name: str, gpus: dict[str, str], mib: int, residency: str = "resident") -> ServePlan:
    port = next(PORTS)
    return ServePlan(name, f"anvil-{name}", "vllm", "a:1", "m", name, port, gpus=tuple(gpus), gpu_uuids=tuple(gpus.values()),
                     vram_mib=mib, residency=residency)  # fmt: skip


def room(name: str, *sizes: int, serves=(), reserve: int = 0, free: list[int] | None = None, args=()) -> HostRoom:
    """A host with cards g0, g1, … of these sizes. serves: (name, card, MiB[, residency]). free: what the driver reports."""
    gpus = {f"g{number}": Gpu(f"g{number}", f"GPU-{name}-{number}", mib, reserve) for number, mib in enumerate(sizes)}
    plans = [running(one, {f"g{card}": f"GPU-{name}-{card}"}, *rest) for one, card, *rest in serves]
    cards = [
        Card(number, gpus[f"g{number}"].uuid, None, None, sizes[number], sizes[number] - mib, None, None)
        for number, mib in enumerate(free or ())
    ]
    return HostRoom(HostPlan(name, "/opt/anvil", "linux", "anvil", gpus, tuple(plans)), {"vllm": tuple(args)}, tuple(cards))


def want(name: str, mib: int | None, cards: int = 1, backends: int = 1, **keys) -> WantedServe:
    """A serve of vLLM. keys take precedence."""
    return WantedServe(name, {"engine": "vllm", "vram_mib": mib, "port": next(PORTS), **keys}, cards, backends)


def place(rooms: dict[str, HostRoom], *wanted: WantedServe):
    return place_serves(wanted, rooms)


def table(proposal) -> list[tuple[str, str, list[str]]]:
    return [(one.serve, one.host, list(one.claims)) for one in proposal.placed]


def hosts(**rooms) -> dict[str, HostRoom]:
    return {name: room(name, *value) if isinstance(value, tuple) else value for name, value in rooms.items()}


def test_a_serve_gets_the_host_with_the_most_free_memory_and_there_the_smallest_card_that_suffices():
    found = place(hosts(a=(24000,), b=(24000, 80000, 32000)), want("x", 30000))
    assert table(found) == [("x", "b", ["g2"])]


def test_serves_are_spread_over_hosts_the_largest_first():
    found = place(hosts(a=(80000,), b=(80000,)), want("s", 10000), want("l", 40000), want("m", 20000))
    assert table(found) == [("l", "a", ["g0"]), ("m", "b", ["g0"]), ("s", "b", ["g0"])]


def test_backends_of_one_serve_are_on_different_hosts_and_not_where_it_runs():
    rooms = hosts(a=room("a", 80000, serves=[("x", 0, 100)]), b=(80000,), c=(80000,))
    found = place(rooms, want("x", 10000, backends=3))
    assert table(found) == [("x", "b", ["g0"]), ("x", "c", ["g0"])]
    assert found.missing == {"x": {"a": "it has a serve of this name"}}


def test_the_arithmetic_is_that_of_the_ledger():
    rooms = hosts(a=room("a", 81559, reserve=1024, serves=[("fast", 0, 41000)]))
    (one,) = place(rooms, want("x", 24000)).placed
    assert one.arithmetic == (
        "g0: serve fast 41000 + serve x 24000 = 65000 of 81559 - 1024 reserve = 80535 MiB; 15535 MiB stay free",
    )
    reason = place(rooms, want("x", 40000)).missing["x"]["a"]
    assert reason.endswith(
        "serve fast 41000 + serve x 40000 = 81000 MiB; the GPU has 81559 - 1024 reserve = 80535 MiB: 465 MiB too much"
    )


@pytest.mark.parametrize(
    ("residency", "other", "fits"),
    [
        ("resident", "resident", False),
        ("resident", "evictable", False),
        ("resident", "on_demand", True),
        ("resident", "off", True),
        ("on_demand", "evictable", True),
        ("on_demand", "resident", False),
    ],
)
def test_only_serves_that_run_together_are_added_up(residency, other, fits):
    rooms = hosts(a=room("a", 80000, serves=[("y", 0, 60000, other)]))
    assert bool(place(rooms, want("x", 30000, residency=residency)).placed) is fits


def test_memory_that_the_driver_reports_as_used_is_not_given_away():
    rooms = hosts(a=room("a", 80000, free=[10000]), b=room("b", 80000, free=[50000]))
    (one,) = place(rooms, want("x", 30000)).placed
    assert (one.host, one.arithmetic[0].endswith("the driver reports 50000 MiB free now")) == ("b", True)
    assert "reports only 10000 MiB free" in place({"a": rooms["a"]}, want("x", 30000)).missing["x"]["a"]


def test_several_cards_are_alike_where_that_is_possible_and_told_where_not():
    found = place(hosts(a=(24000, 32000, 24000)), want("x", 20000, cards=2))
    assert table(found) == [("x", "a", ["g0", "g2"])] and not found.placed[0].notes
    (mixed,) = place(hosts(a=(24000, 32000)), want("x", 20000, cards=2)).placed
    assert mixed.notes == ("the cards differ, so the serve runs at the pace of the slowest and with the memory of the smallest",)


@pytest.mark.parametrize(
    ("keys", "claim"),
    [
        ({"gpu_memory_utilization": 0.5}, 40000),
        ({"args": ["--gpu-memory-utilization", "0.25"]}, 20000),
        ({}, 79000),
        ({"vram_mib": {"of_another_host": 7000}}, 7000),
    ],
)
def test_the_claim_is_that_of_the_plan(keys, claim):
    (one,) = place(hosts(a=room("a", 80000, reserve=1000)), want("x", None, **keys)).placed
    assert one.claims == {"g0": claim}


def test_the_share_of_the_engines_defaults_counts():
    (one,) = place(hosts(a=room("a", 80000, args=["--gpu-memory-utilization", "0.5"])), want("x", None)).placed
    assert one.claims == {"g0": 40000}


def test_a_port_or_a_container_name_in_use_is_the_reason():
    rooms = hosts(a=room("a", 80000, serves=[("y", 0, 100)]))
    port = rooms["a"].plan.serves[0].port
    assert place(rooms, want("x", 10, port=port)).missing["x"]["a"] == f"serve y has port {port}"
    assert place(rooms, want("x", 10, container="anvil-y")).missing["x"]["a"] == "serve y has the container name anvil-y"


def test_a_serve_without_a_card_goes_to_the_host_with_the_fewest_serves():
    found = place(hosts(a=(80000,), b=()), want("x", 10000), WantedServe("cpu", {"engine": "llama_cpp", "port": 1}, 0))
    assert table(found) == [("x", "a", ["g0"]), ("cpu", "b", [])]


@pytest.mark.parametrize(
    ("keys", "cards"),
    [
        ({}, 1),
        ({"gpus": 2}, 2),
        ({"gpus": []}, 0),
        ({"gpus": ["a", "b"]}, 2),
        ({"engine": "vllm", "args": ["--tensor-parallel-size", "2", "--pipeline-parallel-size", 2]}, 4),
        ({"engine": "sglang", "args": ["--tp", "8"]}, 8),
    ],
)
def test_how_many_cards_a_serve_needs(keys, cards):
    assert count_cards(keys) == cards


@pytest.mark.parametrize(
    ("keys", "fits"),
    [
        ({"vram_mib": "20000"}, True),
        ({"vram_mib": "{{ nothing }}"}, False),
        ({"vram_mib": [1]}, False),
        ({"vram_mib": {"a": "x", "b": 5}}, True),
        ({"vram_mib": 10, "args": "--flag", "engine": ["vllm"], "container": 5, "gpus": True}, True),
        ({"vram_mib": True}, False),
    ],
)
def test_values_of_any_type_are_read_without_a_crash(keys, fits):
    count_cards(keys)
    assert bool(place(hosts(a=(80000,)), want("x", 1, **keys)).placed) is fits
