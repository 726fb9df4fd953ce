# SPDX-License-Identifier: GPL-3.0-or-later
"""The images in an archive, as ``docker save`` and its like write it: their names, ids and platforms. Nothing is unpacked."""

from __future__ import annotations

import json
import re
import tarfile
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Mapping, Optional, Set, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail

MANIFEST, INDEX = "manifest.json", "index.json"
# The largest document of an image that is read (bytes), and the largest number of documents.
LARGEST, MOST = 4 * 1024 * 1024, 10000
DIGEST = re.compile(r"(?:^|[/:])([0-9a-f]{64})(?:\.json)?$")
# Compressed forms that the Docker Engine reads and Python does not.
ZSTD = b"\x28\xb5\x2f\xfd"


@dataclass
class ArchivedImage:
    """An image in an archive. ids: what a Docker Engine may call it, by its configuration or by its index."""

    names: List[str] = field(default_factory=list)
    ids: Set[str] = field(default_factory=set)
    platform: str = ""

    def as_dict(self) -> Dict[str, Any]:
        return {"names": sorted(self.names), "ids": sorted(self.ids), "platform": self.platform}


def read_archive(path: str) -> List[ArchivedImage]:
    """The images in an archive, compressed or not. Raises AnvilError where it is none."""
    hint = "playbooks/export_images.yml makes one"
    try:
        with open(path, "rb") as stream:
            if stream.read(4) == ZSTD:
                raise fail("the archive is compressed with zstd", where=path, hint="decompress it first: unzstd " + path)
        with tarfile.open(path) as archive:
            documents = _read_documents(archive)
    except (OSError, tarfile.TarError, EOFError, ValueError) as exc:
        raise fail("the archive cannot be read", where=path, why=str(exc), hint=hint) from exc
    found = list_images(documents)
    if not found:
        raise fail("the archive holds no images", where=path, why="it has neither {0} nor {1}".format(MANIFEST, INDEX), hint=hint)
    return found


def _read_documents(archive: tarfile.TarFile) -> Dict[str, bytes]:
    """The small files of the archive that may be documents of images, by their paths."""
    found: Dict[str, bytes] = {}
    for member in archive:
        name = member.name[2:] if member.name.startswith("./") else member.name
        if name not in (MANIFEST, INDEX) and not DIGEST.search(name):
            continue
        if member.isreg() and member.size <= LARGEST and len(found) < MOST:
            stream = archive.extractfile(member)
            if stream is None:
                continue
            content = stream.read(LARGEST)
            if content.lstrip()[:1] in (b"{", b"["):
                found[name] = content
    return found


def list_images(documents: Mapping[str, bytes]) -> List[ArchivedImage]:
    """The images that the documents of an archive describe. A name that both documents have counts once."""
    by_name: Dict[str, ArchivedImage] = {}
    found: List[ArchivedImage] = []
    for names, ids, platform in [*_read_manifest(documents), *_read_index(documents)]:
        image = next((by_name[name] for name in names if name in by_name), None)
        if image is None:
            image = next((each for each in found if ids & each.ids), None)
        if image is None:
            image = ArchivedImage()
            found.append(image)
        image.names += [name for name in names if name not in image.names]
        image.ids |= ids
        image.platform = image.platform or platform
        by_name.update(dict.fromkeys(names, image))
    return found


def _read_manifest(documents: Mapping[str, bytes]) -> Iterator[Tuple[List[str], Set[str], str]]:
    rows = _parse(documents.get(MANIFEST))
    for row in rows if isinstance(rows, list) else ():
        if not isinstance(row, dict):
            continue
        path = str(row.get("Config") or "")
        names = [shorten_name(str(name)) for name in row.get("RepoTags") or ()]
        yield names, _as_ids(path), _platform_of(_parse(documents.get(path)))


def _read_index(documents: Mapping[str, bytes]) -> Iterator[Tuple[List[str], Set[str], str]]:
    index = _parse(documents.get(INDEX))
    rows = index.get("manifests") if isinstance(index, dict) else None
    for row in rows if isinstance(rows, list) else ():
        if not isinstance(row, dict):
            continue
        notes = row.get("annotations") or {}
        name = str(notes.get("io.containerd.image.name") or notes.get("org.opencontainers.image.ref.name") or "")
        ids = _as_ids(str(row.get("digest") or ""))
        manifest = _parse(documents.get("blobs/sha256/" + str(row.get("digest") or "").rpartition(":")[2]))
        config = str((manifest.get("config") or {}).get("digest") or "") if isinstance(manifest, dict) else ""
        platform = _platform_of(_parse(documents.get("blobs/sha256/" + config.rpartition(":")[2])))
        yield [shorten_name(name)] if ":" in name or "/" in name else [], ids | _as_ids(config), platform


def _parse(content: Optional[bytes]) -> Any:
    try:
        return json.loads((content or b"null").decode("utf-8"))
    except (ValueError, RecursionError):
        return None


def _as_ids(text: str) -> Set[str]:
    match = DIGEST.search(text)
    return {"sha256:" + match.group(1)} if match else set()


def _platform_of(config: Any) -> str:
    if not isinstance(config, dict) or not config.get("architecture"):
        return ""
    return "{0}/{1}".format(config.get("os") or "linux", config["architecture"])


def shorten_name(name: str) -> str:
    """A reference as lists of images show it: ``docker.io/library/x:1`` is ``x:1``."""
    for start in ("docker.io/library/", "docker.io/"):
        if name.startswith(start):
            name = name[len(start) :]
    return name if ":" in name.rpartition("/")[2] else name + ":latest"
