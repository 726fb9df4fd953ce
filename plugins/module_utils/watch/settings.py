# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of watch as the collection writes them beside the projects: its serves, limits and folders. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Dict, Mapping, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.watch.liveness import Limits

FORMAT = 1


@dataclass(frozen=True)
class WatchedServe:
    """A serve that is watched. key_variable: the variable of its container that holds its API key. sleeps: it unloads itself when
    idle, so that no probe may wake it. kind: of its answers; empty: only whether it answers can be seen.
    idle: after so many seconds without a request it is stopped; 0: never."""

    name: str
    container: str
    engine: str
    host: str
    port: int
    served_name: str = ""
    kind: str = "chat"
    tls: bool = False
    prefix: str = ""
    health_path: str = ""
    key_variable: str = ""
    sleeps: bool = False
    load_seconds: float = 1800.0
    idle: int = 0


@dataclass(frozen=True)
class Pointer:
    """A container of the router or the edge, and where it mounts its volume with the revisions."""

    container: str
    mount: str


@dataclass(frozen=True)
class WatchSettings:
    """project: the compose project; directory: its folder, with its lock. data: the folder of state and incidents.

    services: serve -> its definition in canonical form, without secrets. budgets: uuid of a card -> MiB that serves may claim.
    certificates: files of the edge. weights: folders of the host that serves mount. socket: where the edge asks for the
    metrics; empty: nowhere.
    """

    project: str
    directory: str
    data: str
    docker_host: str
    port: int
    restarts_per_hour: int = 3
    serves: Tuple[WatchedServe, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    services: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    budgets: Mapping[str, int] = field(default_factory=dict)
    pointers: Tuple[Pointer, ...] = ()
    certificates: Tuple[str, ...] = ()
    weights: Tuple[str, ...] = ()
    socket: str = ""

    @property
    def survey_seconds(self) -> float:
        """Seconds between two surveys of the host."""
        return float(self.limits.get("survey", Limits.survey))

    @property
    def host_tick(self) -> float:
        """Seconds between two looks at cards, disks and experiments."""
        return float(self.limits.get("host_tick", Limits.host_tick))

    def build_limits(self, serve: WatchedServe) -> Limits:
        known = {one.name for one in fields(Limits)}
        chosen: Dict[str, Any] = {name: value for name, value in self.limits.items() if name in known}
        return Limits(**{"load": serve.load_seconds, **chosen})


def format_settings(settings: WatchSettings) -> str:
    return json.dumps({"format": FORMAT, **asdict(settings)}, indent=1, sort_keys=True) + "\n"


def parse_settings(text: str, where: str) -> WatchSettings:
    """Raises AnvilError for text that is not ours."""
    try:
        raw = json.loads(text)
        if raw.pop("format") != FORMAT:
            raise ValueError("another format")
        serves = tuple(WatchedServe(**one) for one in raw.pop("serves"))
        pointers = tuple(Pointer(**one) for one in raw.pop("pointers", ()))
        certificates = tuple(str(path) for path in raw.pop("certificates", ()))
        weights = tuple(str(folder) for folder in raw.pop("weights", ()))
        return WatchSettings(serves=serves, pointers=pointers, certificates=certificates, weights=weights, **raw)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise fail("the settings of watch cannot be read", where, str(exc), "run site.yml again: it writes them") from exc
