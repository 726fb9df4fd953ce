# SPDX-License-Identifier: GPL-3.0-or-later
"""The platform of an image, such as ``linux/arm64``, compared with that of the host. Pure.

Another platform is no mistake by itself: a host with emulation (binfmt) builds it, and an image without RUN needs none.
"""

from __future__ import annotations

from typing import Any, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.findings import Finding, doubtful

# The kernel's name of a processor (also what the Docker Engine reports) -> the name in platforms.
ARCHITECTURES: Mapping[str, str] = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm",
    "armel": "arm",
    "armv7l": "arm",
    "armv6l": "arm",
    "i386": "386",
    "i686": "386",
}
HINT = "leave platform out, or use a host of that platform; to emulate it, install qemu-user-static and binfmt-support"


def read_platform(text: str) -> Tuple[str, str]:
    """(system, processor) of ``OS/PROCESSOR[/VARIANT]``, or of a processor alone, which means Linux. Raises AnvilError."""
    words = text.lower().split("/")
    if len(words) == 1:
        words = ["linux", *words]
    if len(words) > 3 or not all(word.replace("_", "").replace("-", "").isalnum() for word in words) or words[1] == "linux":
        hint = "write it as OS/PROCESSOR[/VARIANT], for example linux/amd64 or linux/arm64"
        raise fail("{0!r} is not a platform".format(text), where="platform", hint=hint)
    return words[0], ARCHITECTURES.get(words[1], words[1])


def judge_platform(
    wanted: str, host: Mapping[str, Any], base: Optional[Mapping[str, Any]], base_name: str, where: str
) -> List[Finding]:
    """What is doubtful about an image for the platform ``wanted`` (empty: the host's).

    host: the Docker Engine's description of itself. base: the base image, if it is on this host; ``Os`` and ``Architecture``.
    """
    here = (str(host.get("OSType") or "linux"), _name_processor(host.get("Architecture")))
    target = read_platform(wanted) if wanted else here
    found = []
    if here[1] and target != here:
        what = "the image is for {0}, and this host is {1}".format("/".join(target), "/".join(here))
        why = "a host runs programs of another platform only under emulation; without it they end with 'exec format error'"
        found.append(doubtful(what, where, why, HINT))
    mine = (str((base or {}).get("Os") or "linux"), _name_processor((base or {}).get("Architecture")))
    if mine[1] and target[1] and mine != target:
        what = "the base image {0} on this host is for {1}, and the image is for {2}".format(
            base_name, "/".join(mine), "/".join(target)
        )
        why = "the builder takes the base of the right platform from its registry, or fails where there is none"
        found.append(doubtful(what, where, why, "pull the base for that platform, or name another base"))
    return found


def _name_processor(value: Any) -> str:
    """The name in platforms; empty where it is unknown."""
    word = str(value or "").lower()
    return ARCHITECTURES.get(word, word)
