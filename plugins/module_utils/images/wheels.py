# SPDX-License-Identifier: GPL-3.0-or-later
"""Python wheels for an image, fetched on a machine that reaches a package index, as one tar to copy to the one that builds.

The requirements are pinned and complete, so requirements, interpreter and processor decide the wheels: their hash is part of the
tar's name, and a tar that exists is not fetched again.
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
from typing import Any, Dict, List, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail

# The wheel of pip installs the others in an image that has no pip.
PIP = "pip==26.0"
# The tag of a wheel names the glibc that it needs. The oldest base that we build on, Debian 12, has glibc 2.36.
GLIBC_MINORS = range(36, 4, -1)
LEGACY = {"x86_64": ("manylinux2014", "manylinux2010", "manylinux1"), "aarch64": ("manylinux2014",)}
PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._-]+\])?==[A-Za-z0-9.!+_-]+(\s*;.*)?")
TIMEOUT = 1800


@dataclass(frozen=True)
class WheelSet:
    """The wheels of one requirements file for one interpreter.

    name: begins the name of the tar. requirements: text of the file. python: such as ``3.11``. machine: ``x86_64`` or
    ``aarch64``. locks: texts with the hashes of every requirement and of pip, as pip's ``--require-hashes`` reads them; without
    them the files are taken as the index serves them.
    """

    name: str
    requirements: str
    python: str
    machine: str
    locks: Tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """The name of the tar."""
        content = "\0".join((self.requirements, self.python, self.machine, PIP))
        return "{0}-{1}.tar".format(self.name, hashlib.sha256(content.encode()).hexdigest()[:16])


def check_pins(requirements: str) -> None:
    """Raise AnvilError unless every requirement is pinned: otherwise the same file could give other wheels later."""
    problems = [
        Problem("{0} is not pinned".format(line), "requirements, line {0}".format(number), hint="write NAME==VERSION")
        for number, line in enumerate((line.strip() for line in requirements.splitlines()), 1)
        if line and not line.startswith("#") and not PINNED.fullmatch(line)
    ]
    if problems:
        raise AnvilError(*problems)


def _read_pin(text: str) -> str:
    """A pin as it is compared: ``Ruamel.YAML[jinja2]==0.18 ; python_version > "3"`` is ``ruamel-yaml==0.18``."""
    name, _equals, version = text.partition(";")[0].strip().partition("==")
    return "{0}=={1}".format(re.sub(r"[-_.]+", "-", name.partition("[")[0]).lower(), version)


def add_hashes(requirements: str, locks: Sequence[str]) -> str:
    """The requirements, each with the hashes that the lock files have of it. Raises AnvilError for one without."""
    hashes: Dict[str, List[str]] = {}
    pin = ""
    for line in "\n".join(locks).splitlines():
        words = line.strip(" \\").split()
        if words and not words[0].startswith(("--", "#")):
            pin = _read_pin(words[0])
        hashes.setdefault(pin, []).extend(word for word in words if word.startswith("--hash="))
    wanted = [line.strip() for line in requirements.splitlines() if line.strip() and not line.startswith("#")]
    problems = [
        Problem("{0} has no hash".format(line), "the lock files", hint="make lock writes them again")
        for line in wanted
        if not hashes.get(_read_pin(line))
    ]
    if problems:
        raise AnvilError(*problems)
    return "".join("{0} {1}\n".format(line, " ".join(hashes[_read_pin(line)])) for line in wanted)


def list_platforms(machine: str) -> List[str]:
    """The platform tags of wheels that run on Linux with glibc on that processor, newest first. Raises AnvilError."""
    if machine not in LEGACY:
        raise fail(
            "wheels cannot be fetched for the processor {0}".format(machine), where="machine", hint="use x86_64 or aarch64"
        )
    newer = ["manylinux_2_{0}".format(minor) for minor in GLIBC_MINORS]
    return ["{0}_{1}".format(tag, machine) for tag in (*newer, *LEGACY[machine])]


def build_pip_argv(wheels: WheelSet, requirements: str, target: str) -> List[str]:
    """The command line that fetches the wheels for another interpreter than the one that runs pip."""
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    words += ["--only-binary=:all:", "--dest", target, "--python-version", wheels.python, "--implementation", "cp"]
    for abi in ("cp" + wheels.python.replace(".", ""), "abi3", "none"):
        words += ["--abi", abi]
    for platform in list_platforms(wheels.machine):
        words += ["--platform", platform]
    if wheels.locks:
        return [*words, "--require-hashes", "--requirement", requirements]
    return [*words, "--requirement", requirements, PIP]


def pack_folder(folder: str, path: str) -> None:
    """All files of a folder as one tar; the same files give the same bytes."""
    with tarfile.open(path, "w") as tar:
        for name in sorted(os.listdir(folder)):
            member = tarfile.TarInfo(name)
            source = os.path.join(folder, name)
            member.size, member.mode = os.path.getsize(source), 0o644
            with open(source, "rb") as content:
                tar.addfile(member, content)


def fetch_wheels(wheels: WheelSet, folder: str, check: bool) -> Dict[str, Any]:
    """Fetch the wheels into a tar in ``folder``, unless it is there; returns its path. Raises AnvilError with pip's output."""
    check_pins(wheels.requirements)
    if not re.fullmatch(r"3\.\d+", wheels.python):
        why = "the version of the image's Python is {0!r}".format(wheels.python)
        raise fail("wheels need a Python 3 in the image", where=wheels.name, why=why, hint="choose a base image with python3")
    path = os.path.join(folder, wheels.file)
    if os.path.exists(path):
        return {"changed": False, "path": path}
    list_platforms(wheels.machine)
    if check:
        return {"changed": True, "path": path}
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".wheels-") as scratch:
            _download(wheels, scratch)
            pack_folder(os.path.join(scratch, "wheels"), os.path.join(scratch, "whole.tar"))
            os.rename(os.path.join(scratch, "whole.tar"), path)
    except OSError as exc:
        raise fail(
            "the wheels cannot be written",
            where=folder,
            why=exc.strerror or str(exc),
            hint="check permissions and free space of this folder, then run again",
        ) from exc
    return {"changed": True, "path": path}


def _download(wheels: WheelSet, scratch: str) -> None:
    requirements = os.path.join(scratch, "requirements.txt")
    with open(requirements, "w", encoding="utf-8") as handle:
        handle.write(add_hashes(wheels.requirements + "\n" + PIP, wheels.locks) if wheels.locks else wheels.requirements)
    argv = build_pip_argv(wheels, requirements, os.path.join(scratch, "wheels"))
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as exc:
        hint = "check the connection to the package index (pip config list), then run again"
        raise fail("pip did not end in {0} s".format(TIMEOUT), where=wheels.name, hint=hint) from exc
    if done.returncode == 0:
        return
    output = done.stdout.decode("utf-8", "replace").splitlines()
    if any("DO NOT MATCH THE HASHES" in line for line in output):
        raise fail(
            "a file for {0} is not the one that was locked".format(wheels.name),
            where="{0} -m pip download".format(sys.executable),
            why="its sha256 is in none of the lock files",
            hint="do not use it: compare it with the package's own index; make lock, if a version was changed on purpose",
            log=[line for line in output if not line.startswith("WARNING: Location")][-10:],
        )
    no_pip = any("No module named pip" in line for line in output)
    raise fail(
        "the wheels of {0} could not be fetched".format(wheels.name),
        where="{0} -m pip download".format(sys.executable),
        why="this Python has no pip" if no_pip else "pip ended with {0}".format(done.returncode),
        hint="install pip for it: python3 -m ensurepip, or apt install python3-pip"
        if no_pip
        else "check that this machine reaches a package index (pip config list); or fetch the wheels where one is reachable",
        log=[line for line in output if not line.startswith("WARNING: Location")][-10:],
    )
