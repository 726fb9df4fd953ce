"""Whether a host has what it must have, by what its Docker Engine says of itself."""

from __future__ import annotations

from typing import Any, cast

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.host.host_requirements import (
    _check_docker,
    is_older,
    judge_processor,
)


@pytest.mark.parametrize(
    ("version", "older"),
    [
        ("20.10.24+dfsg1", True),
        ("23.0.6", True),
        ("v2.40.3", True),
        ("24.0", False),
        ("24.0.9-1", False),
        ("26.1.5+dfsg1", False),
        ("29.0.0-rc.1", False),
        ("dev", False),  # a build without a number is not known to be older
        ("", False),
    ],
)
def test_which_version_is_too_old(version: str, older: bool) -> None:
    assert is_older(version, "24.0") is older


class Engine:
    """A stand-in for an engine that this machine does not have; it answers only what the check asks."""

    docker_host = "unix:///run/podman/podman.sock"

    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told

    def version(self) -> dict[str, Any]:
        return self.told

    def info(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("told", "what"),
    [
        ({"Version": "29.1.2"}, []),
        ({"Version": "dev"}, []),
        ({"Version": "20.10.24"}, ["Docker Engine 20.10.24 is too old"]),
        ({"Version": "5.2.2", "Components": [{"Name": "Podman Engine"}]}, ["this is Podman 5.2.2, and no Docker Engine"]),
    ],
)
def test_an_engine_is_judged_as_what_it_is(told: dict[str, Any], what: list[str]) -> None:
    unmet, _version, _info = _check_docker(cast(DockerEngine, Engine(told)))
    assert [one.problem.what for one in unmet] == what


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x86_64", None),
        ("amd64", None),
        ("", None),  # the Docker Engine does not answer
        ("aarch64", "linux/arm64"),
        ("arm64", "linux/arm64"),
        ("riscv64", "x86_64 and arm64 are supported"),
    ],
)
def test_another_processor_is_told_and_never_refused(name: str, words: str | None) -> None:
    found = judge_processor(name)
    assert len(found) == (words is not None)
    assert all(words in one.hint for one in found if words)
