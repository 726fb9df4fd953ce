# SPDX-License-Identifier: GPL-3.0-or-later
"""Where each live file came from: rendered from the inventory, or promoted by an operator; and which of two files stays. Pure."""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Callable, Dict, Mapping, Sequence, Tuple

# A file that the inventory renders belongs to the inventory; one that was promoted from a file belongs to the volume.
RENDERED, PROMOTED = "rendered", "promoted"


@dataclass(frozen=True)
class FileSource:
    """kind: ``rendered`` or ``promoted``. at: since when (seconds since the epoch; 0: not recorded). by: whom."""

    kind: str
    at: float = 0.0
    by: str = ""

    def as_text(self) -> str:
        """``promoted 2026-07-04 10:00 UTC by jo``."""
        if not self.at:
            return "of unknown origin" if self.kind == PROMOTED else self.kind
        when = datetime.datetime.fromtimestamp(self.at, datetime.timezone.utc)
        return "{0} {1:%Y-%m-%d %H:%M} UTC{2}".format(self.kind, when, " by " + self.by if self.by else "")


@dataclass(frozen=True)
class KeptFile:
    """A live file that stays although the inventory renders another one. wanted: what the inventory renders.

    reason: where the live file came from, or, with was_rolled_back, since when the inventory's stays out.
    """

    name: str
    reason: str
    live: bytes
    wanted: bytes
    was_rolled_back: bool = False


@dataclass(frozen=True)
class Choice:
    """The files of a candidate.

    given: the names whose content the request brought; the others stay. sources: name -> where it came from, without those
    of which nothing is recorded. renewed: the names whose source is this promotion. has_new_owner: a file whose bytes may be
    live already changes hands between the inventory and the volume.
    """

    files: Dict[str, bytes]
    given: Tuple[str, ...] = ()
    sources: Mapping[str, FileSource] = field(default_factory=dict)
    renewed: Tuple[str, ...] = ()
    kept: Tuple[KeptFile, ...] = ()
    has_new_owner: bool = False

    @property
    def origin(self) -> str:
        """``promoted`` if any of the files was."""
        kinds = {source.kind for source in self.sources.values()}
        return PROMOTED if PROMOTED in kinds or not kinds else RENDERED

    def sources_as_meta(self, now: float, by: str) -> Dict[str, Any]:
        """The sources for a revision's meta.json. now, by: of this promotion."""
        return {
            name: asdict(replace(source, at=now, by=by) if name in self.renewed else source)
            for name, source in sorted(self.sources.items())
            if name in self.files
        }


def describe_new_owner(choice: Choice) -> str:
    """``profile.json belongs to the inventory from now on``."""
    kinds = {RENDERED: "the inventory", PROMOTED: "the volume"}
    names = [name for name in choice.renewed if name in choice.files]
    owners = {kinds[choice.sources[name].kind] for name in names}
    return "{0} belong{1} to {2} from now on".format(
        " and ".join(names), "" if len(names) > 1 else "s", " and ".join(sorted(owners))
    )


def parse_sources(meta: Mapping[str, Any]) -> Dict[str, FileSource]:
    """The sources in a revision's meta.json; a file without a readable one is missing."""
    found = {}
    sources = meta.get("sources")
    for name, each in sources.items() if isinstance(sources, dict) else ():
        if isinstance(each, dict) and each.get("kind") in (RENDERED, PROMOTED):
            at = each.get("at")
            found[str(name)] = FileSource(
                str(each["kind"]), float(at) if isinstance(at, (int, float)) else 0.0, str(each.get("by") or "")
            )
    return found


def choose_given(base: Mapping[str, bytes], recorded: Mapping[str, FileSource], given: Mapping[str, bytes]) -> Choice:
    """The candidate of an operator who names files: they replace the live ones, and belong to the volume from then on."""
    renewed = [
        name
        for name, content in given.items()
        if base.get(name) != content or name not in recorded or recorded[name].kind != PROMOTED
    ]
    return Choice(
        files={**base, **given},
        given=tuple(given),
        sources={**recorded, **{name: FileSource(PROMOTED) for name in renewed}},
        renewed=tuple(renewed),
        has_new_owner=any(name not in recorded or recorded[name].kind != PROMOTED for name in given),
    )


def choose_rendered(
    base: Mapping[str, bytes],
    recorded: Mapping[str, FileSource],
    given: Mapping[str, bytes],
    overruled: Sequence[str],
    is_rendered: Callable[[str, bytes], bool],
) -> Choice:
    """The candidate of an inventory: a live file that was promoted stays, unless the inventory overrules it.

    is_rendered: whether a live file of which no source is recorded (a volume of an earlier release, or changed by hand) was
    rendered. Where nothing tells, it stays: a measured profile is worth hours.
    """
    sources = dict(recorded)
    for name, content in base.items():
        if name not in sources and content != given.get(name):
            sources[name] = FileSource(RENDERED if is_rendered(name, content) else PROMOTED)
    files, taken, renewed, kept = dict(base), [], [], []
    has_new_owner = False
    for name, content in given.items():
        source, is_live = sources.get(name), base.get(name) == content
        if source is not None and source.kind == PROMOTED and name not in overruled:
            if not is_live:
                kept.append(KeptFile(name, source.as_text(), base[name], content))
            continue
        taken.append(name)
        files[name] = content
        if source is None or source.kind != RENDERED or not is_live:
            renewed.append(name)
        has_new_owner = has_new_owner or (name in recorded and recorded[name].kind != RENDERED)
    sources.update({name: FileSource(RENDERED) for name in renewed})
    return Choice(files, tuple(taken), sources, tuple(renewed), tuple(kept), has_new_owner)
