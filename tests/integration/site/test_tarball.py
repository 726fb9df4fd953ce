"""The collection as users install it: built, installed in another folder, and used without the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import REPO

BIN = Path(sys.executable).parent


def test_an_installed_tarball_renders_and_documents_without_the_checkout(tmp_path: Path) -> None:
    source, installed, work = tmp_path / "source", tmp_path / "collections", tmp_path / "work"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=REPO, capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (REPO / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, source / name)
    work.mkdir()
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(installed), "HOME": str(tmp_path)}
    environment.pop("ANSIBLE_CONFIG", None)

    def run(*argv: str) -> str:
        done = subprocess.run(argv, cwd=work, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(str(BIN / "ansible-galaxy"), "collection", "build", str(source), "--output-path", str(work))
    (tarball,) = work.glob("anvil-serving-*.tar.gz")
    run(str(BIN / "ansible-galaxy"), "collection", "install", "--offline", str(tarball), "-p", str(installed))
    shutil.rmtree(source)
    shutil.copytree(REPO / "inventory" / "fakoli-dark", work / "fakoli-dark")
    run(str(BIN / "ansible-playbook"), "anvil.serving.render", "-i", "fakoli-dark", "-e", "output=rendered")
    golden = REPO / "tests/unit/data/golden/fakoli-dark/serves/compose.yaml"
    assert (work / "rendered/fakoli-dark/serves/compose.yaml").read_text() == golden.read_text()
    for module in (REPO / "plugins" / "modules").glob("anvil_*.py"):
        assert f"> MODULE anvil.serving.{module.stem}" in run(str(BIN / "ansible-doc"), f"anvil.serving.{module.stem}").replace(
            "\x1b[1m", ""
        ).replace("\x1b[0m", "")
