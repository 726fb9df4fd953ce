"""Build steps of an image that would need a shell in the Dockerfile. Part of the build context, not of the image.

usage: build.py install REQUIREMENTS WHEELS TARGET   install packages from the wheels if there are any, else from pip's index
       build.py warm PATH [NAME=VALUE...] COMMAND... start the server on port 8000, request PATH until it answers 200, stop it
       build.py measure                              fail if this image is larger than $SIZE_LIMIT_MB (of 10**6 bytes)
"""

from __future__ import annotations

import http.client
import itertools
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ELSEWHERE = ("/proc", "/sys", "/dev", "/build")
UNUSED = ("tests", "test", "__pycache__")
WARM_SECONDS = 300
PORT = 8000


def find_wheels(folder: Path, scratch: Path) -> list[Path]:
    """The wheels in a folder. They may be packed in one tar file, which is one file to copy to a host."""
    for packed in sorted(folder.glob("*.tar")):
        with tarfile.open(packed) as tar:
            for member in tar:
                content = tar.extractfile(member)
                if content is not None and "/" not in member.name:
                    (scratch / member.name).write_bytes(content.read())
    return sorted([*folder.glob("*.whl"), *scratch.glob("*.whl")])


def install(requirements: str, wheels: str, target: str) -> None:
    """Install exactly what is pinned, and remove files that a server never reads."""
    with tempfile.TemporaryDirectory() as scratch:
        found = find_wheels(Path(wheels), Path(scratch))
        # In a base image without pip, pip is run from its own wheel.
        pips = [wheel for wheel in found if wheel.name.startswith("pip-")]
        pip = [sys.executable, str(pips[0] / "pip")] if pips else [sys.executable, "-m", "pip"]
        where = ["--no-index", *(f"--find-links={folder}" for folder in (wheels, scratch))] if found else []
        options = ["--no-deps", "--no-compile", "--no-cache-dir", "--disable-pip-version-check", "--root-user-action=ignore"]
        # No --isolated: it would ignore the index that a build secret names.
        subprocess.run([*pip, "install", "-q", *options, *where, "--target", target, "-r", requirements], check=True)
    for path in sorted(Path(target).rglob("*"), reverse=True):
        if path.is_dir() and path.name in UNUSED:
            shutil.rmtree(path)
        elif path.suffix in (".pyi", ".pyx", ".pxd", ".c", ".h") and path.is_file():
            path.unlink()
    shutil.rmtree(Path(target) / "bin", ignore_errors=True)


def request_status(path: str) -> int:
    """The status of a GET on the server; 0 where nothing answers."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def warm(path: str, *arguments: str) -> None:
    """Start the server until it answers. It fails the build of a broken image, and leaves byte code of all imports."""
    settings = dict(argument.split("=", 1) for argument in itertools.takewhile(lambda argument: "=" in argument, arguments))
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", **settings}
    server = subprocess.Popen(arguments[len(settings) :], env=environment)
    deadline = time.monotonic() + WARM_SECONDS
    try:
        while request_status(path) != 200:
            if server.poll() is not None:
                raise SystemExit(
                    f"the server ended with exit code {server.returncode} before it answered {path}; its output is above"
                )
            if time.monotonic() > deadline:
                raise SystemExit(f"{path} did not answer 200 within {WARM_SECONDS} s; the output of the server is above")
            time.sleep(0.1)
    finally:
        server.terminate()
        server.wait(30)


def measure() -> None:
    """Add up the sizes of all files of this root file system, each once."""
    limit = os.environ["SIZE_LIMIT_MB"]
    seen: dict[tuple[int, int], int] = {}
    for place, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if os.path.join(place, name) not in ELSEWHERE]
        for name in names:
            stat = os.lstat(os.path.join(place, name))
            seen[stat.st_dev, stat.st_ino] = stat.st_size
    megabytes = sum(seen.values()) / 1e6
    print(f"{megabytes:.1f} MB in this image")
    if megabytes > float(limit):
        raise SystemExit(
            f"the image is too large: it holds {megabytes:.1f} MB, and {limit} MB is the limit (build argument SIZE_LIMIT_MB)"
        )


if __name__ == "__main__":
    {"install": install, "warm": warm, "measure": measure}[sys.argv[1]](*sys.argv[2:])
