"""Compile llama-server as it was in 2024 and 2025, from the source distributions of llama-cpp-python.

    llamabuilds.py          compile .cache/llama-builds/BUILD/llama-server, each once (two minutes)

The programs are static: an image of one of them holds nothing else.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
FOLDER = REPO / ".cache" / "llama-builds"


@dataclass(frozen=True)
class Build:
    """name: the month of llama.cpp that it is. version, sha256: of the source distribution that holds it."""

    name: str
    version: str
    sha256: str

    @property
    def program(self) -> Path:
        return FOLDER / self.name / "llama-server"


BUILDS = (
    Build("2024-08", "0.2.90", "419b041c62dbdb9f7e67883a6ef2f247d583d08417058776be0bff05b4ec9e3d"),
    Build("2025-08", "0.3.16", "34ed0f9bd9431af045bb63d9324ae620ad0536653740e9bb163a2e1fcb973be6"),
)
OPTIONS = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_C_FLAGS_RELEASE=-O1",
    "-DCMAKE_CXX_FLAGS_RELEASE=-O1",
    "-DCMAKE_EXE_LINKER_FLAGS=-static",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=OFF",
    "-DGGML_OPENMP=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
]


def compile_build(build: Build) -> None:
    """Download the source, check it, and compile the server."""
    place = build.program.parent
    place.mkdir(parents=True, exist_ok=True)
    archive = place / f"llama_cpp_python-{build.version}.tar.gz"
    if not archive.exists():
        options = ["--quiet", "--no-deps", "--no-binary", "llama-cpp-python", "--dest", str(place)]
        wanted = f"llama-cpp-python=={build.version}"
        subprocess.run([sys.executable, "-m", "pip", "download", *options, wanted], check=False)
    if not archive.exists() or hashlib.sha256(archive.read_bytes()).hexdigest() != build.sha256:
        sys.exit(f"{archive}: not there, or not the pinned file; remove it and run llamabuilds.py again")
    with tarfile.open(archive) as packed:
        packed.extractall(place)  # Python before 3.11.4 has no filter; the checksum is pinned
    source, out = place / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp", place / "build"
    print(f"==> compiling llama-server {build.name} (a minute or two, once)", file=sys.stderr)
    with (place / "compile.log").open("w") as log:
        for argv in (
            ["cmake", "-S", str(source), "-B", str(out), "-G", "Ninja", *OPTIONS],
            ["cmake", "--build", str(out), "--target", "llama-server", "-j", str(os.cpu_count())],
        ):
            if subprocess.run(argv, stdout=log, stderr=log, check=False).returncode:
                sys.exit(f"llama-server {build.name} was not compiled: {place / 'compile.log'}")
    half = build.program.with_suffix(".half")
    subprocess.run(["strip", "-o", str(half), str(out / "bin" / "llama-server")], check=True)
    half.rename(build.program)


if __name__ == "__main__":
    for wanted in BUILDS:
        if not wanted.program.exists():
            compile_build(wanted)
