# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wheels for an image, fetched on the machine that reaches a package index and carried to the one that builds.

The requirements are pinned and complete, so the wheels follow from them, the interpreter and the processor: a hash of
those names the file, and a file that is there is not fetched again. It is one tar, because it is one file to copy.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from typing import Any, Dict, List

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail

# The wheel of pip installs the others in an image that has no pip.
PIP = "pip==26.0"
# The oldest glibc of a base that we build on is Debian 12's, 2.36; wheels are tagged with the glibc that they need.
GLIBC_MINORS = range(36, 4, -1)
LEGACY = {"x86_64": ("manylinux2014", "manylinux2010", "manylinux1"), "aarch64": ("manylinux2014",)}
PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._-]+\])?==[A-Za-z0-9.!+_-]+(\s*;.*)?")
TIMEOUT = 1800


@dataclass(frozen=True)
class Wanted:
    """requirements: text of a requirements file. python: ``3.11``. machine: ``x86_64`` or ``aarch64``. name: for people."""

    name: str
    requirements: str
    python: str
    machine: str

    @property
    def file(self) -> str:
        told = "\0".join((self.requirements, self.python, self.machine, PIP))
        return "{0}-{1}.tar".format(self.name, hashlib.sha256(told.encode()).hexdigest()[:16])


def check_pins(requirements: str) -> None:
    """Every requirement is pinned, or the same file would mean other wheels tomorrow."""
    problems = [
        Problem("{0} is not pinned".format(line), "requirements, line {0}".format(number), hint="NAME==VERSION")
        for number, line in enumerate((line.strip() for line in requirements.splitlines()), 1)
        if line and not line.startswith("#") and not PINNED.fullmatch(line)
    ]
    if problems:
        raise AnvilError(*problems)


def platforms(machine: str) -> List[str]:
    """The platform tags of wheels that run on a glibc Linux of that processor, newest first."""
    if machine not in LEGACY:
        raise fail("no wheels are known for the processor {0}".format(machine), hint="x86_64 or aarch64")
    newer = ["manylinux_2_{0}".format(minor) for minor in GLIBC_MINORS]
    return ["{0}_{1}".format(tag, machine) for tag in (*newer, *LEGACY[machine])]


def pip_words(wanted: Wanted, requirements: str, target: str) -> List[str]:
    """The command line that fetches the wheels for another interpreter than the one that runs pip."""
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    words += ["--only-binary=:all:", "--dest", target, "--python-version", wanted.python, "--implementation", "cp"]
    for abi in ("cp" + wanted.python.replace(".", ""), "abi3", "none"):
        words += ["--abi", abi]
    for platform in platforms(wanted.machine):
        words += ["--platform", platform]
    return [*words, "--requirement", requirements, PIP]


def pack(folder: str, path: str) -> None:
    """All files of a folder as one tar; the same files give the same bytes."""
    with tarfile.open(path, "w") as tar:
        for name in sorted(os.listdir(folder)):
            member = tarfile.TarInfo(name)
            source = os.path.join(folder, name)
            member.size, member.mode = os.path.getsize(source), 0o644
            with open(source, "rb") as content:
                tar.addfile(member, content)


def fetch_wheels(wanted: Wanted, folder: str, check: bool) -> Dict[str, Any]:
    """Have the wheels in ``folder``, as the file that is returned. Raises AnvilError with pip's own words."""
    check_pins(wanted.requirements)
    if not re.fullmatch(r"3\.\d+", wanted.python):
        why = "it is {0!r}".format(wanted.python)
        raise fail("no wheels without a Python 3", where=wanted.name, why=why, hint="choose a base image that has python3")
    path = os.path.join(folder, wanted.file)
    if os.path.exists(path):
        return {"changed": False, "path": path}
    platforms(wanted.machine)
    if check:
        return {"changed": True, "path": path}
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".wheels-") as scratch:
            _download(wanted, scratch)
            pack(os.path.join(scratch, "wheels"), os.path.join(scratch, "whole.tar"))
            os.rename(os.path.join(scratch, "whole.tar"), path)
    except OSError as exc:
        raise fail("the wheels cannot be kept", where=folder, why=exc.strerror or str(exc)) from exc
    return {"changed": True, "path": path}


def _download(wanted: Wanted, scratch: str) -> None:
    requirements = os.path.join(scratch, "requirements.txt")
    with open(requirements, "w", encoding="utf-8") as handle:
        handle.write(wanted.requirements)
    argv = pip_words(wanted, requirements, os.path.join(scratch, "wheels"))
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise fail("pip did not end in {0} s".format(TIMEOUT), where=wanted.name, hint="is the package index slow?") from exc
    if done.returncode == 0:
        return
    said = done.stdout.decode("utf-8", "replace").splitlines()
    no_pip = any("No module named pip" in line for line in said)
    raise fail(
        "the wheels of {0} could not be fetched".format(wanted.name),
        where="{0} -m pip download".format(sys.executable),
        why="this Python has no pip" if no_pip else "pip ended with {0}".format(done.returncode),
        hint="install pip for it (python3 -m ensurepip, or apt install python3-pip)"
        if no_pip
        else "can this machine reach a package index (pip config list)? or fetch them on one that can, into the same folder",
        log=[line for line in said if not line.startswith("WARNING: Location")][-10:],
    )
