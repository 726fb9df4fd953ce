# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Layers and misspelt names in real inventory folders, read by Ansible's own inventory and variable manager."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultSecretsContext
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar
from ansible.utils.collection_loader import AnsibleCollectionConfig
from ansible.vars.manager import VariableManager
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.experiment import plan_experiment
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.experiment_options import ExperimentOptions
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.explained_variables import explain_variables
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.from_variables import plan_host
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.stray_variables import find_strays
from conftest import COLLECTIONS, REPO

pytestmark = pytest.mark.slow

HOSTS = "all: {children: {gpu: {children: {rack: {hosts: {h1: , h2: }}}}}}"
FAST = "{fast: {engine: vllm, image: a/b:1, model: x/y, port: 30003, gpus: [g]}}"
GPU = "anvil_gpus: {g: {uuid: GPU-00000001-aaaa-4aaa-8aaa-000000000000, vram_mib: 80000, compute_capability: '9.0'}}"
ALL = f"{GPU}\nanvil_serves: {FAST}\n"


class Folder:
    """An inventory folder with hosts h1 and h2 in the group rack, which is in the group gpu."""

    def __init__(self, root: Path, files: dict[str, str], hosts: str = HOSTS) -> None:
        self.root = root
        for name, text in {"hosts.yml": hosts, **files}.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def variables(self, host: str = "h1", source: str = "", **extra):
        loader = DataLoader()
        loader.set_basedir(str(self.root))
        inventory = InventoryManager(loader, [str(self.root / source)])
        manager = VariableManager(loader, inventory)
        manager._extra_vars.update(extra)
        found = manager.get_vars(host=inventory.get_host(host))
        found["ansible_inventory_sources"] = [str(self.root / source)]
        found["ansible_play_hosts_all"] = [one.name for one in inventory.get_hosts()]
        return Templar(loader, found), found

    def plan(self, host: str = "h1", **options):
        templar, found = self.variables(host, **options)
        anvil = {name: value for name, value in found.items() if name.startswith("anvil_")}
        return plan_host(templar, host, anvil, False, strays=find_strays(host, found))

    def mistakes(self, host: str = "h1", **options):
        with pytest.raises(AnvilError) as caught:
            self.plan(host, **options)
        return caught.value.problems


@pytest.fixture
def folder(tmp_path, monkeypatch):
    if AnsibleCollectionConfig.collection_finder is None:
        init_plugin_loader()
    monkeypatch.setattr(VaultSecretsContext, "_current", VaultSecretsContext([]))
    monkeypatch.chdir(tmp_path)
    yield lambda files, hosts=HOSTS: Folder(tmp_path, files, hosts)
    # Ansible's finder of collections would refuse the imports of the tests that follow in this process.
    if AnsibleCollectionConfig.collection_finder is not None:
        AnsibleCollectionConfig.collection_finder._remove()


def only(items):
    (item,) = items
    return item


def test_a_host_is_planned_from_the_layers_of_its_groups_and_its_own(folder):
    made = folder(
        {
            "group_vars/all.yml": ALL,
            "group_vars/gpu.yml": "anvil_serves__gpu: {fast: {vram_mib: 40000}}",
            "host_vars/h1.yml": "anvil_serves__me: {fast: {vram_mib: 50000}, s: {engine: vllm, image: a:1, model: q, port: 9}}",
            "host_vars/h2.yml": "anvil_serves__me: {fast: null}",
        }
    )
    plan = made.plan("h1")
    assert {serve.name: (serve.port, serve.vram_mib) for serve in plan.serves} == {"fast": (30003, 50000), "s": (9, 0)}
    assert not made.plan("h2").serves


def test_the_same_name_in_a_group_and_a_host_is_replaced_as_ansible_does(folder):
    made = folder({"group_vars/all.yml": ALL + "anvil_serves__x: {fast: {vram_mib: 1000}}", "host_vars/h1.yml":
                   "anvil_serves__x: {fast: {residency: evictable}}"})  # fmt: skip
    (serve,) = made.plan("h1").serves
    assert (serve.residency, serve.vram_mib) == ("evictable", 80000)


def test_a_mistake_in_a_layer_names_its_file_and_line(folder):
    made = folder({"group_vars/all.yml": ALL, "group_vars/gpu.yml": "---\n\nanvil_serves__gpu:\n  fast:\n    prot: 1\n"})
    problem = only(made.mistakes())
    assert (problem.where, problem.what) == ("anvil_serves.fast.prot", "unknown key")
    assert problem.why == "written at group_vars/gpu.yml:5 (anvil_serves__gpu)"


def test_a_missing_key_names_every_layer_of_the_serve(folder):
    made = folder({"group_vars/all.yml": "anvil_serves: {fast: {engine: vllm, image: a/b:1, port: 1}}",
                   "host_vars/h1.yml": "anvil_serves__z: {fast: {warmup: true}}"})  # fmt: skip
    problem = only(made.mistakes())
    assert "group_vars/all.yml:1 (anvil_serves) and host_vars/h1.yml:1 (anvil_serves__z)" in problem.why


def test_two_layers_of_one_place_with_different_values_are_a_mistake(folder):
    text = "anvil_serves__a: {fast: {vram_mib: 1000}}\nanvil_serves__b: {fast: {vram_mib: 2000, residency: evictable}}\n"
    problem = only(folder({"group_vars/all.yml": ALL, "host_vars/h1.yml": text}).mistakes())
    assert problem.where == "anvil_serves.fast.vram_mib"
    assert "anvil_serves__a at host_vars/h1.yml:1, anvil_serves__b at host_vars/h1.yml:2" in problem.why
    same = folder({"host_vars/h1.yml": text.replace("2000", "1000")})
    assert same.plan().serves[0].vram_mib == 1000


def test_a_group_that_would_replace_the_value_of_a_host_is_a_mistake(folder):
    made = folder({"group_vars/all.yml": ALL, "group_vars/gpu.yml": "anvil_serves__gpu: {fast: {vram_mib: 1000}}",
                   "host_vars/h1.yml": "anvil_serves__fix: {fast: {vram_mib: 2000}}"})  # fmt: skip
    problem = only(made.mistakes())
    assert "the value for a group would replace that for the host" in problem.what
    assert problem.hint.endswith("rename anvil_serves__fix so that it comes last: anvil_serves__zfix")
    (made.root / "host_vars/h1.yml").write_text("anvil_serves__zfix: {fast: {vram_mib: 2000}}")
    assert made.plan().serves[0].vram_mib == 2000


def test_two_groups_that_set_one_key_are_told(folder):
    made = folder({"group_vars/all.yml": ALL, "group_vars/gpu.yml": "anvil_serves__gpu: {fast: {vram_mib: 1000}}",
                   "group_vars/rack.yml": "anvil_serves__rack: {fast: {vram_mib: 2000}}"})  # fmt: skip
    plan = made.plan()
    assert plan.serves[0].vram_mib == 2000
    note = only(note for note in plan.notes if "two layers" in note)
    assert "anvil_serves__gpu at group_vars/gpu.yml:1, anvil_serves__rack at group_vars/rack.yml:1" in note


def test_a_key_that_is_removed_and_not_there_is_told(folder):
    made = folder({"group_vars/all.yml": ALL, "host_vars/h1.yml": "anvil_serves__z: {fsat: null}"})
    plan = made.plan()
    assert [serve.name for serve in plan.serves] == ["fast"]
    assert any("anvil_serves.fsat: anvil_serves__z at host_vars/h1.yml:1 removes it" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("layer", "what"), [("[fast]", "must be a mapping, not a list"), ("'{{ nowhere }}'", "the template of this value failed")]
)
def test_a_layer_that_cannot_be_read_is_the_only_mistake(folder, layer, what):
    made = folder({"group_vars/all.yml": ALL, "host_vars/h1.yml": f"anvil_serves__z: {layer}"})
    problem = only(made.mistakes())
    assert (problem.where, problem.what) == ("anvil_serves__z", what)
    assert "written at host_vars/h1.yml:1" in problem.why


def test_secrets_of_layers_are_held_as_they_are_written(folder, tmp_path):
    (tmp_path / "token").write_text("s3cret-of-a-file")
    serve = "anvil_serves__s: {fast: {secrets: {A: one, B: two}}}"
    made = folder({"group_vars/all.yml": ALL + serve, "group_vars/gpu.yml":
                   "anvil_secrets: {one: \"{{ lookup('file', '" + str(tmp_path) + "/token') }}\"}",
                   "host_vars/h1.yml": "anvil_secrets__host: {two: written-in-clear}"})  # fmt: skip
    problem = only(made.mistakes())
    assert problem.where == "anvil_secrets.two"
    assert "host_vars/h1.yml:1 (anvil_secrets__host)" in problem.why
    assert "written-in-clear" not in str(made.mistakes())


def test_explain_says_where_each_value_was_written_and_shows_no_secret(folder, tmp_path):
    made = folder({"group_vars/all.yml": ALL + "anvil_secrets: {one: \"{{ lookup('file', 'token') }}\"}",
                   "group_vars/gpu.yml": "anvil_serves__gpu:\n  fast:\n    vram_mib: 1000\n    environment: {LEVEL: x}",
                   "host_vars/h1.yml": "anvil_serves__host: {fast: {vram_mib: 2000, gpus: null}}"})  # fmt: skip
    (tmp_path / "token").write_text("s3cret-of-a-file")
    templar, found = made.variables()
    lines = explain_variables(templar, {name: value for name, value in found.items() if name.startswith("anvil_")})
    assert "anvil_serves.fast.port: 30003    group_vars/all.yml:2 (anvil_serves)" in lines
    place = "host_vars/h1.yml:1 (anvil_serves__host), replaces group_vars/gpu.yml:3 (anvil_serves__gpu)"
    assert "anvil_serves.fast.vram_mib: 2000    " + place in lines
    assert any(line.startswith("anvil_serves.fast.gpus: removed    host_vars/h1.yml:1") for line in lines)
    assert "s3cret" not in "\n".join(lines)
    assert "anvil_secrets.one: <file>    group_vars/all.yml:3 (anvil_secrets)" in lines


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("avnil_serves: {}", "did you mean anvil_serves?"),
        ("anvil_serve__x: {}", "did you mean anvil_serves__x?"),
        ("anvil_serves_gpu: {}", "did you mean anvil_serves__gpu?"),
    ],
)
def test_a_misspelt_variable_is_a_mistake_with_a_suggestion(folder, line, hint):
    problem = only(folder({"group_vars/all.yml": ALL, "host_vars/h1.yml": "---\n" + line}).mistakes())
    assert hint in problem.hint
    assert "written at host_vars/h1.yml:2" in problem.why


def test_a_run_of_a_host_without_variables_names_the_file_that_was_meant(folder):
    one = "all: {hosts: {my-host: }}"
    problem = only(folder({"host_vars/my-hots.yml": ALL}, one).mistakes("my-host"))
    assert problem.where == "host_vars/my-hots.yml"
    assert problem.hint == "rename it to my-host.yml, or correct the name of the host"


def test_a_folder_of_variables_with_a_misspelt_name_is_named(folder):
    problem = only(folder({"hostvars/my-host/main.yml": ALL}, "all: {hosts: {my-host: }}").mistakes("my-host"))
    assert (problem.where, problem.hint) == ("hostvars", "rename it to host_vars")


def test_files_of_other_hosts_are_no_mistake(folder):
    """An old host's file in the folder, and an inventory file that shares host_vars with another one."""
    made = folder({"group_vars/all.yml": ALL, "host_vars/h3.yml": ALL, "group_vars/rakc.yml": "{}"})
    notes = [note for note in made.plan("h1").notes if "no effect" in note]
    assert notes == [
        "host_vars/h3.yml has no effect: the inventory has no host h3",
        "group_vars/rakc.yml has no effect: the inventory has no group rakc: did you mean rack?",
    ]
    assert not [note for note in made.plan("h2").notes if "no effect" in note]
    assert not [note for note in made.plan("h1", source="hosts.yml").notes if "no effect" in note]


def test_a_host_that_has_no_variables_on_purpose_is_no_mistake(folder):
    made = folder({"host_vars/h1.yml": ALL, "host_vars/old7.yml": ALL, "host_vars/h3.yml": ALL})
    assert not made.plan("h2").serves


def test_an_experiment_replaces_the_serves_of_all_layers(folder):
    made = folder({"group_vars/all.yml": ALL, "group_vars/gpu.yml": "anvil_serves__gpu: {fast: {vram_mib: 40000}}"})
    templar, found = made.variables()
    anvil = {name: value for name, value in found.items() if name.startswith("anvil_")}
    options = ExperimentOptions("trial", model="o/m", image="a/b:2", port="30010", gpu="g", vram_mib="9000")
    _plan, project, _notes = plan_experiment(templar, "h1", anvil, options, None, lambda _name, _files: {}, list)
    assert list(project.services) == ["trial"]


def run(playbook: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "NO_COLOR": "1",
    }
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), str(REPO / "playbooks" / playbook), *words]
    return subprocess.run(argv, env=environment, cwd=REPO, capture_output=True, text=True, check=False)


def test_the_fleet_of_the_docs_has_no_mistake_and_explains_itself(tmp_path):
    done = run("render.yml", "-i", "inventory/fleet", "-e", f"output={tmp_path}", "-e", "explain=true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu1", "gpu2", "gpu3", "gw1", "gw2"]
    line = "anvil_serves.fast.vram_mib: 60000    inventory/fleet/host_vars/gpu2/main.yml:8 (anvil_serves__host), replaces "
    assert line + "inventory/fleet/group_vars/gpu.yml:23 (anvil_serves__gpu)" in done.stdout
    assert "WARNING" not in done.stdout + done.stderr


def test_the_secrets_of_a_role_come_from_all_layers(tmp_path):
    (tmp_path / "p.yml").write_text(
        "- hosts: localhost\n  gather_facts: false\n"
        "  vars:\n    anvil_secrets: {a: \"{{ 'o' ~ 'ne' }}\", broken: '{{ nowhere }}'}\n    anvil_secrets__z: {b: two}\n"
        "  tasks:\n"
        "    - assert: {that: \"lookup('anvil.serving.layers', 'anvil_secrets.a') == 'one'\"}\n"
        "    - assert: {that: \"lookup('anvil.serving.layers', 'anvil_secrets.b') == 'two'\"}\n"
        "    - assert: {that: \"lookup('anvil.serving.layers', 'anvil_gpus') == {}\"}\n"
        "    - assert: {that: \"lookup('anvil.serving.layers', 'anvil_secrets') == {'a': 'one', 'b': 'two'}\"}\n"
        "      vars: {anvil_secrets: {a: one}}\n"
    )
    done = run(str(tmp_path / "p.yml"), "-i", "localhost,")
    assert done.returncode == 0, done.stdout + done.stderr
