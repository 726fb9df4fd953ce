# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The example of serves over several hosts, rendered by the playbook; hosts that disagree are refused. Golden files as in
``test_render``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import COLLECTIONS, REPO

pytestmark = pytest.mark.slow

INVENTORY = REPO / "inventory" / "several-hosts"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "several-hosts"
SHOWN = ("spark1", "spark2", "h100a", "h100b", "quad1", "quad4", "desk1", "desk2")


def render(inventory: Path, folder: Path) -> tuple[int, str]:
    playbook = Path(sys.executable).with_name("ansible-playbook")
    argv = [str(playbook), str(REPO / "playbooks/render.yml"), "-i", str(inventory), "-e", f"output={folder}"]
    environment = {
        **os.environ,
        "HOME": str(folder),
        "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
    }
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several-hosts")
    code, printed = render(INVENTORY, folder)
    assert code == 0, printed
    return folder


@pytest.mark.parametrize("host", SHOWN)
def test_each_host_renders_to_its_golden_file(rendered: Path, host: str) -> None:
    text, golden = (rendered / host / "serves/compose.yaml").read_text(), GOLDEN / f"{host}.yaml"
    if os.environ.get("ANVIL_GOLDEN") == "write":
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


def test_docker_compose_accepts_a_service_with_the_network_of_the_host(rendered: Path) -> None:
    for host in ("h100b", "desk2"):
        argv = ["docker", "compose", "-f", str(rendered / host / "serves/compose.yaml"), "config", "--quiet"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_hosts_that_disagree_are_refused_on_both_before_any_is_contacted(tmp_path: Path) -> None:
    inventory = tmp_path / "inventory"
    shutil.copytree(INVENTORY, inventory)
    own = inventory / "host_vars" / "spark2.yml"
    own.write_text(own.read_text() + "anvil_serves__host: {big: {environment: {NCCL_DEBUG: INFO}}}\n")
    cards = yaml.safe_load((inventory / "host_vars" / "h100b.yml").read_text())
    del cards["anvil_gpus"]["h7"]
    (inventory / "host_vars" / "h100b.yml").write_text(yaml.safe_dump(cards))
    code, printed = render(inventory, tmp_path / "out")
    assert code == 2, printed
    assert printed.count("different: environment (NCCL_DEBUG)") == 2, printed
    assert "host h100b cannot run its part: its inventory has 1 mistake" in printed, printed
    assert "unknown GPU 'h7'" in printed and "quad1" in printed, printed
