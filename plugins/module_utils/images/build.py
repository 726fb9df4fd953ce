# SPDX-License-Identifier: GPL-3.0-or-later
"""Build an image with BuildKit, and say why a build failed.

The builder tags an image when it is complete, so a killed build leaves no image of that name. Secrets go into the environment
of the client only, and BuildKit mounts them for the one command that needs them.
"""

from __future__ import annotations

import os
import re
from typing import List, Mapping, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.live_output import LiveOutput
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import LABEL_BASE, LABEL_CONTENT
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.engine_disk import EngineDisk
from ansible_collections.anvil.serving.plugins.module_utils.images.docker_cli import (
    LOG_LINES,
    build_argv,
    mask_secrets,
    run_program,
)
from ansible_collections.anvil.serving.plugins.module_utils.images.recipe import Recipe, name_image, pack_context

# BuildKit's plain progress: the line that begins a step. A line that a step prints has a time in this place.
STEP = re.compile(r"#\d+ \[(?!internal\])(?P<step>[^\]]+)\] (?P<words>.+)")


def read_step(line: str) -> str:
    """The step that begins with this line of a build's log, as ``stage 2/5: RUN …``; empty for every other line."""
    found = STEP.match(line.strip())
    return "{0}: {1}".format(found["step"].strip(), found["words"][:100]) if found else ""


# BuildKit and the docker command print one of these when the Docker Engine ended during the build.
ENGINE_GONE = (
    "code = Unavailable",
    "failed to solve: Unavailable",
    "failed to receive status",
    "Cannot connect to the Docker daemon",
    "error during connect",
)


# BuildKit's words where the registry has no base of the platform, and the kernel's where it cannot run a program of it.
OTHER_PLATFORM = ("no match for platform in manifest", "no matching manifest for", "exec format error")


def explain_failure(code: int, log: str) -> Tuple[str, str]:
    """Why a build failed, and what to do. code: its exit status, or minus the signal that killed it."""
    again = "then run again: finished steps are not repeated"
    if "buildx" in log and "not a docker command" in log:
        return (
            "the docker command has no buildx",
            "install buildx (docker-buildx or docker-buildx-plugin), then run again",
        )
    if code < 0:
        why = "docker buildx build was killed by signal {0}".format(-code)
        return why, "find out what killed it (journalctl -k shows whether memory ran out), " + again
    end = "\n".join(log.splitlines()[-LOG_LINES:])
    if any(word in end for word in ENGINE_GONE):
        why = "the Docker Engine ended during the build (docker buildx build ended with {0})".format(code)
        return why, "find out why it ended or was restarted (journalctl -u docker), " + again
    if any(word in end for word in OTHER_PLATFORM):
        why = "the base image or a program in it is for another platform (docker buildx build ended with {0})".format(code)
        return why, "name a base for the platform of this host, set platform, or build on a host of that platform"
    return "docker buildx build ended with {0}".format(code), "correct what the end of the log shows, " + again


def build_image(
    docker: DockerEngine,
    recipe: Recipe,
    content: str,
    base_id: str,
    secrets: Mapping[str, str],
    timeout: int,
    live_output: LiveOutput,
) -> List[str]:
    """Build the image under the name of its content. Returns the command line; raises AnvilError.

    base_id: id of the base image as it is now, recorded in a label. secrets: values by name. timeout: seconds.
    """
    reference, _readable = name_image(recipe, content)
    argv = build_argv(docker, "buildx", "build", "--load", "--progress=plain", "--provenance=false", "--tag", reference)
    argv += ["--network", recipe.network, "--label", LABEL_CONTENT + "=" + content, "--label", LABEL_BASE + "=" + base_id]
    if recipe.platform:
        argv += ["--platform", recipe.platform]
    build_args = {**recipe.build_args, **({"BASE": recipe.base} if recipe.base else {})}
    for name, value in sorted(build_args.items()):
        argv += ["--build-arg", "{0}={1}".format(name, value)]
    for name, folder in sorted(recipe.folders.items()):
        argv += ["--build-context", "{0}={1}".format(name, folder)]
    environment = {name: value for name, value in os.environ.items() if name != "DOCKER_CONTEXT"}
    for number, name in enumerate(recipe.secrets):
        argv += ["--secret", "id={0},env=ANVIL_SECRET_{1}".format(name, number)]
        environment["ANVIL_SECRET_{0}".format(number)] = secrets[name]
    argv.append("-")
    shown = set()

    def show_step(line: str) -> None:
        step = mask_secrets(read_step(line), list(secrets.values()))
        if step and step not in shown:
            shown.add(step)
            live_output.write_line("{0} {1}".format(reference, step))

    disk = EngineDisk(docker.docker_host, docker.info())
    code, text = run_program(argv, timeout, show_step, pack_context(recipe), environment, disk.describe_shortage)
    if code != 0:
        lines = mask_secrets(text, list(secrets.values())).splitlines()
        why, hint = explain_failure(code, text)
        raise fail(
            "the image could not be built; no part of it is kept", where=reference, why=why, hint=hint, log=lines[-LOG_LINES:]
        )
    return argv
