# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings in a daemon.json: read strictly, merged, shown without secrets; and which of them dockerd reads again. Pure."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.printable import HIDDEN
from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import mask_value

BY_HAND = "correct it by hand (dockerd --validate --config-file {0} shows the error), or move it away"
# What dockerd reads again on SIGHUP, and uses from then on (moby, daemon/reload.go). `features` is read again too, but CDI and
# the image store are decided at the start.
RELOADABLE = frozenset(
    (
        "allow-nondistributable-artifacts",
        "authorization-plugins",
        "debug",
        "default-runtime",
        "insecure-registries",
        "labels",
        "live-restore",
        "max-concurrent-downloads",
        "max-concurrent-uploads",
        "max-download-attempts",
        "registry-mirrors",
        "runtimes",
        "shutdown-timeout",
    )
)
# No setting of dockerd is nested so deeply.
DEEPEST = 20
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_UTF8_MARK = b"\xef\xbb\xbf"
_COMMENT = re.compile(r"^\s*(//|/\*|#)", re.MULTILINE)
# A login before a host, without the scheme of a URL: user:password@proxy:3128.
_LOGIN = re.compile(r"^[^\s/@:]+:[^\s/@]+@")
_SECRET_KEYS = frozenset(("auth", "identitytoken", "registrytoken"))


class _NotAllowedError(ValueError):
    """JSON that Python's parser accepts, and that dockerd does not read or reads in another way."""


def merge_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> Dict[str, Any]:
    """``old`` merged with ``new``: mappings key by key, lists by adding missing items, everything else replaced.

    Keys that ``new`` does not name stay as they are, in their order.
    """
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            merged[key] = merge_settings(before, value)
        elif isinstance(before, list) and isinstance(value, list):
            merged[key] = before + [item for item in value if item not in before]
        else:
            merged[key] = value
    return merged


def _refuse_duplicates(pairs: Sequence[Tuple[str, Any]]) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _NotAllowedError("the key {0} is there twice, and only one of its values would be kept".format(json.dumps(key)))
        found[key] = value
    return found


def _refuse_constant(word: str) -> None:
    raise _NotAllowedError("{0} is not a value of JSON".format(word))


def _read_float(text: str) -> float:
    if math.isinf(float(text)):
        raise _NotAllowedError("{0} is too large a number".format(text[:40]))
    return float(text)


def _decode(path: str, data: bytes) -> str:
    try:
        if b"\0" in data and _is_cut(data):
            why = "it has bytes of zero at its end or nothing else, as a file that was written while the power failed"
            raise fail(
                "daemon.json was not written whole; nothing was merged into it", where=path, why=why, hint=BY_HAND.format(path)
            )
        if data.startswith(_UTF16) or b"\0" in data:
            raise fail(
                "daemon.json is UTF-16; nothing was merged into it",
                where=path,
                why="JSON is UTF-8; an editor on Windows wrote this file",
                hint="iconv -f UTF-16 -t UTF-8 {0} shows it as UTF-8: write that into the file".format(path),
            )
        return data[len(_UTF8_MARK) if data.startswith(_UTF8_MARK) else 0 :].decode("utf-8")
    except UnicodeDecodeError as exc:
        raise _broken(path, "it is not UTF-8: {0} at byte {1}".format(exc.reason, exc.start)) from exc


def _is_cut(data: bytes) -> bool:
    """Whether zeros take the place of the end of a file: what stands before them has none, and is no text of two-byte letters."""
    text = data.rstrip(b"\0")
    return b"\0" not in text and len(data) - len(text) > 1 and not data.startswith(_UTF16)


def _broken(path: str, why: str) -> AnvilError:
    return fail("daemon.json is not valid JSON; nothing was merged into it", where=path, why=why, hint=BY_HAND.format(path))


def read_settings(path: str, data: Optional[bytes]) -> Dict[str, Any]:
    """The settings in a daemon.json; none in an absent or empty file. A mark of UTF-8 at its start does not count.

    Raises AnvilError if it is not a JSON object, or holds what would be lost by writing it again.
    """
    text = "" if data is None else _decode(path, data)
    if not text.strip():
        return {}
    try:
        found = json.loads(text, object_pairs_hook=_refuse_duplicates, parse_constant=_refuse_constant, parse_float=_read_float)
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    except RecursionError as exc:
        raise _broken(path, "it is nested too deeply") from exc
    except ValueError as exc:
        comment = "; JSON has no comments, and dockerd refuses them too" if _COMMENT.search(text) else ""
        raise _broken(path, str(exc) + comment) from exc
    if _depth(found) > DEEPEST:
        raise _broken(path, "it is nested too deeply")
    if not isinstance(found, dict):
        raise fail("daemon.json is not a JSON object; nothing was merged into it", where=path, hint=BY_HAND.format(path))
    return found


def _depth(value: Any) -> int:
    """How many levels of mappings and lists a value has, counted as far as matters."""
    level, depth = [value], 0
    while level and depth <= DEEPEST:
        level = [
            item for one in level if isinstance(one, (dict, list)) for item in (one.values() if isinstance(one, dict) else one)
        ]
        depth += 1
    return depth


def lay_out(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, indent=2) + "\n"


def mask_settings(value: Any) -> Any:
    """The settings to show: logins of proxies and mirrors, tokens of log drivers and the like are hidden."""
    if isinstance(value, Mapping):
        masked = mask_value(value)
        hidden = {key for key, item in value.items() if key in _SECRET_KEYS and isinstance(item, str)}
        return {key: HIDDEN if key in hidden else mask_settings(masked[key]) for key in value}
    if isinstance(value, (list, tuple)):
        return [mask_settings(item) for item in mask_value(value)]
    return _LOGIN.sub(HIDDEN + "@", mask_value(value)) if isinstance(value, str) else value


def list_secrets(settings: Any) -> List[str]:
    """The texts in the settings that ``mask_settings`` does not show as they are."""
    return _differing(settings, mask_settings(settings))


def _differing(value: Any, masked: Any) -> List[str]:
    if isinstance(value, Mapping):
        return [text for key, item in value.items() for text in _differing(item, masked[key])]
    if isinstance(value, (list, tuple)):
        return [text for item, shown in zip(value, masked) for text in _differing(item, shown)]
    return [value] if isinstance(value, str) and value != masked else []


def is_reloadable(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether dockerd uses everything that differs after it has read its file again, without a restart."""
    return all(key in RELOADABLE for key in {*before, *after} if before.get(key) != after.get(key))
