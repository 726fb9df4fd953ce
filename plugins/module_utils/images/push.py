# SPDX-License-Identifier: GPL-3.0-or-later
"""Push an image to a registry, and prove that the registry holds it."""

from __future__ import annotations

import os
import tempfile
import time
from typing import Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.images.docker_cli import build_argv, mask_secrets, run_program
from ansible_collections.anvil.serving.plugins.module_utils.images.registry import Login, find_pushed_digest

PUSH_ATTEMPTS = 5


def _find_registry(name: str) -> str:
    """The host of the registry in an image's name; empty for the default registry."""
    head, slash, _rest = name.partition("/")
    return head if slash and ("." in head or ":" in head or head == "localhost") else ""


def push_image(docker: DockerEngine, name: str, references: Sequence[str], login: Login, timeout: int) -> str:
    """Push an image under its references, and pull it by its digest: that proves what the registry holds. Returns the digest.

    name: the repository, with its registry. login: without a username, the login of ``docker login`` is used.
    """
    with tempfile.TemporaryDirectory(prefix="anvil-docker-") as config:
        os.chmod(config, 0o700)
        command = build_argv(docker, "--config", config) if login.username else build_argv(docker)
        if login.username:
            argv = [*command, "login", "--username", login.username, "--password-stdin"]
            argv += [_find_registry(name)] if _find_registry(name) else []
            _run_with_retries(argv, name, 120, login, "the registry refuses the credentials", login.password.encode())
        what = "the registry did not accept the image"
        for reference in references:
            _run_with_retries([*command, "push", "--quiet", reference], reference, timeout, login, what)
        image = docker.inspect_image(references[0])
        digest = find_pushed_digest(image or {}, name)
        if not digest:
            raise fail(
                "the Docker Engine reports no digest for the image that it pushed",
                where=references[0],
                hint="run again; if it happens again, read the log of the registry",
            )
        argv = [*command, "pull", "--quiet", "{0}@{1}".format(name, digest)]
        _run_with_retries(argv, name, timeout, login, "the registry does not return the image that was pushed")
    return digest


# Another attempt does not help after these words.
FINAL_WORDS = ("denied", "unauthorized", "authentication required", "no basic auth", "not found", "manifest unknown")


def _run_with_retries(argv: Sequence[str], where: str, timeout: int, login: Login, what: str, body: bytes = b"") -> None:
    """Run a command that needs the registry; repeat it after 1, 2, 4 and 8 s where that may help. Raises AnvilError."""
    for number in range(PUSH_ATTEMPTS):
        code, text = run_program(argv, timeout, body=body)
        if code == 0:
            return
        final = any(word in text.lower() for word in FINAL_WORDS)
        if final or number == PUSH_ATTEMPTS - 1:
            raise fail(
                what if final else "{0} ({1} attempts)".format(what, PUSH_ATTEMPTS),
                where=where,
                why=mask_secrets(text, [login.password]).strip(),
                hint="correct the registry or its login (anvil_registries, or username and password), then run again; "
                "the image that was built is kept",
            )
        time.sleep(2**number)
