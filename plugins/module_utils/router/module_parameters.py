# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of the router modules, read into settings and a promotion request; every mistake names its option."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any, Dict, List, Mapping, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import OBSERVATION
from ansible_collections.anvil.serving.plugins.module_utils.promotion.request import PromotionRequest
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import Place
from ansible_collections.anvil.serving.plugins.module_utils.router.candidate_checks import CONFIG_FILE, PROFILE_FILE
from ansible_collections.anvil.serving.plugins.module_utils.router.probes import parse_probes
from ansible_collections.anvil.serving.plugins.module_utils.router.router_settings import RouterSettings

LONGEST_TIME = 3600


def parse_settings(options: Mapping[str, Any]) -> RouterSettings:
    """The settings in a module's options; options that a module does not have keep their defaults."""
    names = [each.name for each in fields(RouterSettings)]
    values = {name: options[name] for name in names if name in options and options[name] is not None}
    for name in ("replicas", "validator"):
        if name in values:
            values[name] = tuple(values[name])
    if "probes" in values:
        values["probes"] = parse_probes(values["probes"], lambda path: read_text(path, "header_files"))
    if "environment" in values:
        values["environment"] = {str(key): str(value) for key, value in values["environment"].items()}
    settings = RouterSettings(**values)
    if len(set(settings.names)) != len(settings.names):
        raise fail("a replica is named twice", where="replicas", why=", ".join(settings.names))
    if settings.reload_signal and not re.fullmatch(r"SIG[A-Z0-9+-]{2,10}", settings.reload_signal):
        raise fail("not a signal", where="reload_signal", why=repr(settings.reload_signal), hint="use a name such as SIGUSR2")
    return settings


def parse_promotion_request(options: Mapping[str, Any], check_mode: bool) -> PromotionRequest:
    """The request in the options of ``anvil_router_promote``."""
    is_roll_back = options["state"] == "rolled_back"
    texts = {CONFIG_FILE: options["config"], PROFILE_FILE: options["profile"]}
    for name, key in ((CONFIG_FILE, "config_src"), (PROFILE_FILE, "profile_src")):
        if options.get(key) is not None:
            texts[name] = read_text(str(options[key]), key)
    has_texts = any(text is not None for text in texts.values())
    _check_combination(options, has_texts)
    if is_roll_back and not re.fullmatch(r"previous|[0-9a-f]{4,64}", options["revision"]):
        raise fail(
            "not a revision",
            where="revision",
            why=repr(options["revision"]),
            hint="previous, or 4 to 64 digits of its sha256",
        )
    if options["keep"] < 2:
        raise fail(
            "too few revisions to keep",
            where="keep",
            why=str(options["keep"]),
            hint="at least 2: the live one and the one before",
        )
    for name in ("grace", "start_timeout", "settle", "lock_timeout", "drain_timeout"):
        if not 0 <= (options.get(name) or 0) <= LONGEST_TIME:
            raise fail("the time is out of range", where=name, why=str(options[name]), hint="0 to 3600 seconds")
    files = {name: encode_text(name, text) for name, text in texts.items() if text is not None}
    return PromotionRequest(
        files=_read_files(options["files"], options["mount"]) if options.get("files") else files,
        rollback_to=options["revision"] if is_roll_back else "",
        keep=options["keep"],
        reload=options["reload"],
        check_mode=check_mode,
        validate_only=options["validate_only"],
        replace_all=_is_generic(options),
        plain_layout=options.get("layout") == "plain",
        writer_image=options.get("writer_image") or "",
        lock_wait=options["lock_timeout"],
        # A settle time that the operator sets is the whole observation.
        observation=0.0 if options["settle"] is not None else OBSERVATION,
        is_rendered=bool(options.get("rendered")),
        overruled=tuple(
            name
            for name, key in ((CONFIG_FILE, "config_from"), (PROFILE_FILE, "profile_from"))
            if options.get(key) == "inventory"
        ),
        may_repeat=bool(options.get("repeat", True)),
        by=str(options.get("by") or ""),
        discard_journal=bool(options.get("discard_journal")),
    )


def _is_generic(options: Mapping[str, Any]) -> bool:
    """Whether the container is no router."""
    return bool(options.get("files")) or bool(options.get("validator"))


def _check_combination(options: Mapping[str, Any], has_texts: bool) -> None:
    """has_texts: whether config or profile is given."""
    is_roll_back, is_plain = options["state"] == "rolled_back", options.get("layout") == "plain"
    if is_roll_back and (options.get("files") or has_texts):
        raise fail("a roll back takes its files from a revision", where="state", hint="leave out config, profile and files")
    if _is_generic(options) and has_texts:
        what = "config and profile are for a router, files and validator for any other container"
        raise fail(what, where="files", hint="give one or the other")
    if not is_roll_back and not is_plain and not _is_generic(options) and not has_texts:
        raise fail("nothing to promote", where="config", hint="give config, profile or files, as text or as a file (_src)")
    if is_plain and options.get("replicas"):
        what = "replicas cannot read plain files: each reads through its own pointer"
        raise fail(what, where="layout", hint="layout: plain is for a single router")


# ---------------------------------------------------------------------------------------------------------------- files


def encode_text(where: str, text: str) -> bytes:
    """A file's bytes: UTF-8, with line ends as LF (the router's loader refuses CR)."""
    try:
        return text.replace("\r\n", "\n").encode("utf-8")
    except UnicodeEncodeError as exc:
        raise fail("not valid UTF-8", where=where, why="at character {0}".format(exc.start)) from exc


def read_text(path: str, option: str) -> str:
    """The text of a file of this host; an ``AnvilError`` if it cannot be read or is not UTF-8."""
    try:
        with open(path, "rb") as stream:
            return stream.read().decode("utf-8")
    except (OSError, ValueError) as exc:
        why = "not valid UTF-8" if isinstance(exc, UnicodeDecodeError) else str(exc)
        raise fail("the file cannot be read", where="{0}: {1}".format(option, path), why=why) from exc


def _read_files(given: Sequence[Mapping[str, Any]], mount: str) -> Dict[str, bytes]:
    """The files of the option ``files``; all problems at once."""
    found: Dict[str, bytes] = {}
    problems: List[Problem] = []
    for index, each in enumerate(given):
        where = "files[{0}]".format(index)
        dest = str(each["dest"])
        name = dest[len(mount) + 1 :] if dest.startswith(mount + "/") else dest
        try:
            if (each.get("content") is None) == (each.get("src") is None):
                raise fail("give either content or src", where=where)
            if name in found:
                raise fail("a second file for the same destination", where=where + ".dest", why=repr(dest))
            if name.startswith("/"):
                raise fail("the destination is not below the mount", where=where + ".dest", why=repr(dest), hint=mount)
            Place("v", "/v", "r", (name,))  # raises for a name that is no path below the mount
            text = each["content"] if each.get("content") is not None else read_text(str(each["src"]), where + ".src")
            found[name] = encode_text(where, str(text))
        except AnvilError as exc:
            problems += exc.problems
    if problems:
        raise AnvilError(*problems)
    return found
