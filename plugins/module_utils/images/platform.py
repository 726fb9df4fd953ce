# SPDX-License-Identifier: GPL-3.0-or-later
"""The platform of an image, such as ``linux/arm64``, compared with that of the host. Pure.

Another platform is no mistake by itself: a host with emulation (binfmt) builds it, and an image without RUN needs none.
"""

from __future__ import annotations

from typing import Any, Collection, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.findings import Finding, doubtful, impossible

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
# Processor -> others whose programs it runs by itself, and that the Docker Engine therefore takes.
RUNS_TOO: Mapping[str, Tuple[str, ...]] = {"amd64": ("386",), "arm64": ("arm",)}
INDEXES = ("application/vnd.oci.image.index", "application/vnd.docker.distribution.manifest.list")
SERVE_HINT = "use a tag or an image for {0}"
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


def name_platform(system: Any, processor: Any) -> str:
    """``linux/amd64``; empty where the processor is unknown."""
    word = _name_processor(processor)
    return "{0}/{1}".format(str(system or "linux").lower(), word) if word and word != "unknown" else ""


def runs_here(platform: str, host: str) -> bool:
    """Whether a host runs images of a platform without emulation. What is unknown counts as yes."""
    if not platform or not host:
        return True
    system, _slash, processor = host.partition("/")
    return platform in (host, *("{0}/{1}".format(system, other) for other in RUNS_TOO.get(processor, ())))


def read_offer(distribution: Mapping[str, Any]) -> Tuple[List[str], bool]:
    """The platforms for which a registry has an image, and whether the Docker Engine chooses among them (an index).

    distribution: what the Docker Engine says of an image in its registry. Its attestations are for no platform.
    """
    media = str((distribution.get("Descriptor") or {}).get("mediaType") or "")
    rows = [row for row in distribution.get("Platforms") or () if isinstance(row, dict)]
    named = [name_platform(row.get("os"), row.get("architecture")) for row in rows]
    return sorted({each for each in named if each}), media.startswith(INDEXES)


def judge_offer(
    offer: Tuple[Sequence[str], bool], host: str, emulated: Optional[Collection[str]], where: str
) -> Optional[Finding]:
    """What to say before an image is pulled. emulated: processors that the host emulates; None: not known.

    An index without the host's platform is not pulled by the Docker Engine, emulation or not. A single image is pulled, and its
    label may be wrong.
    """
    platforms, is_index = offer
    if not platforms or any(runs_here(each, host) for each in platforms):
        return None
    what = "the registry has the image only for {0}, and this host is {1}".format(", ".join(platforms), host)
    hint = SERVE_HINT.format(host)
    if is_index:
        why = "the Docker Engine pulls only what is for its own platform: no matching manifest for {0}".format(host)
        return impossible(what, where, why, hint)
    return doubtful(what, where, _describe_emulation(platforms[0], emulated), hint)


def judge_image(
    platform: str, host: str, emulated: Optional[Collection[str]], refusal: Optional[str], where: str
) -> Optional[Finding]:
    """What to say before an image of this host is started. refusal: what its own program said when it was started here; empty:
    it started; None: it was not tried.
    """
    if runs_here(platform, host):
        return None
    what = "the image is for {0}, and this host is {1}".format(platform, host)
    hint = SERVE_HINT.format(host)
    if refusal:
        return impossible(what, where, "its program does not start here: " + refusal, hint)
    if refusal == "":
        why = "its program starts here: it is emulated, which is many times slower and mostly without GPUs, or its label is wrong"
        return doubtful(what, where, why, hint)
    return doubtful(what, where, _describe_emulation(platform, emulated), hint)


def _describe_emulation(platform: str, emulated: Optional[Collection[str]]) -> str:
    processor = platform.partition("/")[2]
    if emulated is None:
        return "whether this host emulates {0} is not known; without that it ends with 'exec format error'".format(processor)
    if processor in emulated:
        return "this host emulates {0} (binfmt_misc), which is many times slower, and mostly without GPUs".format(processor)
    return "this host does not emulate {0} (binfmt_misc), so its programs end with 'exec format error'".format(processor)
