# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a gateway router finds a variable in the dotenv files that it reads besides its environment."""

from __future__ import annotations

import io
import posixpath
import tarfile
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine


@dataclass(frozen=True)
class DotenvSearch:
    """paths: the files in which the router looks, the first one first. is_set: whether one of them sets the variable."""

    paths: Tuple[str, ...]
    is_set: bool


def find_dotenv_value(docker: DockerEngine, inspected: Mapping[str, Any], name: str) -> DotenvSearch:
    """Look for a variable in the files of a container, which need not run. Source: envfile.py of anvil-serving 2.0.2."""
    config = inspected["Config"]
    environment = dict(str(line).partition("=")[::2] for line in config.get("Env") or ())
    user = str(config.get("User") or "0").partition(":")[0]
    home = environment.get("HOME") or find_home(_read_file(docker, inspected, "/etc/passwd") or "", user)
    own = environment.get("ANVIL_SERVING_HOME") or "~/.anvil-serving"
    if own == "~" or own.startswith("~/"):
        own = home + own[1:]
    paths = [posixpath.normpath(posixpath.join(str(config.get("WorkingDir") or "/"), own, ".env"))]
    if environment.get("ANVIL_SERVING_NO_HOME_ENV", "0") != "1":
        paths.append(posixpath.join(home, ".env"))
    texts = [_read_file(docker, inspected, path) or "" for path in paths]
    return DotenvSearch(tuple(paths), any(parse_dotenv(text).get(name) for text in texts))


def find_home(passwd: str, user: str) -> str:
    """The home of a user (name or uid) by the lines of a passwd file; ``/`` for one that it does not hold, as Docker has it."""
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) >= 6 and user in (fields[0], fields[2]):
            return fields[5] or "/"
    return "/"


def parse_dotenv(text: str) -> Dict[str, str]:
    """The variables of a dotenv file as a gateway router reads them; the last line of a name counts."""
    found = {}
    for raw in text.splitlines():
        name, sign, value = raw.strip().partition("=")
        if not sign or name.startswith("#"):
            continue
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        else:
            value = value.split(" #", 1)[0].rstrip()
        found[name.strip()] = value.strip()
    return found


def _read_file(docker: DockerEngine, inspected: Mapping[str, Any], path: str) -> Optional[str]:
    """The text of a file in a container, through one symlink; ``None`` if it is no file."""
    answer = docker.read_archive(str(inspected["Id"]), path)
    if answer is not None and answer[0].get("linkTarget"):
        answer = docker.read_archive(str(inspected["Id"]), str(answer[0]["linkTarget"]))
    if answer is None:
        return None
    with tarfile.open(fileobj=io.BytesIO(answer[1]), mode="r") as archive:
        member = archive.next()
        stream = archive.extractfile(member) if member is not None and member.isfile() else None
        return None if stream is None else stream.read().decode("utf-8", "replace")
