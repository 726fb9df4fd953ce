"""What the stages of an image do that a Dockerfile cannot say without a shell. Part of the build context, not of the image.

usage: build.py install REQUIREMENTS WHEELS TARGET   packages from the wheels if there are any, else from pip's own index
       build.py warm PATH [NAME=VALUE...] COMMAND... start the server on port 8000, look at PATH until it answers 200, end it
       build.py measure                              fail if this image holds more than $SIZE_LIMIT_MB (of 10**6 bytes)
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
    """The wheels in a folder; they may come as one tar, which is one file to copy to a host."""
    for packed in sorted(folder.glob("*.tar")):
        with tarfile.open(packed) as tar:
            for member in tar:
                content = tar.extractfile(member)
                if content is not None and "/" not in member.name:
                    (scratch / member.name).write_bytes(content.read())
    return sorted([*folder.glob("*.whl"), *scratch.glob("*.whl")])


def install(requirements: str, wheels: str, target: str) -> None:
    """Install exactly what is pinned, and drop what a server never reads."""
    with tempfile.TemporaryDirectory() as scratch:
        found = find_wheels(Path(wheels), Path(scratch))
        # A base without pip uses the wheel of pip itself: it runs as it is.
        pips = [wheel for wheel in found if wheel.name.startswith("pip-")]
        pip = [sys.executable, str(pips[0] / "pip")] if pips else [sys.executable, "-m", "pip"]
        where = ["--no-index", *(f"--find-links={folder}" for folder in (wheels, scratch))] if found else []
        options = ["--no-deps", "--no-compile", "--no-cache-dir", "--disable-pip-version-check", "--root-user-action=ignore"]
        # --isolated would also forget the index that a build secret names
        subprocess.run([*pip, "install", "-q", *options, *where, "--target", target, "-r", requirements], check=True)
    for path in sorted(Path(target).rglob("*"), reverse=True):
        if path.is_dir() and path.name in UNUSED:
            shutil.rmtree(path)
        elif path.suffix in (".pyi", ".pyx", ".pxd", ".c", ".h") and path.is_file():
            path.unlink()
    shutil.rmtree(Path(target) / "bin", ignore_errors=True)


def ask(path: str) -> int:
    """The status of a GET on the server under test; 0 where nothing answers."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def warm(path: str, *words: str) -> None:
    """An image whose server does not answer is not built; and what it imported is there as byte code."""
    settings = dict(word.split("=", 1) for word in itertools.takewhile(lambda word: "=" in word, words))
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", **settings}
    server = subprocess.Popen(words[len(settings) :], env=environment)
    deadline = time.monotonic() + WARM_SECONDS
    try:
        while ask(path) != 200:
            if server.poll() is not None:
                raise SystemExit(f"the server ended with {server.returncode} while it was started")
            if time.monotonic() > deadline:
                raise SystemExit(f"{path} did not answer 200 within {WARM_SECONDS} s")
            time.sleep(0.1)
    finally:
        server.terminate()
        server.wait(30)


def measure() -> None:
    """Add up every file of this root file system, each once."""
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
        raise SystemExit(f"the image would hold {megabytes:.1f} MB, and {limit} MB is the limit (build argument SIZE_LIMIT_MB)")


if __name__ == "__main__":
    {"install": install, "warm": warm, "measure": measure}[sys.argv[1]](*sys.argv[2:])
