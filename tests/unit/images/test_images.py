"""Decisions about an image that need no builder."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import LABEL_BASE, LABEL_CONTENT
from ansible_collections.anvil.serving.plugins.module_utils.images.build import explain_failure
from ansible_collections.anvil.serving.plugins.module_utils.images.converge import decide_action
from ansible_collections.anvil.serving.plugins.module_utils.images.docker_cli import mask_secrets
from ansible_collections.anvil.serving.plugins.module_utils.images.recipe import (
    Recipe,
    check_recipe,
    hash_content,
    name_image,
    pack_context,
)

RECIPE = Recipe(
    name="r:5000/team/serving", stack="trt", dockerfile="FROM x\n", tag="v1", files={"run": "#!/bin/sh\n", "a/b": "c"}
)


def _image(content: str = "c", base: str = "sha256:b", image_id: str = "sha256:1") -> dict[str, object]:
    return {"Id": image_id, "Config": {"Labels": {LABEL_CONTENT: content, LABEL_BASE: base}}}


@pytest.mark.parametrize(
    ("image", "readable", "base", "action", "reasons"),
    [
        (None, None, "", "build", ("missing",)),
        (_image("other"), _image(), "sha256:b", "build", ("content",)),
        (_image(), _image(), "sha256:new", "build", ("base",)),
        (_image(), _image(), "", "none", ()),  # the base was removed from the Docker Engine: no reason to build
        (_image(base=""), _image(), "sha256:b", "none", ()),  # the base was unknown when the image was built
        (_image(), None, "sha256:b", "tag", ("tag",)),
        (_image(), _image(image_id="sha256:2"), "sha256:b", "tag", ("tag",)),
        (_image(), _image(), "sha256:b", "none", ()),
    ],
)
def test_an_image_is_built_or_tagged_with_its_reason(
    image: object, readable: object, base: str, action: str, reasons: tuple[str, ...]
) -> None:
    decided = decide_action("c", image, readable, tag=True, base_id=base)
    assert (decided.action, decided.reasons) == (action, reasons)


def test_names_begin_with_the_stack_and_the_hash_names_the_content() -> None:
    content = hash_content(RECIPE)
    assert name_image(RECIPE, content) == (f"r:5000/team/serving:trt-{content[:16]}", "r:5000/team/serving:trt-v1")
    assert name_image(replace(RECIPE, tag=""), content)[1] is None
    assert hash_content(replace(RECIPE, name="elsewhere", tag="v2")) == content
    assert hash_content(replace(RECIPE, base="y")) != content != hash_content(replace(RECIPE, files={}))


def test_the_build_context_holds_the_named_files_and_is_reproducible() -> None:
    packed = pack_context(RECIPE)
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        assert {member.name: member.mode for member in tar} == {"Dockerfile": 0o644, "a/b": 0o644, "run": 0o755}
    assert packed == pack_context(RECIPE)


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../b", "Dockerfile", ""])
def test_a_path_outside_the_context_is_refused(path: str) -> None:
    with pytest.raises(AnvilError):
        check_recipe(replace(RECIPE, files={path: ""}))


def test_an_invalid_tag_is_refused() -> None:
    with pytest.raises(AnvilError):
        check_recipe(replace(RECIPE, tag="a:b"))


def test_longer_secrets_are_masked_first() -> None:
    assert mask_secrets("hf_abc and hf_abcdef", ["hf_abc", "hf_abcdef", ""]) == "******** and ********"


@pytest.mark.parametrize(
    ("code", "log", "why", "hint"),
    [
        (
            1,
            'ERROR: process "/bin/sh -c false" did not complete successfully: exit code: 1',
            "ended with 1",
            "the end of the log",
        ),
        (-9, "#5 [2/2] RUN make", "killed by signal 9", "journalctl -k"),
        (
            1,
            "ERROR: failed to receive status: rpc error: code = Unavailable desc = error reading from server: EOF",
            "Docker Engine ended",
            "-u",
        ),
        (1, "ERROR: failed to solve: Unavailable: error reading from server: EOF", "Docker Engine ended", "-u"),
        (1, "docker: 'buildx' is not a docker command.", "no buildx", "docker-buildx-plugin"),
    ],
)
def test_a_failed_build_is_explained_with_a_remedy(code: int, log: str, why: str, hint: str) -> None:
    told = explain_failure(code, log)
    assert why in told[0] and hint in told[1]
