"""What nvidia-smi prints, read without guessing: several cards and drivers, and broken ones."""

from __future__ import annotations

import stat
from pathlib import Path

import nvidia_outputs as recorded
import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import (
    MigDevice,
    find_device,
    find_driver,
    parse_cards,
    parse_mig_devices,
    parse_mig_memory,
    query_cards,
    read_cards,
)

TWO = recorded.FAKOLI_DARK


@pytest.mark.parametrize(
    ("text", "name", "capability", "total", "free", "mig"),
    [
        (recorded.FAKOLI_DARK, "NVIDIA RTX PRO 6000 Blackwell", "12.0", 97887, 97883, None),
        (recorded.T4, "Tesla T4", "7.5", 15360, 15360, None),
        (recorded.H100, "NVIDIA H100 80GB HBM3", "9.0", 81559, 81555, False),
        (recorded.H200, "NVIDIA H200", "9.0", 143771, 143770, False),
        (recorded.GB10, "NVIDIA GB10", "12.1", None, None, None),
        (recorded.MIG, "NVIDIA A100-SXM4-40GB", "8.0", 40960, None, True),
        (recorded.JETSON_ORIN, "Orin (nvgpu)", None, None, None, None),
    ],
)
def test_cards_of_many_drivers(
    text: str, name: str, capability: str, total: int | None, free: int | None, mig: bool | None
) -> None:
    card = parse_cards(text)[0]
    assert (card.name, card.compute_capability, card.vram_total_mib, card.vram_free_mib, card.mig) == (
        name,
        capability,
        total,
        free,
        mig,
    )


@pytest.mark.parametrize("name", recorded.CLOUD_TOTALS)
def test_the_memory_of_a_card_is_what_its_driver_tells_not_what_its_name_does(name: str) -> None:
    total = recorded.CLOUD_TOTALS[name]
    (card,) = parse_cards(f"0, GPU-1, {name}, 8.0, {total}, 0, 550.54.14, 00000000:17:00.0, [N/A]\n")
    assert (card.name, card.vram_free_mib) == (name, total)


def test_two_cards_of_one_name_are_two_cards() -> None:
    first, second = parse_cards(recorded.TWO_3090)
    assert first.name == second.name and first.uuid != second.uuid
    assert (first.vram_free_mib, second.vram_free_mib) == (24564, 585)


@pytest.mark.parametrize("word", ["[N/A]", "[Not Supported]", "[Unknown Error]", "ERR!", "[GPU requires reset]", ""])
def test_what_the_driver_does_not_tell_stays_unknown(word: str) -> None:
    (card,) = parse_cards(f"0, GPU-1, {word}, {word}, {word}, 4, {word}, {word}, {word}\n")
    assert (card.name, card.compute_capability, card.vram_total_mib, card.vram_free_mib, card.mig) == (None,) * 5


@pytest.mark.parametrize(
    "text",
    [recorded.LOST, recorded.LOST_NEWER, recorded.LOST_ROW, recorded.MISMATCH, "0, [N/A], a, b, c, d, e, f, g\n", "0, GPU-1\n"],
)
def test_a_row_that_is_no_card_is_an_error_with_its_text(text: str) -> None:
    with pytest.raises(AnvilError) as caught:
        parse_cards(text)
    assert text.splitlines()[-1] in str(caught.value)


def test_no_rows_are_no_cards() -> None:
    assert parse_cards("") == []


def test_mig_devices_of_each_card() -> None:
    found = parse_mig_devices(recorded.MIG_LIST)
    assert found["GPU-e86cb44c-6756-fd30-cd4a-1e6da3caf9b0"] == (
        MigDevice("MIG-c7384736-a75d-5afc-978f-d2f1294409fd", "3g.20gb"),
        MigDevice("MIG-a28ad590-3fda-56dd-84fc-0a0b96edc58d", "3g.20gb"),
    )
    assert found["GPU-5c1a4a77-07b2-4d39-9f6e-3c1f5a1c9e55"] == ()
    four = parse_mig_devices(recorded.MIG_LIST_ONE_OF_FOUR)
    assert [len(devices) for devices in four.values()] == [4, 0, 0, 0]
    old = parse_mig_devices(recorded.MIG_LIST_450)["GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77"]
    assert old == (MigDevice("MIG-GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77/1/0", "1g.5gb"),)


# ------------------------------------------------------------------------------------- a program that answers like it


def _program(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> str:
    path = folder / "nvidia-smi"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    assert find_driver() == str(path)
    return str(path)


def test_an_old_driver_without_a_field_leaves_it_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = _program(
        tmp_path,
        monkeypatch,
        'case "$1" in *compute_cap*) echo \'Field "compute_cap" is not a valid field to query.\'; exit 2;; esac\n'
        'echo "0, GPU-1, Tesla V100-SXM2-16GB, 16160, 0, 470.57.02, 00000000:00:1E.0, [N/A]"\n',
    )
    (card,) = parse_cards(query_cards(program))
    assert (card.compute_capability, card.vram_total_mib, card.driver) == (None, 16160, "470.57.02")


@pytest.mark.parametrize("text", [recorded.LOST, recorded.LOST_NEWER, recorded.MISMATCH])
def test_a_driver_that_fails_is_an_error_with_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    _program(tmp_path, monkeypatch, f"cat <<'END'\n{text}END\nexit 15\n")
    with pytest.raises(AnvilError) as caught:
        read_cards()
    assert text.splitlines()[0] in str(caught.value) and "does not answer" in str(caught.value)


def test_mig_is_listed_only_where_a_card_has_it_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "csv").write_text(recorded.MIG)
    (tmp_path / "list").write_text(recorded.MIG_LIST)
    (tmp_path / "xml").write_text(recorded.MIG_XML)
    answers = f'[ "$1" = -L ] && exec cat {tmp_path}/list\n[ "$1" = -q ] && exec cat {tmp_path}/xml\nexec cat {tmp_path}/csv\n'
    _program(tmp_path, monkeypatch, answers)
    sliced, whole = read_cards() or ()
    assert [device.profile for device in sliced.mig_devices] == ["3g.20gb", "3g.20gb"] and whole.mig_devices == ()
    assert [(device.vram_total_mib, device.vram_free_mib) for device in sliced.mig_devices] == [(19968, 19955), (19968, 10142)]
    second = find_device("MIG-a28ad590-3fda-56dd-84fc-0a0b96edc58d", [sliced, whole])
    assert second is not None and second.vram_free_mib == 10142
    assert find_device("MIG-gone", [sliced, whole]) is None


def test_the_memory_of_mig_devices_that_are_listed_twice_differently_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "csv").write_text(recorded.MIG)
    (tmp_path / "list").write_text(recorded.MIG_LIST)
    (tmp_path / "xml").write_text(recorded.MIG_XML.replace("mig_device>", "gone>", 2))
    answers = f'[ "$1" = -L ] && exec cat {tmp_path}/list\n[ "$1" = -q ] && exec cat {tmp_path}/xml\nexec cat {tmp_path}/csv\n'
    _program(tmp_path, monkeypatch, answers)
    sliced, _whole = read_cards() or ()
    assert [device.vram_total_mib for device in sliced.mig_devices] == [None, None]


@pytest.mark.parametrize("text", ["", "Failed to initialize NVML", recorded.MIG_XML[:400]])
def test_what_is_no_listing_of_mig_devices_is_an_error(text: str) -> None:
    with pytest.raises(AnvilError, match="does not answer"):
        parse_mig_memory(text)


def test_no_devices_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(tmp_path, monkeypatch, "echo 'No devices were found'; exit 6\n")
    assert read_cards() == []
