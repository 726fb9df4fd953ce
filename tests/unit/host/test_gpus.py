"""What nvidia-smi prints, read without guessing: several cards and drivers, and broken ones."""

from __future__ import annotations

import stat
from pathlib import Path

import nvidia_outputs as recorded
import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.host import gpus
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
        (recorded.FAKOLI_DARK, "NVIDIA GeForce RTX 5090", "12.0", 32607, 31607, None),
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
    [
        recorded.MISMATCH,
        "0, GPU-1\n",
        "0, a, b, c, d, e, f, g, h\n",
        "\0\1\2\n",
        '0, "GPU-1\n',
        "x" * 200_000,
        "bash: nvidia-smi: Befehl nicht gefunden\n",
    ],
)
def test_text_without_a_card_is_an_error_with_its_words(text: str) -> None:
    with pytest.raises(AnvilError) as caught:
        parse_cards(text)
    assert text.splitlines()[-1][:1000] in str(caught.value) and len(str(caught.value)) < 3000


@pytest.mark.parametrize(
    ("text", "bus", "trouble"),
    [
        (recorded.LOST, "0000:0B:00.0", "GPU is lost"),
        (recorded.LOST_NEWER, "0000:07:00.0", "Unknown Error"),
        (
            "Unable to determine the device handle for GPU0: 0000:B5:00.0: Unknown Error\nNo devices were found\n",
            "0000:B5:00.0",
            "B5",
        ),
        ("Unable to detect the device handle for GPU0000:B1:00.0: Unknown Error\n", "0000:B1:00.0", "Unknown Error"),
        ("1, [N/A], a, b, c, d, e, f, g\n", "f", "does not report its UUID"),
        ("1, [GPU requires reset], a, b, c, d, e, 00000000:0A:00.0, g\n", "00000000:0A:00.0", "GPU requires reset"),
        ("1, GPU-1, A100, 8.0, [Unknown Error], 4, 550.90, 00000000:0A:00.0, Disabled\n", "00000000:0A:00.0", "Unknown Error"),
        ("1, GPU-1, A100, 8.0, ERR!, 4, 550.90, 00000000:0A:00.0, Disabled\n", "00000000:0A:00.0", "ERR!"),
    ],
)
def test_a_card_that_does_not_work_is_a_card_with_the_driver_s_words(text: str, bus: str, trouble: str) -> None:
    (card,) = parse_cards(text)
    assert card.trouble is not None and trouble in card.trouble and card.pci_bus_id == bus and card.vram_total_mib is None


def test_a_lost_row_does_not_hide_the_other_one() -> None:
    healthy, lost = parse_cards(recorded.LOST_ROW)
    assert (healthy.name, healthy.trouble, lost.uuid, lost.trouble) == ("Tesla T4", None, "", "GPU is lost")


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + recorded.T4,
        recorded.T4.replace("\n", "\r\n"),
        "WARNING: infoROM is corrupted at gpu 0000:00:1E.0\n" + recorded.T4,
        recorded.T4 + "\nWARNING: infoROM is corrupted at gpu 0000:00:1E.0\n",
        "index, uuid, name, compute_cap, memory.total [MiB], memory.used [MiB], driver_version, pci.bus_id, mig.mode.current\n"
        + recorded.T4,
        "/bin/sh: warning: setlocale: LC_ALL: cannot change locale (de_DE.UTF-8)\n" + recorded.T4,
        recorded.T4.replace("15360, 0,", "15360 MiB, 0 MiB,"),
        recorded.T4.replace("Tesla T4", "Tesla T4, rev. 2"),
    ],
)
def test_what_stands_around_a_row_does_not_matter(text: str) -> None:
    (card,) = parse_cards(text)
    assert (card.vram_total_mib, card.vram_used_mib, card.mig, card.trouble) == (15360, 0, None, None)


@pytest.mark.parametrize(
    ("row", "uuid", "name"),
    [
        (
            "0, 54d0709b-0000-0000-0000-9c9f2a3e5d2e, Orin (nvgpu), 8.7, [N/A], [N/A], 540.4.0, N/A, [N/A]",
            "54d0709b-0000-0000-0000-9c9f2a3e5d2e",
            "Orin (nvgpu)",
        ),
        ("0, GPU-1, NVIDIA H100L-2-24C, 9.0, 24576, 1, 570.124, 00000000:02:00.0, [N/A]", "GPU-1", "NVIDIA H100L-2-24C"),
        (
            "0, GPU-1, NVIDIA GB10, 12.1, [Not Supported], [Not Supported], 580.95.05, 0000000F:01:00.0, [N/A]",
            "GPU-1",
            "NVIDIA GB10",
        ),
    ],
)
def test_cards_without_memory_of_their_own_work(row: str, uuid: str, name: str) -> None:
    (card,) = parse_cards(row)
    assert (card.uuid, card.name, card.trouble) == (uuid, name, None)


@pytest.mark.parametrize("text", ["", "\n", "No devices were found\n", "WARNING: infoROM\r\nNo devices were found\r\n"])
def test_no_rows_are_no_cards(text: str) -> None:
    assert parse_cards(text) == []


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


@pytest.mark.parametrize(
    ("text", "what", "do"),
    [
        (recorded.MISMATCH, "was upgraded, and the kernel still runs the old version", "reboot the host"),
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest",
            "not loaded",
            "dkms",
        ),
        (
            "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.",
            "a library of the NVIDIA driver is missing",
            "ldconfig",
        ),
        ("Failed to initialize NVML: GPU access blocked by the operating system", "blocks the access", "wsl --update"),
        ("Failed to initialize NVML: Insufficient Permissions", "may not ask the NVIDIA driver", "become: true"),
        (
            "NVIDIA-SMI has failed: you do not have sufficient permissions.",
            "may not ask the NVIDIA driver",
            "become: true",
        ),
        ("Failed to initialize NVML: Driver Not Loaded", "is not loaded", "modprobe nvidia"),
        ("cudaGetDeviceCount() Error 802: system not yet initialized", "the fabric", "nvidia-fabricmanager"),
        ("Failed to initialize NVML: Unknown Error", "cannot be initialised", "dmesg"),
        ("NVIDIA-SMI has failed because you do not have enough permissions.", "may not ask the NVIDIA driver", "become: true"),
        ("Segmentation fault (core dumped)", "does not report any card", "type nvidia-smi"),
        ("", "does not answer", "type nvidia-smi"),
    ],
)
def test_a_driver_that_fails_is_an_error_with_its_words_and_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, what: str, do: str
) -> None:
    _program(tmp_path, monkeypatch, f"cat <<'END'\n{text}\nEND\nexit 15\n" if text else "exit 15\n")
    with pytest.raises(AnvilError) as caught:
        read_cards()
    (problem,) = caught.value.problems
    assert what in problem.what and do in problem.hint and (text.split("\n")[0] in problem.why)


def test_an_answer_with_a_warning_and_exit_code_14_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warning = "WARNING: infoROM is corrupted at gpu 0000:00:1E.0"
    _program(tmp_path, monkeypatch, f"echo '{warning}' >&2\ncat <<'END'\n{recorded.T4}END\nexit 14\n")
    (card,) = read_cards() or ()
    assert card.name == "Tesla T4"


def test_the_cards_beside_a_lost_one_are_asked_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nvidia-smi ends at the lost card; with -i it answers for the others (a stand-in that does so)."""
    _program(
        tmp_path,
        monkeypatch,
        'lost() { echo "Unable to determine the device handle for GPU0000:0A:00.0: Unknown Error"; exit 255; }\n'
        'row() { echo "$1, GPU-$1, A100, 8.0, 81920, 4, 550.90, 00000000:0$1:00.0, Disabled"; }\n'
        'case "$1 $2" in "-i 0") row 0;; "-i 1") lost;; "-i 2") row 2;;\n'
        '-i*) echo "No devices were found"; exit 6;; *) row 0; lost;; esac\n',
    )
    monkeypatch.setattr(gpus, "PROC_GPUS", str(tmp_path / "none"))
    assert [(card.uuid, card.trouble is None) for card in read_cards() or ()] == [("GPU-0", True), ("GPU-2", True), ("", False)]
    (tmp_path / "proc" / "0000:00:00.0").mkdir(parents=True)
    monkeypatch.setattr(gpus, "PROC_GPUS", str(tmp_path / "proc"))
    _program(
        tmp_path, monkeypatch, f'[ "$2" = 0000:00:00.0 ] && exec echo "{recorded.T4.strip()}"\necho "{recorded.LOST}"; exit 255\n'
    )
    assert [(card.name, card.trouble is None) for card in read_cards() or ()] == [("Tesla T4", True), (None, False)]


@pytest.mark.parametrize("text", [recorded.LOST, recorded.LOST_NEWER])
def test_a_driver_that_knows_only_lost_cards_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    _program(tmp_path, monkeypatch, f"cat <<'END'\n{text}END\nexit 255\n")
    (card,) = read_cards() or ()
    assert card.uuid == "" and card.trouble == text.strip()


def test_a_driver_that_is_late_is_waited_for_and_one_that_hangs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = _program(tmp_path, monkeypatch, "exec sleep 30\n")
    assert gpus.ANSWER_SECONDS >= 60
    monkeypatch.setattr(gpus, "ANSWER_SECONDS", 0.2)
    with pytest.raises(AnvilError) as caught:
        read_cards()
    (problem,) = caught.value.problems
    assert "does not answer in time" in problem.what and "persistence mode" in problem.hint and program in problem.why


def test_the_driver_is_asked_in_english(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(tmp_path, monkeypatch, f"[ \"$LC_ALL\" = C ] || exit 1\ncat <<'END'\n{recorded.T4}END\n")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert read_cards()


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
