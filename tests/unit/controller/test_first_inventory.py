# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first inventory of a host: the plan accepts it, no words of the host are templates, later readings are compared."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.host.host_facts import describe_host
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan
from ansible_collections.anvil.serving.plugins.plugin_utils.plan import first_inventory, inventory_folder
from ansible_collections.anvil.serving.plugins.plugin_utils.report.first_steps import describe_host_read, next_commands
from ansible_collections.anvil.serving.plugins.plugin_utils.report.typed_command import read_typed


def uuid(number: int, kind: str = "GPU") -> str:
    return f"{kind}-d0f446cf-1771-414c-e116-{number:012x}"


def card(number: int, name: str | None = "NVIDIA H100 80GB HBM3", **more: Any) -> dict[str, Any]:
    known = {"index": number, "uuid": uuid(number), "name": name, "compute_capability": "9.0", "vram_total_mib": 81559}
    return {**known, "pci_bus_id": f"00000000:0{number}:00.0", "mig": False, "mig_devices": [], "trouble": None, **more}


def facts(*cards: dict[str, Any], held: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    known = {
        "engine": {"version": "28.1.0"},
        "compose": "2.35.0",
        "platform": "linux",
        "disk": {"folder": "/var/lib/docker", "free_mib": 512000},
        "nvidia": {"present": bool(cards), "driver": "580.95.05", "cuda": "13.0"},
        "gpus": list(cards),
        "held_ports": held or {},
        "unread": [],
    }
    return {**known, **more}


def lay_out(read: dict[str, Any], gpu_driver: str = "nvidia") -> dict[str, Any]:
    """All variables of the files."""
    texts = first_inventory.lay_out_inventory("box", "inventory/box", read, gpu_driver, "'/token'")
    assert sorted(texts) == ["gpus.yml", "main.yml", "router.yml", "secrets.yml", "serves.yml"]
    return {key: value for text in texts.values() for key, value in yaml.safe_load(text).items()}


HOSTS = {
    "two different cards": ([card(0, "NVIDIA GeForce RTX 5090"), card(1)], ["rtx-5090", "h100"]),
    "the same card twice": ([card(0), card(1)], ["h100-0", "h100-1"]),
    "names without letters": ([card(0, None), card(1, "NVIDIA"), card(2, "日本")], ["gpu-0", "gpu-1", "gpu-2"]),
    "no card": ([], []),
    "a lost card": ([card(0, trouble="GPU is lost", uuid=""), card(1)], ["h100"]),
    "a card without a readable UUID": ([card(0, uuid="N/A"), card(1)], ["h100"]),
    "a small card": ([card(0, "Tesla M4", vram_total_mib=4096)], ["m4"]),
    "a capability that is not known": ([card(0, compute_capability=None)], ["h100"]),
    "MIG devices": (
        [card(0, mig=True, mig_devices=[{"uuid": uuid(7, "MIG"), "profile": "3g.40gb", "vram_total_mib": 40192}])],
        ["h100-3g"],
    ),
    "MIG without devices": ([card(0, mig=True), card(1)], ["h100"]),
    "a name that is a template": ([card(0, "{{ lookup('pipe', 'id') }}\n# {% raw %}: - x")], ["lookup-pipe-id-raw-x"]),
}


@pytest.mark.parametrize("case", HOSTS)
def test_the_plan_accepts_the_first_inventory_with_a_serve(case: str) -> None:
    cards, aliases = HOSTS[case]
    values = lay_out(facts(*cards))
    assert list(values["anvil_gpus"]) == aliases
    serve = {"engine": "llama_cpp", "model": "/models/a.gguf", "port": 30001}
    values["anvil_serves"] = {"fast": {**serve, **({"gpus": aliases[:1], "vram_mib": 1000} if aliases else {})}}
    del values["init_read"]
    plan = build_plan("box", values, {"router_token": "file"})
    assert list(plan.gpus) == aliases and plan.router is not None


def test_no_words_of_the_host_are_a_template_on_the_controller() -> None:
    hostile = "{{ 7 * 7 }}{% set a = 1 %}{# x #}\n\"'\\: &a *a !unsafe"
    read = facts(
        card(0, hostile, compute_capability=hostile, pci_bus_id=hostile, trouble=None),
        card(1, hostile, trouble=hostile, pci_bus_id=hostile),
        held={"8000": hostile},
        engine={"version": hostile},
        compose=hostile,
        nvidia={"present": True, "driver": hostile, "cuda": hostile},
    )
    texts = first_inventory.lay_out_inventory("box", "inventory/box", read, "nvidia", "'/token'")
    for name in ("gpus.yml", "main.yml", "router.yml", "serves.yml"):
        assert not {"{{", "{%", "{#"} & {text[at : at + 2] for text in [texts[name]] for at in range(len(text))}, texts[name]
        assert yaml.safe_load(texts[name])
    assert "compute_capability" not in texts["gpus.yml"]


def test_a_held_port_is_told_and_the_next_one_is_taken() -> None:
    texts = first_inventory.lay_out_inventory("box", "i", facts(held={"8000": "nginx", "30001": "a container"}), "nvidia", "'/t'")
    assert "# port 8000 is held by nginx" in texts["router.yml"] and "127.0.0.1:8001" in texts["router.yml"]
    assert "port: 30002" in texts["serves.yml"]


def test_a_card_that_reports_no_memory_is_left_to_the_operator() -> None:
    text = first_inventory.lay_out_inventory("box", "i", facts(card(0, vram_total_mib=None)), "nvidia", "'/t'")["gpus.yml"]
    assert "vram_mib" not in yaml.safe_load(text)["anvil_gpus"]["h100"] and "# The driver reports no memory" in text


def test_cdi_and_wsl2_are_written_where_the_host_has_them() -> None:
    values = lay_out(facts(card(0), platform="wsl2"), "cdi")
    assert values["anvil_gpu_driver"] == "cdi" and values["anvil_platform"] == "wsl2"
    assert "anvil_gpu_driver" not in lay_out(facts(card(0)))


def reading(values: Any, now: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What differs from the written variables, and the diff."""
    written = first_inventory.read_written(values)
    read = first_inventory.read_facts(now, written.cards)
    return first_inventory.compare_readings(written, read), first_inventory.lay_out_difference("box", written, read, "gpus.yml")


def test_the_same_host_does_not_differ() -> None:
    for cards in ([], [card(0), card(1, "NVIDIA L4")]):
        assert reading(lay_out(facts(*cards)), facts(*cards)) == ([], [])


def test_what_an_operator_has_renamed_or_reserved_is_no_difference() -> None:
    written = {"anvil_gpus": {"big": {"uuid": uuid(0).upper(), "vram_mib": 81560, "reserve_mib": 9000}}}
    assert reading(written, facts(card(0)))[0] == []


def test_a_new_a_lost_and_a_changed_card_and_another_driver_are_told_with_a_diff() -> None:
    written = lay_out(facts(card(0), card(1, "NVIDIA L4")))
    h100, l4 = written["anvil_gpus"].values()
    written["anvil_gpus"] = {"big": {**h100, "reserve_mib": 5}, "l4": l4}
    now = facts(card(0, vram_total_mib=97000), card(2, "NVIDIA T4"), nvidia={"present": True, "driver": "590.1", "cuda": "13.0"})
    differences, diff = reading(written, now)
    assert differences == [
        "big: vram_mib 81559 is written, and the driver reports 97000",
        f"new card: NVIDIA T4, {uuid(2)}, 81559 MiB",
        f"card l4 is not on the host any more: {uuid(1)}",
        "driver: 580.95.05 was read, and now it is 590.1",
    ]
    changed = [line for line in diff if line[:1] in "+-" and not line.startswith(("+++", "---"))]
    assert '+  driver: "590.1"' in changed and "-    vram_mib: 81559" in changed and "+  t4:  # NVIDIA T4" in changed
    assert not [line for line in changed if "reserve_mib: 5" in line]


@pytest.mark.parametrize("values", [None, [], {"anvil_gpus": ["a"]}, {"anvil_gpus": {"a": "b"}, "init_read": 3}])
def test_variables_of_another_shape_are_left_to_the_plan(values: Any) -> None:
    assert reading(values, facts(card(0)))[0] == [f"new card: NVIDIA H100 80GB HBM3, {uuid(0)}, 81559 MiB"]


def test_a_machine_without_docker_is_described_and_prepared_first() -> None:
    read = describe_host(DockerEngine("unix:///nowhere/docker.sock"), (8000,), partial=True)
    assert read["engine"]["version"] is None and "docker" in read["unread"][0].lower()
    with pytest.raises(AnvilError):
        describe_host(DockerEngine("unix:///nowhere/docker.sock"))
    missing = {"missing": ["engine"], "tolerated": [{"what": "Docker does not answer", "where": "/var/run/docker.sock"}]}
    lines = describe_host_read(facts(engine={"version": None}, compose=""), missing)
    assert lines[0].startswith("no Docker Engine, no Compose, no NVIDIA driver")
    assert lines[-1] == "missing: Docker does not answer (/var/run/docker.sock)"


@pytest.mark.parametrize(
    ("typed", "lacks", "commands"),
    [
        ("playbooks/init.yml", False, ["playbooks/discover.yml -i i -e folder=/srv/models", "site.yml -i i"]),
        ("init.yml", False, ["discover.yml -i i -e folder=/srv/models", "../site.yml -i i"]),
        (
            "anvil.serving.init",
            True,
            ["anvil.serving.prepare -i i -b", "anvil.serving.discover -i i -e folder=/srv/models", "anvil.serving.site -i i"],
        ),
    ],
)
def test_the_next_commands_are_typed_as_the_first_one_was(typed: str, lacks: bool, commands: list[str]) -> None:
    command = read_typed(["/bin/ansible-playbook", typed, "-i", "h,"], lambda _name: "/bin/ansible-playbook", "/")
    found = next_commands(command, "i", lacks, lambda _path: True)
    assert found == [f"ansible-playbook {one}" for one in commands]


def test_a_token_is_private_and_is_never_made_twice(tmp_path: Path) -> None:
    path = tmp_path / "config" / "router-token"
    assert inventory_folder.make_token(path)
    first = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(first.strip()) == 64 and not inventory_folder.make_token(path) and path.read_text() == first
    assert [one.name for one in path.parent.iterdir()] == ["router-token"]


def test_a_folder_that_exists_is_not_touched(tmp_path: Path) -> None:
    inventory_folder.write_folder(tmp_path / "host_vars" / "box", {"main.yml": "a: 1\n"})
    with pytest.raises(AnvilError, match="cannot be made"):
        inventory_folder.write_folder(tmp_path / "host_vars" / "box", {"main.yml": "a: 2\n"})
    assert [one.name for one in (tmp_path / "host_vars").iterdir()] == ["box"]
    assert (tmp_path / "host_vars/box/main.yml").read_text() == "a: 1\n"


def test_variables_are_found_in_a_file_and_in_a_folder_and_with_tags(tmp_path: Path) -> None:
    (tmp_path / "host_vars").mkdir()
    file = tmp_path / "host_vars" / "box.yml"
    file.write_text("anvil_gpus: {big: {uuid: u}}\ntoken: !vault |\n  abc\n")
    found = inventory_folder.list_variable_files(tmp_path, "box")
    assert inventory_folder.find_variables(found, ("anvil_gpus",)) == ({"anvil_gpus": {"big": {"uuid": "u"}}}, file)
    file.write_text("a: [")
    with pytest.raises(AnvilError, match="cannot be read"):
        inventory_folder.find_variables(found, ("anvil_gpus",))
