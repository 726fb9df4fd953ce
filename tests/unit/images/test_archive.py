# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives of images, as old and new Docker Engines and others write them, and files that are none."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.images.archive import list_images, read_archive, shorten_name

A, B = "a" * 64, "b" * 64
CONFIG = json.dumps({"architecture": "arm64", "os": "linux", "rootfs": {}})
# docker save before Docker 25, podman save, and kaniko.
OLD = {"manifest.json": json.dumps([{"Config": A + ".json", "RepoTags": ["x:1", "x:2"], "Layers": []}]), A + ".json": CONFIG}
# docker save from Docker 25 on: the same image in both documents; with the containerd store its id is that of the index.
NEW = {
    "manifest.json": json.dumps([{"Config": "blobs/sha256/" + A, "RepoTags": ["docker.io/library/x:1"], "Layers": []}]),
    "index.json": json.dumps(
        {
            "manifests": [
                {
                    "digest": "sha256:" + B,
                    "annotations": {
                        "io.containerd.image.name": "docker.io/library/x:1",
                        "org.opencontainers.image.ref.name": "1",
                    },
                }
            ]
        }
    ),
    "blobs/sha256/" + A: CONFIG,
    "blobs/sha256/" + B: json.dumps({"config": {"digest": "sha256:" + A}}),
}
# An OCI layout alone, with a name or with a tag only.
OCI = {name: text for name, text in NEW.items() if name != "manifest.json"}


@pytest.mark.parametrize(
    ("documents", "images"),
    [
        (OLD, [(["x:1", "x:2"], {A}, "linux/arm64")]),
        (NEW, [(["x:1"], {A, B}, "linux/arm64")]),
        (OCI, [(["x:1"], {A, B}, "linux/arm64")]),
        ({"manifest.json": json.dumps([{"Config": A, "RepoTags": None}])}, [([], {A}, "")]),
        ({"manifest.json": "[1, {}]"}, [([], set(), "")]),
        ({"manifest.json": "{", "index.json": "[]"}, []),
        ({"index.json": json.dumps({"manifests": [{"digest": B, "annotations": None}, 3]})}, [([], {B}, "")]),
    ],
)
def test_images_are_listed_with_every_id_that_an_engine_may_give_them(
    documents: dict[str, str], images: list[tuple[list[str], set[str], str]]
) -> None:
    found = list_images({name: text.encode() for name, text in documents.items()})
    assert [(each.names, {one.rpartition(":")[2] for one in each.ids}, each.platform) for each in found] == images


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_an_archive_is_read_compressed_or_not(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "images.tar"
    with tarfile.open(path, mode) as archive:
        link = tarfile.TarInfo("index.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, text in OLD.items():
            member = tarfile.TarInfo("./" + name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    assert [each.names for each in read_archive(str(path))] == [["x:1", "x:2"]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read"),
        (b"no archive at all" * 100, "cannot be read"),
        (b"\x28\xb5\x2f\xfd....", "zstd"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_no_archive_is_refused_with_its_path(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "images.tar"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AnvilError) as caught:
        read_archive(str(path))
    assert said in str(caught.value) and str(path) in str(caught.value)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "files.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "test.py")
    with pytest.raises(AnvilError, match="holds no images"):
        read_archive(str(path))


def test_names_are_those_that_an_engine_lists() -> None:
    given = ["docker.io/library/x", "docker.io/a/b:1", "registry:5000/x", "ghcr.io/a/b:v1"]
    assert [shorten_name(name) for name in given] == ["x:latest", "a/b:1", "registry:5000/x:latest", "ghcr.io/a/b:v1"]
