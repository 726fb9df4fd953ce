# SPDX-License-Identifier: GPL-3.0-or-later
"""Revisions of a serve: its definitions that were ready, the pin that keeps one of them live, and which one a failure goes back
to. Pure.

A pin says which revision runs instead of the definition of the inventory, and which definition that is. It is written before the
containers change, so it is also the journal: a run that is killed on the way back leaves a pin, and the next run follows it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    LABEL_SPEC,
    Service,
    service_as_dict,
    service_from_dict,
)

MOST_REVISIONS = 10
PREVIOUS = "previous"
ROLL_BACK, KEEP = "roll_back", "keep"


@dataclass(frozen=True)
class Revision:
    """One definition of a serve. compose: a compose file with only this service. files: as in ``Project``, those it mounts."""

    service: Service
    image_id: str
    compose: str
    files: Mapping[str, str] = field(default_factory=dict)

    def as_text(self) -> str:
        content = {
            "service": service_as_dict(self.service),
            "image_id": self.image_id,
            "compose": self.compose,
            "files": dict(self.files),
        }
        return json.dumps(content, sort_keys=True, indent=1) + "\n"

    @property
    def name(self) -> str:
        return hashlib.sha256(self.as_text().encode("utf-8")).hexdigest()


def revision_from_text(text: str) -> Revision:
    """The inverse of ``Revision.as_text``. Raises ValueError, KeyError or TypeError for another text."""
    raw = json.loads(text)
    return Revision(service_from_dict(raw["service"]), str(raw["image_id"]), str(raw["compose"]), dict(raw["files"]))


@dataclass(frozen=True)
class ReadyEntry:
    """A revision that was ready, without its content. identity: as ``identify``. at: seconds since 1970, first ready."""

    revision: str
    identity: str
    image: str
    image_id: str
    at: int


@dataclass(frozen=True)
class Pin:
    """revision: the one that runs. image: the id of its image, where its reference names another image now; else empty.

    rejected, rejected_image, salt: the definition of the inventory that it replaces (``fingerprint``), and its image's id.
    by: the operator who rolled back; empty after a failed change. reason: why that failed.
    """

    revision: str
    rejected: str
    rejected_image: str
    salt: str
    at: int
    image: str = ""
    by: str = ""
    reason: str = ""


@dataclass(frozen=True)
class ServeHistory:
    """The revisions of one serve that were ready, the last one first; and its pin."""

    ready: Tuple[ReadyEntry, ...] = ()
    pin: Optional[Pin] = None

    def with_ready(self, entry: ReadyEntry) -> ServeHistory:
        """This history after a revision was ready. It is the last one that was."""
        known = next((one for one in self.ready if one.revision == entry.revision), entry)
        others = [one for one in self.ready if one.revision != entry.revision]
        return replace(self, ready=(known, *others)[:MOST_REVISIONS])

    def without_preference(self, revision: str) -> ServeHistory:
        """This history after an operator left a revision: a second roll back leads further back, never to it again."""
        kept = [one for one in self.ready if one.revision != revision]
        return replace(self, ready=(*kept, *(one for one in self.ready if one.revision == revision)))

    def is_last(self, identity: str, image_id: str) -> bool:
        """Whether a definition is the last one that was ready."""
        return bool(self.ready) and (self.ready[0].identity, self.ready[0].image_id) == (identity, image_id)

    def choose(self, asked: str, current: str) -> Optional[ReadyEntry]:
        """The revision that an operator names: ``previous``, or the beginning of a name. current: the one that runs."""
        if asked == PREVIOUS:
            return next((one for one in self.ready if one.revision != current), None)
        found = [one for one in self.ready if asked and one.revision.startswith(asked)]
        return found[0] if len(found) == 1 else None


def history_from_dict(raw: Mapping[str, Any]) -> ServeHistory:
    pin = raw.get("pin")
    return ServeHistory(tuple(ReadyEntry(**one) for one in raw.get("ready") or ()), Pin(**pin) if pin else None)


def select_files(service: Service, directory: str, files: Mapping[str, str]) -> Dict[str, str]:
    """Those files of a project that a service mounts."""
    sources = {mount.source for mount in service.mounts}
    return {path: text for path, text in files.items() if "{0}/{1}".format(directory, path) in sources}


def identify(service: Service, files: Mapping[str, str]) -> str:
    """What tells two definitions of a serve apart, besides the image's id. files: those that it mounts."""
    spec = service.labels.get(LABEL_SPEC) or service.spec_hash()
    return spec if not files else "{0}+{1}".format(spec, _hash(sorted(files.items())))


def fingerprint(service: Service, files: Mapping[str, str], secrets: Mapping[str, str], salt: str) -> str:
    """As ``identify``, with everything else that decides whether a start succeeds: the values of secrets, how long a serve may
    take. salt: a random text, so that no secret can be guessed from the result."""
    plain = {key: value for key, value in service_as_dict(service).items() if key not in ("labels", "anvil", "env_files")}
    return _hash([salt, plain, service.anvil.get("ready"), sorted(files.items()), sorted(secrets.items())])


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()


def is_rejected(pin: Pin, rejected: str, image_id: str) -> bool:
    """Whether the inventory still has the definition that a pin replaces. image_id: of its image; empty if it is not here."""
    return pin.rejected == rejected and image_id in ("", pin.rejected_image)


def cut_service(compose: str, name: str) -> str:
    """A compose file of this collection without its other services."""
    kept: List[str] = []
    section, indent, chosen = "", "", False
    for line in compose.splitlines():
        top = re.match(r"([\w.-]+):", line)
        if top:
            section, indent = top[1], ""
        elif section == "services" and line.strip():
            found = re.match(r"( +)(?:\"([^\"]+)\"|'([^']+)'|([^\s\"'#]+)):\s*$", line)
            indent = indent or (found[1] if found else "")
            if found and found[1] == indent:
                chosen = name in (found[2], found[3], found[4])
        if section != "services" or top or chosen:
            kept.append(line)
    return "\n".join(kept) + "\n"


def use_image(revision: Revision, image: str) -> Revision:
    """The revision with its image by id, because its reference names another image now."""
    if not image:
        return revision
    service = replace(revision.service, image=image)
    old, new = revision.service.labels.get(LABEL_SPEC, ""), service.spec_hash()
    service = replace(service, labels={**service.labels, LABEL_SPEC: new} if old else service.labels)
    text = re.sub(r"(?m)^(\s+image:).*$", lambda line: "{0} {1}".format(line[1], json.dumps(image)), revision.compose, count=1)
    return replace(revision, service=service, compose=text.replace(old, new) if old else text)


def take_over(revision: Revision, wanted: Service) -> Service:
    """The service of a revision, where the inventory has ``wanted`` now: when it runs and what selects it is up to that."""
    now: Dict[str, Any] = {key: wanted.anvil[key] for key in ("residency", "tags", "on_failure") if key in wanted.anvil}
    return replace(revision.service, anvil={**revision.service.anvil, **now})


def decide_on_failure(asked: str, service: Service) -> str:
    """What a failed change of a serve does. asked: the option of the run, which comes first; empty: not given."""
    return asked or str(service.anvil.get("on_failure") or ROLL_BACK)
