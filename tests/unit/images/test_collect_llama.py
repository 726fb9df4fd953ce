"""An image of llama.cpp gets only programs that its kernel can execute, with every library that they need."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from conftest import REPO

SCRIPT = REPO / "templates" / "images" / "collect_llama.sh"
MACH_O = bytes.fromhex("cffaedfe0c000001") + bytes(4096)
E_MACHINE = 18  # offset in an ELF header


def collect(out: str | Path, *files: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    argv = ["sh", str(SCRIPT), str(out), *map(str, files)]
    return subprocess.run(argv, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """A program of this machine that is linked to libraries."""
    found = shutil.copy(shutil.which("ls") or "/bin/ls", tmp_path / "llama-server")
    return Path(found)


def test_the_copied_program_runs_with_only_the_copied_libraries(server: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    link = tmp_path / "libfirst.so"
    link.symlink_to("llama-server")
    done = collect(out, server, link)
    assert done.returncode == 0, done.stderr
    copied = Path(f"{out}{server}")
    assert copied.stat().st_mode & stat.S_IXUSR
    assert os.readlink(f"{out}{link}") == "llama-server"  # a file with several names is copied once
    needed = subprocess.run(["ldd", str(server)], capture_output=True, text=True, check=True).stdout
    loader = next(word for word in needed.split() if "ld-linux" in word)
    paths = {str(Path(f"{out}{word}").parent) for word in needed.split() if word.startswith("/")}
    argv = [f"{out}{loader}", "--inhibit-cache", "--library-path", ":".join(sorted(paths)), str(copied), str(out)]
    assert subprocess.run(argv, capture_output=True, text=True, check=False, env={}).returncode == 0


def test_every_problem_is_reported_at_once(server: Path, tmp_path: Path) -> None:
    raw = server.read_bytes()
    files = {
        "mac": MACH_O,
        "arm": raw[:E_MACHINE] + (b"\x3e\x00" if raw[E_MACHINE] == 0xB7 else b"\xb7\x00") + raw[E_MACHINE + 2 :],
        "windows": b"MZ\x90\x00" + bytes(64),
        "pointer": b"version https://git-lfs.github.com/spec/v1\n",
        "homeless": raw.replace(b"libc.so.6\0", b"libx.so.6\0"),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o755)
    done = collect("-", *(tmp_path / name for name in files), tmp_path / "absent", server)
    assert done.returncode == 1
    told = dict(line.removeprefix("collect_llama: ").split(" ", 1) for line in done.stderr.splitlines())
    assert "Mach-O" in told[str(tmp_path / "mac")] and "Exec format error" in told[str(tmp_path / "mac")]
    assert "another processor" in told[str(tmp_path / "arm")]
    assert "Windows" in told[str(tmp_path / "windows")]
    assert "not a program" in told[str(tmp_path / "pointer")]
    assert "needs libx.so.6" in told[str(tmp_path / "homeless")]
    assert "not there" in told[str(tmp_path / "absent")]
    assert str(server) not in told


def test_libraries_of_the_driver_may_be_missing(server: Path, tmp_path: Path) -> None:
    (tmp_path / "libggml-cuda.so").write_bytes(server.read_bytes().replace(b"libc.so.6\0", b"libx.so.6\0"))
    (tmp_path / "libggml-cuda.so").chmod(0o755)
    assert collect("-", tmp_path / "libggml-cuda.so").returncode == 1
    assert collect("-", tmp_path / "libggml-cuda.so", DRIVER="libcuda.so.1 libx.so.6").returncode == 0


def test_a_card_without_code_in_the_cuda_library_is_an_error(server: Path, tmp_path: Path) -> None:
    """The script stands in for NVIDIA's cuobjdump, which prints lines of this format."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "cuobjdump").write_text("#!/bin/sh\necho 'ELF file    1: ggml-cuda.1.sm_90.cubin'\n")
    (tools / "cuobjdump").chmod(0o755)
    library = Path(shutil.copy(server, tmp_path / "libggml-cuda.so"))
    path = f"{tools}:{os.environ['PATH']}"
    assert collect("-", library, server, SM="90", PATH=path).returncode == 0
    done = collect("-", library, server, SM="90 120", PATH=path)
    assert done.returncode == 1 and done.stderr.count("no code for") == 1 and "sm_120" in done.stderr
