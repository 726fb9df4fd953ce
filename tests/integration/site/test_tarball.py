"""The collection as users install it: built, installed in another folder, and used without the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO
from routersite import Site, profile_config, profile_text

BIN = Path(sys.executable).parent


class Installed:
    """The collection in a folder of its own, and a folder to work in. Nothing there knows the checkout."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.work.mkdir()
        self.collections = folder / "collections"
        self.environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(self.collections), "HOME": str(folder)}
        self.environment.pop("ANSIBLE_CONFIG", None)

    def run(self, program: str, *arguments: str) -> str:
        argv = [str(BIN / program), *arguments]
        done = subprocess.run(argv, cwd=self.work, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("tarball")
    source, made = folder / "source", Installed(folder)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=REPO, capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (REPO / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, source / name)
    made.run("ansible-galaxy", "collection", "build", str(source), "--output-path", str(made.work))
    (tarball,) = made.work.glob("anvil-serving-*.tar.gz")
    made.run("ansible-galaxy", "collection", "install", "--offline", "--no-deps", str(tarball), "-p", str(made.collections))
    shutil.rmtree(source)
    return made


def test_an_installed_tarball_renders_and_documents_without_the_checkout(installed: Installed) -> None:
    shutil.copytree(REPO / "inventory" / "fakoli-dark", installed.work / "fakoli-dark")
    installed.run("ansible-playbook", "anvil.serving.render", "-i", "fakoli-dark", "-e", "output=rendered")
    golden = REPO / "tests/unit/data/golden/fakoli-dark/serves/compose.yaml"
    assert (installed.work / "rendered/fakoli-dark/serves/compose.yaml").read_text() == golden.read_text()
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
