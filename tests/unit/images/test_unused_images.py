"""Which images are pruned: those that are certainly ours, and that certainly nothing needs."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import LABEL_CONTENT
from ansible_collections.anvil.serving.plugins.module_utils.images.unused_images import (
    Build,
    StoredImage,
    judge_images,
    list_removed_names,
    spell,
)

CONTENTS = {letter: letter * 64 for letter in "abcdef0"}
STEPS = ("ENTRYPOINT", "COPY hello", "RUN make")


def ours(letter: str, *more: str, repository: str = "r:5000/team", prefix: str = "vllm-", **fields: Any) -> StoredImage:
    tags = (f"{repository}:{prefix}{letter * 16}", *more)
    return StoredImage(f"sha256:{letter * 64}", tags, labels={LABEL_CONTENT: letter * 64}, steps=STEPS, **fields)


def removed(*images: StoredImage, keep: int = 0, builds: tuple[Build, ...] = (), **known: dict[str, str]) -> list[str]:
    judged = judge_images(images, known.get("users", {}), known.get("references", {}), builds, keep)
    return [one.image.id[7] for one in judged if not one.why]


def test_an_image_of_ours_that_nothing_needs_is_removed() -> None:
    assert removed(ours("a"), ours("b", "r:5000/team:vllm-v1")) == ["a", "b"]


@pytest.mark.parametrize(
    "image",
    [
        StoredImage("sha256:x", ("vllm/vllm-openai:v1",)),  # pulled
        StoredImage("sha256:x"),  # somebody's dangling image
        StoredImage("sha256:x", ("mine:1",), labels={LABEL_CONTENT: "a" * 64}, steps=("RUN x", *STEPS)),  # built on ours
        StoredImage("sha256:x", (), labels={LABEL_CONTENT: "a" * 64}, steps=("RUN x", *STEPS)),  # the same, without a name
        StoredImage("sha256:x", (), labels={LABEL_CONTENT: "c" * 64}, steps=STEPS),  # nothing proves that it is ours
        StoredImage("sha256:x", (), labels={LABEL_CONTENT: "a" * 64}),  # its history cannot be read
        StoredImage("sha256:x", ("r:5000/team:vllm-v1",), labels={LABEL_CONTENT: "a" * 64}, steps=STEPS),
    ],
)
def test_what_is_not_certainly_ours_stays(image: StoredImage) -> None:
    assert removed(image, ours("a")) == ["a"]


def test_an_image_that_lost_its_name_to_one_of_the_same_recipe_is_removed() -> None:
    replaced = StoredImage("sha256:f", (), labels={LABEL_CONTENT: "a" * 64}, steps=STEPS)
    used = {"users": {ours("a").id: "container x"}}
    assert removed(replaced, ours("a"), **used) == ["f"]
    assert removed(replaced, ours("a"), users={**used["users"], "sha256:f": "container y"}) == []


@pytest.mark.parametrize(
    "reference",
    [
        "team:vllm-v1",
        "docker.io/library/team:vllm-v1",
        "team:vllm-" + "a" * 16,
        "team@sha256:1",
        "team:anything@sha256:1",
        "sha256:" + "a" * 64,
    ],
)
def test_an_image_that_is_named_in_any_spelling_stays(reference: str) -> None:
    image = ours("a", "team:vllm-v1", repository="team", digests=("team@sha256:1",))
    assert removed(image) == ["a"]
    assert removed(image, references=dict.fromkeys(spell(reference), "the inventory")) == []
    assert removed(image, references=dict.fromkeys(spell("team:vllm-v2"), "the inventory")) == ["a"]


@pytest.mark.parametrize("tag", ["mine:keep", "r:5000/team:backup", "r:5000/other:vllm-v1"])
def test_an_image_that_somebody_gave_another_name_stays(tag: str) -> None:
    assert removed(ours("a", tag)) == []


@pytest.mark.parametrize(
    ("build", "gone"),
    [
        (Build("r:5000/team", "vllm", "v2"), ["a"]),
        (Build("r:5000/team", "vllm"), []),  # its name is the hash of a content that is not known here
        (Build("r:5000/team", "tool"), ["a", "b"]),
        (Build("r:5000/other", "vllm"), ["a", "b"]),
    ],
)
def test_what_images_list_builds_stays(build: Build, gone: list[str]) -> None:
    assert sorted(removed(ours("a", "r:5000/team:vllm-v1"), ours("b", "r:5000/team:vllm-v2"), builds=(build,))) == gone


def test_the_newest_unused_image_of_each_stack_stays_for_a_roll_back() -> None:
    images = [ours("a", created=1), ours("b", created=2), ours("c", created=3), ours("d", prefix="tool-", created=0)]
    in_use = {"users": {images[2].id: "container x"}}
    assert removed(*images, keep=1, **in_use) == ["a"]
    assert removed(*images, keep=2, **in_use) == []
    assert sorted(removed(*images, keep=0, **in_use)) == ["a", "b", "d"]


def test_the_name_that_proves_an_image_is_ours_is_removed_last() -> None:
    image = ours("a", "r:5000/team:vllm-v1", "r:5000/team:vllm-a")
    assert list_removed_names(image)[-1] == "r:5000/team:vllm-" + "a" * 16
    assert list_removed_names(StoredImage("sha256:f")) == ["sha256:f"]
