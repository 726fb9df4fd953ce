"""The VRAM ledger: admission of serves to a GPU, and the choice of evictions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card, MigDevice, parse_cards
from ansible_collections.anvil.serving.plugins.module_utils.serves.vram_ledger import (
    Budget,
    Claim,
    Demand,
    choose_evictions,
    format_claims,
    parse_claims,
    weigh,
)
from nvidia_outputs import FAKOLI_DARK as TWO

CARDS = parse_cards(TWO)
ONE, TWO_UUID = CARDS[0].uuid, CARDS[1].uuid
BIG = Budget("big", ONE, 1000, 100)


def idle(used: int | None = 0) -> list[Card]:
    return [replace(CARDS[0], vram_total_mib=1000, vram_used_mib=used)]


def test_a_demand_that_fits_exactly_is_admitted() -> None:
    assert weigh([Demand("s", (ONE,), 500)], [Claim("c", (ONE,), 400)], [BIG], idle(400), {}).problems == {}


def test_one_mib_too_much_is_refused_with_the_arithmetic_and_every_holder() -> None:
    claims = [Claim("serve a", (ONE,), 300), Claim("container b", (ONE,), 101)]
    verdict = weigh([Demand("s", (ONE,), 500)], claims, [BIG], idle(), {})
    (problem,) = verdict.problems["s"]
    assert problem.what == "GPU big: 500 MiB do not fit"
    assert problem.why == (
        "serve a 300 + container b 101 + serve s 500 = 901 MiB; the GPU has 1000 - 100 reserve = 900 MiB: 1 MiB too much"
    )


@pytest.mark.parametrize("by_card", [{}, {ONE: 600, TWO_UUID: 200}])
def test_claims_are_read_back_from_the_label_of_a_container(by_card: dict[str, int]) -> None:
    assert parse_claims(format_claims(600, by_card)) == (600, by_card)


@pytest.mark.parametrize("text", ["", "many", "GPU-1=", "=5", "GPU-1=5,6", "-1", "5.0"])
def test_an_invalid_label_is_an_unknown_claim(text: str) -> None:
    assert parse_claims(text) == (None, {})


def test_a_serve_is_charged_on_each_card_with_its_own_claim() -> None:
    budgets, cards = [Budget("big", ONE, 1000), Budget("small", TWO_UUID, 300)], list(CARDS)
    want = Demand("s", (ONE, TWO_UUID), 600, {ONE: 600, TWO_UUID: 200})
    held = Claim("serve a", (ONE, TWO_UUID), 400, {ONE: 400, TWO_UUID: 100})
    assert weigh([want], [held], budgets, cards, {}).problems == {}
    (problem,) = weigh([want], [replace(held, by_card={ONE: 400, TWO_UUID: 101})], budgets, cards, {}).problems["s"]
    assert problem.what == "GPU small: 200 MiB do not fit" and "serve a 101 + serve s 200 = 301 MiB" in problem.why
    # The memory that an evicted serve frees counts on each card.
    live = [replace(card, vram_total_mib=total, vram_used_mib=total) for card, total in zip(cards, (1000, 300), strict=True)]
    both = replace(held, by_card={ONE: 600, TWO_UUID: 200})
    assert choose_evictions([want], [both], {"a": both}, budgets, live, {}) == ("a",)


SLICED = replace(
    CARDS[0], mig=True, mig_devices=(MigDevice("MIG-1", "1g.24gb", 24000, 10), MigDevice("MIG-2", "1g.24gb", 24000, 10))
)


def test_a_mig_device_has_its_own_memory_and_not_that_of_its_gpu() -> None:
    held = [Claim("container c", ("MIG-1",), 20000)]
    want = Demand("s", ("MIG-2",), 23000)
    assert weigh([want], held, [], [SLICED], {}).problems == {}
    (problem,) = weigh([replace(want, uuids=("MIG-1",))], held, [], [SLICED], {}).problems["s"]
    assert "20000 + serve s 23000 = 43000 MiB; the GPU has 24000 MiB: 19000 MiB too much" in problem.why
    # The memory that the driver reports limits the device size in the inventory.
    budget = Budget("half", "MIG-2", 48000)
    (problem,) = weigh([replace(want, mib=30000)], [], [budget], [SLICED], {}).problems["s"]
    assert "the driver reports only 23990 MiB free of the 30000 MiB needed" in problem.why


def test_a_batch_is_summed_and_each_of_its_serves_is_refused() -> None:
    verdict = weigh([Demand("s", (ONE,), 500), Demand("t", (ONE,), 500)], [], [BIG], idle(), {})
    assert sorted(verdict.problems) == ["s", "t"]


def test_a_card_without_a_budget_offers_its_whole_memory() -> None:
    assert weigh([Demand("s", (ONE,), 1000)], [], [], idle(), {}).problems == {}
    assert "s" in weigh([Demand("s", (ONE,), 1001)], [], [], idle(), {}).problems


@pytest.mark.parametrize(
    ("used", "freed", "fits"),
    [(0, {}, True), (500, {}, False), (500, {ONE: 400}, True), (500, {ONE: None}, True), (None, {}, True)],
)
def test_the_memory_that_the_driver_reports_free_limits_admission(
    used: int | None, freed: dict[str, int | None], fits: bool
) -> None:
    assert (weigh([Demand("s", (ONE,), 600)], [], [BIG], idle(used), freed).problems == {}) is fits


@pytest.mark.parametrize(
    ("used", "words"), [(100, "the driver reports 900 MiB free"), (None, "container x unknown + serve s 500")]
)
def test_an_unknown_claim_is_a_note_and_no_refusal(used: int | None, words: str) -> None:
    verdict = weigh([Demand("s", (ONE,), 500)], [Claim("container x", (ONE,), None)], [BIG], idle(used), {})
    assert verdict.problems == {}
    (note,) = verdict.notes
    assert "container x holds an unknown amount of memory" in note and words in note


SHARED = [Card(0, ONE, "NVIDIA GB10", "12.1", None, None, "580", "0000000F:01:00.0")]
SPARK = Budget("spark", ONE, 122880, 8192)
LITTLE = "GPU spark shares the memory of the host: 60000 MiB are needed, and the host reports 20000 MiB available"


@pytest.mark.parametrize(
    ("need", "system", "freed", "words"),
    [
        (60000, 100000, {}, []),
        (
            60000,
            20000,
            {},
            [LITTLE],
        ),
        (60000, 20000, {ONE: 50000}, []),
        (60000, None, {}, ["GPU spark reports no memory of its own, and the host's is unknown: only the claims are counted"]),
    ],
)
def test_a_lack_of_memory_that_a_gpu_shares_with_its_host_is_a_note_and_no_refusal(
    need: int, system: int | None, freed: dict[str, int | None], words: list[str]
) -> None:
    verdict = weigh([Demand("heavy", (ONE,), need)], [], [SPARK], SHARED, freed, system)
    assert verdict.problems == {} and list(verdict.notes) == words


def test_claims_on_shared_memory_are_counted_and_an_unlabelled_container_is_a_note() -> None:
    claims = [Claim("serve a", (ONE,), 60000), Claim("container comfyui", (ONE,), None)]
    verdict = weigh([Demand("heavy", (ONE,), 50000)], claims, [SPARK], SHARED, {}, 100000)
    assert verdict.problems == {} and "container comfyui holds an unknown amount" in verdict.notes[0]
    (problem,) = weigh([Demand("heavy", (ONE,), 60000)], claims, [SPARK], SHARED, {}, 100000).problems["heavy"]
    assert "= 120000 MiB; the GPU has 122880 - 8192 reserve = 114688 MiB: 5312 MiB too much" in problem.why


def test_a_broken_gpu_does_not_count_as_sharing_the_memory_of_its_host() -> None:
    broken = [replace(SHARED[0], trouble="GPU requires reset")]
    assert weigh([Demand("heavy", (ONE,), 60000)], [], [SPARK], broken, {}, 20000).notes == ()


def test_evictions_are_minimal_and_none_are_chosen_if_they_do_not_help() -> None:
    held = {name: Claim("serve " + name, (ONE,), mib) for name, mib in (("a", 300), ("b", 200), ("c", 100))}
    held["d"] = Claim("serve d", (TWO_UUID,), 900)
    resident = Claim("serve r", (ONE,), 250)

    def evict(mib: int) -> tuple[str, ...]:
        return choose_evictions([Demand("s", (ONE,), mib)], [*held.values(), resident], held, [BIG], idle(None), {})

    assert evict(50) == () and evict(300) == ("a",) and evict(540) == ("a", "b") and evict(650) == ("a", "b", "c")
    assert evict(651) == ()
