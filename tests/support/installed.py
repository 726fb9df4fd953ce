"""The collection as users install it: built, installed in another folder, and used without the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import REPO

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


def install(folder: Path) -> Installed:
    """Build the archive from the files of the checkout, and install it below ``folder``."""
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
