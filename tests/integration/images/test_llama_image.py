"""Builds of llama.cpp images that must fail: the content is checked during the build."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bed import Bed
from compiled import play_images, serve_folder

REPOSITORY = "anvil.test/llama"
BUILDER = {"build_base": "anvil.local/builder:1", "build_packages": []}


def pack(folder: Path, **files: bytes) -> dict[str, str]:
    """Write a tar archive into the served folder; return its entry for `prebuilt`, without the URL."""
    path = folder / "llama.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"build/{name.replace('_', '-')}")
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
    return {"url": "", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def build(folder: Path, source: dict[str, str], **changes: Any) -> str:
    """Run the role, assert that it fails, and return its output."""
    with serve_folder(folder) as server:
        prebuilt = {**source, "url": f"http://127.0.0.1:{server.server_address[1]}/llama.tar.gz"}
        llama = {"prebuilt": prebuilt, **BUILDER, **changes}
        done = play_images({"name": REPOSITORY, "stack": "llama_cpp", "base": "scratch", "llama": llama})
    assert done.returncode, done.stdout
    return done.stdout + done.stderr


@pytest.fixture
def bed_without_images(clean_bed: Bed) -> Iterator[Bed]:
    yield clean_bed
    assert REPOSITORY not in clean_bed.docker("images", "--format", "{{.Repository}}")


def test_the_binary_of_a_mac_fails_the_build_with_an_explanation(bed_without_images: Bed, tmp_path: Path) -> None:
    told = build(tmp_path, pack(tmp_path, llama_server=bytes.fromhex("cffaedfe0c000001") + bytes(4096)))
    assert "macOS program (Mach-O)" in told and "Exec format error" in told and "leave the server on the Mac" in told


def test_the_binary_of_another_processor_fails_the_build(bed_without_images: Bed, tmp_path: Path) -> None:
    raw = Path("/bin/ls").read_bytes()
    foreign = raw[:18] + (b"\x3e\x00" if raw[18] == 0xB7 else b"\xb7\x00") + raw[20:]
    assert "built for another processor" in build(tmp_path, pack(tmp_path, llama_server=foreign))


def test_a_missing_library_fails_the_build(bed_without_images: Bed, tmp_path: Path) -> None:
    raw = Path("/bin/ls").read_bytes().replace(b"libc.so.6\0", b"libx.so.6\0")
    assert "needs libx.so.6" in build(tmp_path, pack(tmp_path, llama_server=raw))


def test_an_archive_with_another_checksum_fails_the_build(bed_without_images: Bed, tmp_path: Path) -> None:
    told = build(tmp_path, {**pack(tmp_path, llama_server=b""), "sha256": "0" * 64})
    assert re.search(r"/archive: FAILED", told) and "computed checksum did NOT match" in told


@pytest.mark.parametrize(
    "llama",
    [
        {},
        {"gpu": "cuda"},
        {"git": {"url": "u", "ref": "r"}, "sdist": {"version": "1", "sha256": "0" * 64}},
        {"archive": {"url": "u", "sha256": "0"}},
        {"git": {"url": "u", "ref": "r"}, "gpu": "cuda"},
    ],
)
def test_an_image_needs_exactly_one_complete_source(bed_without_images: Bed, llama: dict[str, Any]) -> None:
    done = play_images({"name": REPOSITORY, "stack": "llama_cpp", "base": "scratch", "llama": llama})
    told = " ".join((done.stdout + done.stderr).split())
    assert done.returncode and "llama.cpp comes from exactly one of git, archive, sdist, prebuilt, packages" in told
