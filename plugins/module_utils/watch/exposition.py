# SPDX-License-Identifier: GPL-3.0-or-later
"""The metrics of watch in Prometheus' text format: names and units by its conventions. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.watch import counters
from ansible_collections.anvil.serving.plugins.module_utils.watch.liveness import STATES

GAUGE, COUNTER = "gauge", "counter"
# The figures of an engine: metric, type, help.
ENGINE_METRICS: Mapping[str, Tuple[str, str, str]] = {
    counters.RUNNING: ("anvil_serve_requests_running", GAUGE, "Requests that the engine computes."),
    counters.WAITING: ("anvil_serve_requests_waiting", GAUGE, "Requests that wait in the engine."),
    counters.KV_USE: ("anvil_serve_kv_cache_usage_ratio", GAUGE, "Used part of the KV cache, 0 to 1."),
    counters.PROMPT: ("anvil_serve_prompt_tokens_total", COUNTER, "Prompt tokens since the start of the engine."),
    counters.GENERATED: ("anvil_serve_generation_tokens_total", COUNTER, "Generated tokens since the start of the engine."),
}


@dataclass(frozen=True)
class ServeFigures:
    """One serve. since_token: seconds since the last proof of life. docker_restarts: what the Docker Engine counts."""

    name: str
    engine: str
    state: str
    in_rotation: bool
    since_token: Optional[float]
    ready_seconds: Optional[float]
    probe_seconds: Optional[float]
    restarts: int
    docker_restarts: int
    incidents: int
    given_up: bool
    values: Mapping[str, float]


@dataclass(frozen=True)
class OwnFigures:
    """What watch costs, and whether the Docker Engine answers it. started: seconds since 1970."""

    docker_up: bool
    processor_seconds: float
    resident_bytes: float
    started: float


def format_metrics(serves: Sequence[ServeFigures], own: OwnFigures) -> str:
    """The text of ``/metrics``."""
    text = _Text()
    for one in serves:
        labels = {"serve": one.name, "engine": one.engine}
        for state in STATES:
            text.add("anvil_serve_state", GAUGE, "1 for the state of the serve.", {**labels, "state": state}, one.state == state)
        text.add("anvil_serve_in_rotation", GAUGE, "Whether requests should be sent to the serve.", labels, one.in_rotation)
        text.add("anvil_serve_given_up", GAUGE, "1 where a hung serve is not restarted again.", labels, one.given_up)
        text.add("anvil_serve_restarts_total", COUNTER, "Restarts by watch.", labels, one.restarts)
        text.add("anvil_serve_docker_restarts", GAUGE, "Restarts by the Docker Engine's policy.", labels, one.docker_restarts)
        text.add("anvil_serve_incidents_total", COUNTER, "Incidents that were saved.", labels, one.incidents)
        text.add("anvil_serve_since_token_seconds", GAUGE, "Time since the last proof of life.", labels, one.since_token)
        text.add("anvil_serve_ready_seconds", GAUGE, "From the start of the serve to its first token.", labels, one.ready_seconds)
        text.add("anvil_serve_probe_seconds", GAUGE, "Duration of the last probe.", labels, one.probe_seconds)
        for word, (name, kind, about) in ENGINE_METRICS.items():
            text.add(name, kind, about, labels, one.values.get(word))
    text.add("anvil_watch_docker_up", GAUGE, "Whether the Docker Engine answers watch.", {}, own.docker_up)
    text.add("process_cpu_seconds_total", COUNTER, "Processor time of watch.", {}, own.processor_seconds)
    text.add("process_resident_memory_bytes", GAUGE, "Memory of watch.", {}, own.resident_bytes)
    text.add("process_start_time_seconds", GAUGE, "Start of watch, in seconds since 1970.", {}, own.started)
    return text.join()


class _Text:
    """Samples grouped by their metric, as the format demands."""

    def __init__(self) -> None:
        self._groups: Dict[str, List[str]] = {}

    def add(self, name: str, kind: str, about: str, labels: Mapping[str, str], value: Optional[float]) -> None:
        if value is None:
            return
        group = self._groups.setdefault(name, ["# HELP {0} {1}".format(name, about), "# TYPE {0} {1}".format(name, kind)])
        shown = ",".join('{0}="{1}"'.format(key, escape_label(text)) for key, text in labels.items())
        group.append("{0}{1} {2}".format(name, "{" + shown + "}" if shown else "", repr(float(value))))

    def join(self) -> str:
        return "".join(line + "\n" for group in self._groups.values() for line in group)


def escape_label(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
