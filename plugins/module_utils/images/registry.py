# SPDX-License-Identifier: GPL-3.0-or-later
"""What a registry holds of an image, and how to log in to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine


@dataclass(frozen=True)
class Login:
    """Credentials of a registry. The password goes through standard input into a configuration that is removed afterwards."""

    username: str = ""
    password: str = ""


def find_pushed_digest(image: Mapping[str, Any], name: str) -> str:
    """The digest (``sha256:…``) of an image in the repository of that name, as far as the Docker Engine knows; else empty."""
    found = [digest.partition("@")[2] for digest in image.get("RepoDigests") or () if digest.partition("@")[0] == name]
    return found[0] if found else ""


def is_pushed(docker: DockerEngine, reference: str, digest: str, login: Login) -> bool:
    """Whether the registry holds that digest under that name."""
    if not digest:
        return False
    auth = {"username": login.username, "password": login.password} if login.username else None
    try:
        found = docker.inspect_distribution(reference, auth)
    except AnvilError:
        return False  # the push reports what is wrong
    return bool(found and found["Descriptor"]["digest"] == digest)
