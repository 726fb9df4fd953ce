# SPDX-License-Identifier: GPL-3.0-or-later
"""What could be pruned on this host: the images, who uses them, and the bytes of the build cache. Removes nothing."""

from __future__ import annotations

import os
from typing import Any, Dict, Mapping, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_folder import ForeignError, open_folder
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import LABEL_CONTENT
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.images.unused_images import (
    Build,
    StoredImage,
    judge_images,
    list_removed_names,
    spell,
)

# Larger files below the folder of the collection are weights or data, and name no image.
LARGEST_FILE = 4 << 20


def describe_unused(
    docker: DockerEngine, root: str, references: Sequence[str], builds: Sequence[Build], keep: int
) -> Dict[str, Any]:
    """What anvil_prune_info returns.

    root: the folder of the collection on this host; every image that a file there names is needed. references: the images of
    the inventory.
    """
    usage = docker.read_disk_usage()
    images = [_read_image(docker, row) for row in usage["Images"]]
    users, named = {}, {name: "the inventory" for reference in references for name in spell(reference)}
    for row in docker.list_containers():
        user = "container " + row["Names"][0].lstrip("/")
        users[str(row.get("ImageID"))] = user
        named.update(dict.fromkeys(spell(row["Image"]), user))
    named.update(_find_in_files(root, [image for image in images if image.content]))
    judged = judge_images(images, users, named, builds, keep)
    unused = [one.image for one in judged if not one.why]
    return {
        "changed": False,
        "images": [_describe(image) for image in unused],
        "remove": [name for image in unused for name in list_removed_names(image)],
        "kept": [{**_describe(one.image), "why": one.why} for one in judged if one.why],
        "frees_mb": _as_mb(sum(image.unshared for image in unused)),
        "build_cache_mb": _as_mb(sum(row["Size"] for row in usage["BuildCache"] if not row["InUse"] and not row["Shared"])),
    }


def _describe(image: StoredImage) -> Dict[str, Any]:
    return {"id": image.id, "names": list(image.tags), "mb": _as_mb(image.size), "frees_mb": _as_mb(image.unshared)}


def _as_mb(size: int) -> float:
    return round(size / 1e6, 1)


def _read_image(docker: DockerEngine, row: Mapping[str, Any]) -> StoredImage:
    """An image of the disk usage. Only the history of an image that may be ours is read."""
    labels = row["Labels"]
    return StoredImage(
        id=row["Id"],
        tags=tuple(tag for tag in row["RepoTags"] if tag != "<none>:<none>"),
        digests=tuple(digest for digest in row["RepoDigests"] if not digest.startswith("<none>")),
        labels=labels,
        created=row["Created"],
        size=row["Size"],
        unshared=row["Size"] - row["SharedSize"] if row["SharedSize"] >= 0 else 0,
        steps=tuple(docker.read_steps(row["Id"])) if labels.get(LABEL_CONTENT) else (),
    )


def _find_in_files(root: str, images: Sequence[StoredImage]) -> Dict[str, str]:
    """The names of images that a file below a folder contains -> that file. Links are not followed."""
    found: Dict[str, str] = {}
    names = {name: name.encode() for image in images for name in (*image.names, image.id)}

    def stop(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    try:
        for here, folders, files in os.walk(root, onerror=stop):
            if "pyvenv.cfg" in files:  # the client of the hub: thousands of files of Python
                folders.clear()
            for path in (os.path.join(here, name) for name in sorted(files)):
                text = read_regular_file(path)
                found.update({name: path for name, raw in names.items() if name not in found and raw in text})
    except OSError as exc:
        raise fail(
            "cannot read which images the files of this host name",
            where=exc.filename or root,
            why=exc.strerror or str(exc),
            hint="run with -b; root reads these files",
        ) from exc
    # A file names an image by the beginning of its id too.
    return {**found, **{image.id: found[name] for image in images for name in image.names if name in found}}


def read_regular_file(path: str) -> bytes:
    """The content of a small regular file; empty for anything else, and for a file that is gone."""
    folder, name = os.path.split(path)
    try:
        with open_folder(folder) as opened:
            return opened.read(name, LARGEST_FILE) or b""
    except ForeignError:
        return b""
    except FileNotFoundError:
        return b""
