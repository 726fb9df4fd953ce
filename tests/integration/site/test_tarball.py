"""The collection as users install it: built, installed in another folder, and used without the checkout."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from bed import FAKOLI_DARK, Bed
from conftest import REPO
from installed import Installed
from routersite import Site, profile_config, profile_text
from serving import LLAMA


def test_an_installed_tarball_renders_and_documents_without_the_checkout(installed: Installed) -> None:
    shutil.copytree(REPO / "inventory" / "fakoli-dark", installed.work / "fakoli-dark")
    installed.run("ansible-playbook", "anvil.serving.render", "-i", "fakoli-dark", "-e", "output=rendered")
    golden = REPO / "tests/unit/data/golden/fakoli-dark/serves/compose.yaml"
    assert (installed.work / "rendered/fakoli-dark/serves/compose.yaml").read_text() == golden.read_text()
    shipped = installed.collections / "ansible_collections/anvil/serving/recipes"
    assert {path.name for path in shipped.iterdir()} == {path.name for path in (REPO / "recipes").iterdir()}
    for module in (REPO / "plugins" / "modules").glob("anvil_*.py"):
        text = installed.run("ansible-doc", f"anvil.serving.{module.stem}").replace("\x1b[1m", "").replace("\x1b[0m", "")
        assert f"> MODULE anvil.serving.{module.stem}" in text


def test_a_module_of_an_installed_tarball_carries_its_programs(installed: Installed, running: Site) -> None:
    """Ansible packs the module; its validator, its dry boot and its writer then run in side containers."""
    wanted = {"config": profile_config("2"), "profile": profile_text(0.5), "dry_boot": True}
    module = ("-m", "anvil.serving.anvil_router_promote", "-a", json.dumps({**running.parameters, **wanted}))
    python = f"ansible_python_interpreter={sys.executable}"
    assert "localhost | CHANGED" in installed.run("ansible", "localhost", *module, "-e", python)
    assert running.live_files() == {"config.toml": wanted["config"], "profile.json": wanted["profile"]}


@pytest.fixture(scope="module")
def host(bed: Bed, models: Path, installed: Installed) -> Iterator[Installed]:
    """One host, this bed, that the installed playbooks bring from a folder of models to serves."""
    bed.start_engine()
    bed.clear()
    defaults = {"engine": "llama_cpp", "image": LLAMA, "args": ["-c", "1024", "-np", "1", "-t", "1"]}
    box = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "anvil_root": str(installed.work / "anvil"),
        "discover_folder": str(models),
        "discover_defaults": defaults,
    }
    (installed.work / "box").mkdir()
    (installed.work / "box/hosts.yml").write_text(json.dumps({"all": {"hosts": {"box": box}}}))
    yield installed
    bed.clear()


# The verb, what its first run changes, and what the same run changes afterwards. They follow each other on one host.
VERBS = [
    ("compatibility", (), 0, 0),
    ("workflow_list", (), 0, 0),
    ("up", (), 1, 0),
    ("restart", ("serves=heavy-f32",), 1, 1),
    ("recreate", ("serves=heavy-f32",), 1, 1),
    ("retire", ("containers=squatter", "confirm=true"), 1, 0),
    ("down", ("serves=heavy-f32",), 1, 0),
    ("adopt", ("serves=heavy-f32", "container=by-hand"), 1, 0),
]


def test_an_installed_tarball_finds_models_and_every_verb_of_serves_does_what_check_predicts(
    host: Installed, bed: Bed, models: Path
) -> None:
    def play(name: str, *variables: str, check: bool = False) -> int:
        words = [word for variable in variables for word in ("-e", variable)] + ["--check"] * check
        printed = host.run("ansible-playbook", f"anvil.serving.{name}", "-i", "box/hosts.yml", *words)
        return int(re.findall(r"changed=(\d+)", printed)[-1])

    found = host.work / "box/host_vars/box/discovered.yml"
    assert play("discover", check=True) > 0 and not found.exists()
    assert play("discover") > 0 and play("discover") == 0
    serves = yaml.safe_load(found.read_text())["anvil_discovered"]
    assert sorted(serves) == ["fast-f32", "heavy-f32"]

    bed.docker("run", "--detach", "--init", "--name", "squatter", "--entrypoint", "sleep", LLAMA, "600")
    for name, variables, first, second in VERBS:
        if name == "adopt":
            model, port = Path(serves["heavy-f32"]["model"]), str(serves["heavy-f32"]["port"])
            started = ("run", "--detach", "--init", "--name", "by-hand", "--publish", f"127.0.0.1:{port}:{port}", "--volume")
            command = ("--model", str(model), "--alias", "heavy-f32", "--host", "0.0.0.0", "--port", port)
            bed.docker(*started, f"{models}:{model.parent}:ro", LLAMA, *command)
        before = bed.started()
        assert play(name, *variables, check=True) == first, name
        assert bed.started() == before, name
        assert (play(name, *variables), play(name, *variables)) == (first, second), name
    assert sorted(bed.docker("ps", "--all", "--format", "{{.Names}}").split()) == ["anvil-fast-f32", "anvil-heavy-f32"]
    assert play("down", check=True) == 1 and play("down") == 1 and play("down") == 0


def test_an_installed_tarball_prepares_a_machine(installed: Installed, bed: Bed) -> None:
    """The machine is a simulated host, because this playbook installs packages and restarts the Docker Engine."""
    bed.host_up("bare", FAKOLI_DARK)
    try:
        connection = "ansible_connection=community.docker.docker ansible_python_interpreter=/usr/bin/python3"
        (installed.work / "bare").write_text(f"bare {connection}\n")
        wanted = json.dumps({"docker_host_daemon": {"labels": ["anvil=yes"]}})
        for more, changed in ((["--check"], 1), ([], 1), ([], 0)):
            printed = installed.run("ansible-playbook", "anvil.serving.prepare", "-i", "bare", "-e", wanted, *more)
            assert f"changed={changed} " in printed, printed
    finally:
        bed.host_down("bare")
