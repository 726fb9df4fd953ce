"""Which platforms of images are doubtful on a host."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.images.build import explain_failure
from ansible_collections.anvil.serving.plugins.module_utils.images.platform import judge_platform, read_platform

PC, GRACE = {"OSType": "linux", "Architecture": "x86_64"}, {"OSType": "linux", "Architecture": "aarch64"}


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux/amd64", ("linux", "amd64")),
        ("linux/arm64/v8", ("linux", "arm64")),
        ("Linux/x86_64", ("linux", "amd64")),
        ("arm64", ("linux", "arm64")),
        ("aarch64", ("linux", "arm64")),
        ("linux/riscv64", ("linux", "riscv64")),
        ("windows/amd64", ("windows", "amd64")),
    ],
)
def test_a_platform_is_read_in_every_spelling(text: str, platform: tuple[str, str]) -> None:
    assert read_platform(text) == platform


@pytest.mark.parametrize("text", ["linux/", "linux", "linux/arm64/v8/x", "linux arm64", "/", "linux/arm64,linux/amd64"])
def test_text_that_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(AnvilError, match="is not a platform"):
        read_platform(text)


@pytest.mark.parametrize(
    ("wanted", "host", "base", "told"),
    [
        ("", PC, None, []),
        ("", PC, {"Os": "linux", "Architecture": "amd64"}, []),
        ("linux/amd64", PC, {"Os": "linux", "Architecture": "amd64"}, []),
        ("linux/arm64/v8", GRACE, {"Os": "linux", "Architecture": "arm64"}, []),
        ("linux/arm64", PC, None, ["the image is for linux/arm64, and this host is linux/amd64"]),
        ("", GRACE, {"Os": "linux", "Architecture": "amd64"}, ["base b on this host is for linux/amd64"]),
        ("linux/arm64", PC, {"Architecture": "amd64"}, ["this host is linux/amd64", "base b on this host is for linux/amd64"]),
        ("linux/arm64", {}, None, []),  # the Docker Engine does not say what it runs on
        ("", {}, {"Architecture": "amd64"}, []),
        ("", PC, {"Architecture": ""}, []),
    ],
)
def test_another_platform_is_doubtful_and_what_is_unknown_is_not_judged(
    wanted: str, host: dict[str, Any], base: dict[str, Any] | None, told: list[str]
) -> None:
    found = judge_platform(wanted, host, base, "b", "image")
    assert len(found) == len(told) and {one.verdict for one in found} <= {"doubtful"}
    for one, words in zip(found, told, strict=True):
        assert words in one.problem.what.replace("base image b", "base b")


@pytest.mark.parametrize(
    "log",
    [
        "ERROR: failed to solve: x: failed to resolve source metadata for docker.io/library/x:1: no match for platform in "
        "manifest: not found",
        "ERROR: failed to solve: no matching manifest for linux/arm64/v8 in the manifest list entries",
        "exec /bin/sh: exec format error",
    ],
)
def test_a_build_that_fails_for_its_platform_says_so(log: str) -> None:
    why, hint = explain_failure(1, log)
    assert "for another platform" in why and "platform" in hint
