# SPDX-License-Identifier: GPL-3.0-or-later
"""The recipe of an image: all that decides its content, hashed to its name and packed as the build context.

The context is a tar in memory that holds only named files: no killed run leaves a folder behind. Secrets are not part of the
content.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import tarfile
from dataclasses import asdict, dataclass, field
from typing import Iterator, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_folder import (
    ForeignError,
    ForeignFolder,
    describe_kind,
    open_folder,
)
from ansible_collections.anvil.serving.plugins.module_utils.images.platform import read_platform
from ansible_collections.anvil.serving.plugins.module_utils.weights.checksums import hash_stream

# What an image is for -> the prefix of its tags.
STACKS: Mapping[str, str] = {
    "vllm": "vllm-",
    "trt": "trt-",
    "tool": "tool-",
    "sglang": "sglang-",
    "llama_cpp": "llama-",
    "workflow": "workflow-",
}
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}")


@dataclass(frozen=True)
class Recipe:
    """All that decides the content of an image.

    files: path in the context -> text. folders: name of a build context -> folder on this host. base: becomes the build
    argument ``BASE``. secrets: names only; the values are not part of the content.
    """

    name: str
    stack: str
    dockerfile: str
    tag: str = ""
    base: str = ""
    platform: str = ""
    network: str = "default"
    files: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)
    build_args: Mapping[str, str] = field(default_factory=dict)
    secrets: Tuple[str, ...] = ()


def _list_files(folder: ForeignFolder) -> Iterator[Tuple[str, int, str]]:
    """(path, mode, sha256) of every file in a folder, in the same order on every host.

    A link that leads out of the folder counts as its words: BuildKit copies the link, and not what it leads to. Raises
    ForeignError for a FIFO, socket or device.
    """
    for entry in folder.walk():
        if not entry.regular and not stat.S_ISLNK(entry.seen.st_mode):
            folder.refuse(entry.path, "it is " + describe_kind(entry.seen.st_mode))
        with folder.parent(entry.path) as (handle, name):
            if _leads_to_folder(name, handle):
                continue
            try:
                with folder.open(entry.path, links=True) as stream:
                    seen, disk = os.fstat(stream.fileno()), os.fstatvfs(stream.fileno())
                    if seen.st_size > disk.f_blocks * disk.f_frsize:
                        folder.refuse(entry.path, "it claims to be larger than its disk")
                    yield entry.path, stat.S_IMODE(seen.st_mode), hash_stream(stream, seen.st_size)
            except (ForeignError, FileNotFoundError):
                yield entry.path, 0, "link to " + os.readlink(name, dir_fd=handle)


def _leads_to_folder(name: str, handle: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=handle).st_mode)
    except OSError:
        return False


def _hash_folder(name: str, folder: str) -> List[Tuple[str, int, str]]:
    if not os.path.isdir(folder):
        raise fail(
            "the folder of build context {0} is not there".format(name),
            where=folder,
            why="its files become part of the image, so they must be on this host before the build",
            hint="copy the folder to this host first, or remove the context (weights: mounted)",
        )
    try:
        with open_folder(folder) as opened:
            return list(_list_files(opened))
    except OSError as exc:
        raise fail(
            "cannot read build context " + name,
            where=exc.filename or folder,
            why=exc.strerror or str(exc),
            hint="check the permissions of the folder; with become: true, root reads it",
        ) from exc


def hash_content(recipe: Recipe) -> str:
    """sha256 of everything that decides the content: not the name and tag, and no value of a secret."""
    content = asdict(recipe)
    for key in ("name", "tag"):
        content.pop(key)
    content["folders"] = {name: _hash_folder(name, folder) for name, folder in recipe.folders.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def name_image(recipe: Recipe, content: str) -> Tuple[str, Optional[str]]:
    """The image's name by its content, and its readable name (``None`` without a tag), both with the prefix of the stack."""
    prefix = recipe.name + ":" + STACKS[recipe.stack]
    return prefix + content[:16], (prefix + recipe.tag if recipe.tag else None)


def check_recipe(recipe: Recipe) -> None:
    """Raise AnvilError for a tag, platform or file that cannot be used, before BuildKit fails on it."""
    if recipe.platform:
        read_platform(recipe.platform)
    if recipe.tag and not TAG.fullmatch(recipe.tag):
        raise fail("{0!r} is not a valid tag".format(recipe.tag), where="tag", hint="use only letters, digits, '_', '.' and '-'")
    for path in recipe.files:
        if os.path.isabs(path) or ".." in path.split("/") or path in ("", "Dockerfile"):
            hint = "give a path below the context, other than Dockerfile"
            raise fail("{0!r} is not a valid path in a build context".format(path), where="files", hint=hint)


def pack_context(recipe: Recipe) -> bytes:
    """The build context: the Dockerfile and the named files, as a tar without owners and times."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, text in sorted({**recipe.files, "Dockerfile": recipe.dockerfile}.items()):
            raw = text.encode()
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(raw), 0o755 if text.startswith("#!") else 0o644
            tar.addfile(member, io.BytesIO(raw))
    return packed.getvalue()
