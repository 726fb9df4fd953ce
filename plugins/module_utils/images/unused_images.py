# SPDX-License-Identifier: GPL-3.0-or-later
"""Which images of ours nothing needs. Pure: everything that is known of the images and of their users is given.

An image is ours if its tag is the hash of its content, as ``anvil_image`` names it. An image without a name is ours if it has
the content of one that is, and ends with the same steps: a label alone proves nothing, because images that others build on ours
inherit it. What is not certainly ours, or has a name that we did not give, stays.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import LABEL_CONTENT
from ansible_collections.anvil.serving.plugins.module_utils.images.recipe import STACKS

HUB = re.compile(r"^(index\.|registry-1\.)?docker\.io/(library/)?")
# The last steps of a build that are compared to recognise an image without a name.
COMPARED_STEPS = 3


@dataclass(frozen=True)
class StoredImage:
    """An image of this host. created: seconds since 1970. unshared: bytes of layers that no other image has.

    steps: the commands of its history, newest first.
    """

    id: str
    tags: Tuple[str, ...] = ()
    digests: Tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    created: int = 0
    size: int = 0
    unshared: int = 0
    steps: Tuple[str, ...] = ()

    @property
    def content(self) -> str:
        return self.labels.get(LABEL_CONTENT, "")

    @property
    def names(self) -> Tuple[str, ...]:
        """All that a file may call it by."""
        bare = self.id.rpartition(":")[2]
        return (*self.tags, *self.digests, bare[:12])


@dataclass(frozen=True)
class Build:
    """An entry of ``images_list``: its repository, stack and readable tag."""

    name: str
    stack: str
    tag: str = ""


@dataclass(frozen=True)
class Judgement:
    """An image of ours, and why it stays; an empty ``why``: nothing needs it."""

    image: StoredImage
    why: str = ""


def normalise(reference: str) -> str:
    """A reference as the Docker Engine prints it: without the name of Docker Hub, with the tag ``latest`` if it has none."""
    name = HUB.sub("", reference)
    last = name.rpartition("/")[2]
    return name if ":" in last or "@" in last else name + ":latest"


def spell(reference: str) -> Set[str]:
    """The names that a reference may match: itself, and for a tag with a digest also each of the two alone."""
    name, at, digest = normalise(reference).partition("@")
    head, slash, last = name.rpartition("/")
    repository = head + slash + last.partition(":")[0]
    return {name} if not at else {name + at + digest, name, repository + at + digest}


def find_stack(image: StoredImage) -> Optional[Tuple[str, str]]:
    """(repository, prefix of the stack) of the name by which an image is ours; None if it has no such name."""
    for tag in image.tags:
        repository, _colon, word = tag.rpartition(":")
        for prefix in STACKS.values():
            if image.content and word == prefix + image.content[:16]:
                return repository, prefix
    return None


def is_ours(image: StoredImage, images: Iterable[StoredImage]) -> bool:
    """Whether ``anvil_image`` certainly built it."""
    if image.tags or not image.content:
        return find_stack(image) is not None
    last = image.steps[:COMPARED_STEPS]
    named = [other for other in images if other.content == image.content and find_stack(other)]
    return bool(last) and any(other.steps[:COMPARED_STEPS] == last for other in named)


def _find_use(image: StoredImage, users: Mapping[str, str], references: Mapping[str, str], builds: Sequence[Build]) -> str:
    """Who needs the image; empty if nobody is known."""
    if image.id in users:
        return users[image.id]
    for name in (*image.tags, *image.digests, image.id):
        if normalise(name) in references or name in references:
            return references.get(normalise(name)) or references[name]
    stack = find_stack(image)
    for tag in image.tags if stack else ():
        repository, _colon, word = tag.rpartition(":")
        if stack and (repository != stack[0] or not word.startswith(stack[1])):
            return "it has another name: " + tag
    for build in builds:
        if stack == (normalise(build.name).rpartition(":")[0], STACKS[build.stack]):
            if not build.tag:
                return "images_list builds {0} for {1} without a tag".format(build.name, build.stack)
            if "{0}:{1}{2}".format(stack[0], stack[1], build.tag) in image.tags:
                return "images_list"
    return ""


def judge_images(
    images: Sequence[StoredImage],
    users: Mapping[str, str],
    references: Mapping[str, str],
    builds: Sequence[Build],
    keep: int,
) -> List[Judgement]:
    """Every image of ours, with the reason why it stays, if any.

    users: id of an image -> what uses it. references: name of an image, each spelling -> what names it. keep: the number of
    images of each repository and stack, newest first, that stay for a roll back although nothing uses them.
    """
    judged: List[Judgement] = []
    kept: Dict[Tuple[str, str], int] = {}
    for image in sorted(images, key=lambda one: one.created, reverse=True):
        if not is_ours(image, images):
            continue
        why = _find_use(image, users, references, builds)
        stack = find_stack(image)
        if not why and stack is not None and kept.get(stack, 0) < keep:
            kept[stack] = kept.get(stack, 0) + 1
            why = "kept for a roll back"
        judged.append(Judgement(image, why))
    return judged


def list_removed_names(image: StoredImage) -> List[str]:
    """What to remove, in order: its names, or its id if it has none. The name by which it is ours goes last, so that a run
    that was killed in between is completed by the next one.
    """
    return sorted(image.tags, key=lambda tag: tag.endswith(image.content[:16])) or [image.id]
