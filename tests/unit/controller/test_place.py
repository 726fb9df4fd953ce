# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/place.yml over the fleet of the docs: no host is contacted, and the plan accepts what it writes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.proposed_serves import Fleet, check_folder, choose_serves
from conftest import COLLECTIONS, REPO

pytestmark = pytest.mark.slow

NEW = """
anvil_serves:
  coder: {engine: vllm, model: x/coder, gpus: 2, port: 30020, vram_mib: 38000}
  small: {engine: vllm, model: x/small, port: 30021, vram_mib: 9000}
"""


BAD = """
bad: {engine: vllm, model: x/y, port: 30040, vram_mib: 10, prot: 1}
good: {engine: vllm, model: x/y, port: 30041, vram_mib: 10}
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    return Path(shutil.copytree(REPO / "inventory/fleet", tmp_path / "fleet"))


def play(fleet: Path, playbook: str, *words: str) -> tuple[int, str]:
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "NO_COLOR": "1",
    }
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), str(REPO / "playbooks" / playbook), "-i", fleet.name, *words]
    done = subprocess.run(argv, env=environment, cwd=fleet.parent, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_one_more_backend_is_proposed_and_nothing_is_written_unasked(fleet: Path) -> None:
    code, printed = play(fleet, "place.yml", "-e", "serve=embed", "-e", "backends=2")
    assert code == 0, printed
    assert "serve embed: gpu1 on gpu0" in printed and "serve embed: gpu3 on gpu1" in printed
    assert "serve fast 41000 + serve embed 24000 = 65000 of 81559 - 1024 reserve = 80535 MiB; 15535 MiB stay free" in printed
    assert not list(fleet.rglob("placed-*"))


def test_what_is_written_is_planned_and_a_second_run_proposes_no_other_place(fleet: Path) -> None:
    (fleet.parent / "new.yml").write_text(NEW)
    code, printed = play(fleet, "place.yml", "-e", "serves=new.yml", "-e", "output=fleet")
    assert code == 0, printed
    assert sorted(path.parent.name + "/" + path.name for path in fleet.rglob("placed-*")) == [
        "gpu1/placed-coder.yml",
        "gpu3/placed-small.yml",
    ]
    code, printed = play(fleet, "render.yml", "-e", "output=rendered", "-e", "explain=true", "-l", "gpu1")
    assert code == 0, printed
    assert 'anvil_serves.coder.gpus: ["gpu0", "gpu1"]    fleet/host_vars/gpu1/placed-coder.yml:' in printed
    code, printed = play(fleet, "place.yml", "-e", "serve=coder", "-e", "backends=3")
    assert code != 0
    assert "serve coder: 0 of 3 backends have a place" in printed
    assert "gpu1: it has a serve of this name" in printed


def test_a_mistake_of_a_serve_is_told_once_and_a_host_with_a_mistake_is_left_out(fleet: Path) -> None:
    with (fleet / "host_vars/gpu1/main.yml").open("a") as file:
        file.write("anvil_network: a b\n")
    (fleet.parent / "new.yml").write_text(BAD)
    code, printed = play(fleet, "place.yml", "-e", "serves=new.yml", "-l", "gpu")
    assert code != 0
    assert "serve good: gpu3 on gpu1" in printed
    assert printed.count("gpu2, gpu3: anvil_serves.bad.prot: unknown key") == 1
    assert "gpu1 is left out: its inventory has a mistake: anvil_network" in printed
    assert "no place for: bad. The reasons are above." in printed


@pytest.mark.parametrize(
    ("name", "document", "hint"),
    [
        ("embde", None, "did you mean embed?"),
        ("other", None, "use one of: embed"),
        ("", None, "type -e serve=NAME for one more backend, or -e serves=FILE.yml for new serves"),
        ("nwe", {"new": {}}, "did you mean new?"),
        ("", ["new"], "write it as anvil_serves, and gpus as a number: {new: {engine: vllm, …, gpus: 1}}"),
        ("", {"new": 1}, "write it as anvil_serves, and gpus as a number: {new: {engine: vllm, …, gpus: 1}}"),
    ],
)
def test_a_serve_that_is_not_there_has_a_suggestion(name, document, hint):
    with pytest.raises(AnvilError) as caught:
        choose_serves(Fleet(serves={"gpu2": {"embed": {}}}), name, document, 1)
    assert [problem.hint for problem in caught.value.problems] == [hint]


def test_a_file_that_the_new_folder_would_hide_is_named(tmp_path):
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars/gpu1.yaml").write_text("anvil_root: /x")
    check_folder(tmp_path, ["host_vars/gpu2/placed-x.yml"])
    with pytest.raises(AnvilError) as caught:
        check_folder(tmp_path, ["host_vars/gpu1/placed-x.yml", "host_vars/gpu1/placed-y.yml"])
    (problem,) = caught.value.problems
    assert problem.hint.endswith(f"mv {tmp_path}/host_vars/gpu1.yaml {tmp_path}/host_vars/gpu1/main.yml")
