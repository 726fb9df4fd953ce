# SPDX-License-Identifier: GPL-3.0-or-later
"""Which versions of anvil-serving this collection runs as a router, and the generation of each. Pure."""

from __future__ import annotations

import re
from typing import Optional, Tuple

SUPPORTED = "anvil-serving 0.12 to 0.13.2 (profile router), and 0.35.1 and newer (gateway router)"
# 0.13.2 is the last profile router. 0.14 to 0.34 are neither: their configuration belongs to no generation.
FIRST_PROFILE, FIRST_NEITHER, FIRST_GATEWAY = (0, 12), (0, 14), (0, 35)
VERSION = re.compile(r"v?([0-9]{1,4})\.([0-9]{1,4})(?:[.+-].*)?")


def parse_version(text: str) -> Optional[Tuple[int, int]]:
    """The first two numbers of a version; ``None`` where the text is no version."""
    found = VERSION.fullmatch(text)
    return (int(found.group(1)), int(found.group(2))) if found else None


def version_of_image(image: str) -> Optional[Tuple[int, int]]:
    """The version in the tag of an image; ``None`` if its tag is no version."""
    _name, colon, tag = image.partition("@")[0].rpartition(":")
    return parse_version(tag) if colon and "/" not in tag else None


def is_supported(version: Tuple[int, int]) -> bool:
    return FIRST_PROFILE <= version < FIRST_NEITHER or version >= FIRST_GATEWAY


def generation_of(version: Tuple[int, int]) -> str:
    """``profile`` or ``gateway``."""
    return "gateway" if version >= FIRST_NEITHER else "profile"
