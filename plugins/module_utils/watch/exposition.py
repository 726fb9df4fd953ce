# SPDX-License-Identifier: GPL-3.0-or-later
"""The metrics of watch in Prometheus' text format: names and units by its conventions. Pure.

``docs/watch.md`` lists every metric; a test holds it to ``METRICS``. No label has a value that a client or a request chooses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_health import STATES as CARD_STATES
from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_health import CardHealth
from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_snapshot import THROTTLES
from ansible_collections.anvil.serving.plugins.module_utils.watch import counters
from ansible_collections.anvil.serving.plugins.module_utils.watch.counters import Histogram
from ansible_collections.anvil.serving.plugins.module_utils.watch.host_look import HostFigures
from ansible_collections.anvil.serving.plugins.module_utils.watch.host_survey import Survey
from ansible_collections.anvil.serving.plugins.module_utils.watch.liveness import STATES

GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"
# Metric -> its type and help.
METRICS: Mapping[str, Tuple[str, str]] = {
    "anvil_serve_info": (GAUGE, "1; its labels describe the serve."),
    "anvil_serve_state": (GAUGE, "1 for the state of the serve."),
    "anvil_serve_in_rotation": (GAUGE, "Whether requests should be sent to the serve."),
    "anvil_serve_given_up": (GAUGE, "1 where a hung serve is not restarted again."),
    "anvil_serve_restarts_total": (COUNTER, "Restarts by watch."),
    "anvil_serve_docker_restarts": (GAUGE, "Restarts by the Docker Engine's policy."),
    "anvil_serve_incidents_total": (COUNTER, "Incidents that were saved."),
    "anvil_serve_since_token_seconds": (GAUGE, "Time since the last proof of life."),
    "anvil_serve_ready_seconds": (GAUGE, "From the start of the serve to its first token."),
    "anvil_serve_probe_seconds": (GAUGE, "Duration of the last probe."),
    "anvil_serve_requests_running": (GAUGE, "Requests that the engine computes."),
    "anvil_serve_requests_waiting": (GAUGE, "Requests that wait in the engine."),
    "anvil_serve_requests_total": (COUNTER, "Finished requests since the start of the engine."),
    "anvil_serve_preemptions_total": (
        COUNTER,
        "Requests taken back for lack of KV cache, since the start of the engine.",
    ),
    "anvil_serve_kv_cache_usage_ratio": (GAUGE, "Used part of the KV cache, 0 to 1."),
    "anvil_serve_kv_cache_tokens": (GAUGE, "Tokens that the KV cache can hold."),
    "anvil_serve_prompt_tokens_total": (COUNTER, "Prompt tokens since the start of the engine."),
    "anvil_serve_generation_tokens_total": (COUNTER, "Generated tokens since the start of the engine."),
    "anvil_serve_prompt_seconds_total": (COUNTER, "Time spent on prompts since the start of the engine."),
    "anvil_serve_generation_seconds_total": (COUNTER, "Time spent on generation since the start of the engine."),
    "anvil_serve_request_duration_seconds": (HISTOGRAM, "Duration of a request in the engine."),
    "anvil_serve_time_to_first_token_seconds": (HISTOGRAM, "From the arrival of a request to its first token."),
    "anvil_serve_drift": (GAUGE, "1 where the container differs from the definition that was last brought to the host."),
    "anvil_gpu_claimed_bytes": (GAUGE, "Memory that containers on the card claim."),
    "anvil_gpu_budget_bytes": (GAUGE, "Memory of the card that serves may claim."),
    "anvil_router_revision_info": (GAUGE, "1; its label revision is the live revision of a router or edge."),
    "anvil_router_promotion_timestamp_seconds": (GAUGE, "When the live revision was promoted, in seconds since 1970."),
    "anvil_edge_certificate_expiry_timestamp_seconds": (GAUGE, "End of a certificate of the edge, in seconds since 1970."),
    "anvil_watch_survey_timestamp_seconds": (GAUGE, "Last survey of drift, claims, revisions and certificates, since 1970."),
    "anvil_watch_survey_failures": (GAUGE, "What the last survey could not read."),
    "anvil_watch_serves": (GAUGE, "Serves that are watched."),
    "anvil_gpu_info": (GAUGE, "1; its labels describe the card."),
    "anvil_gpu_health_state": (GAUGE, "1 for the state of the card."),
    "anvil_gpu_memory_bytes": (GAUGE, "Memory of the card."),
    "anvil_gpu_memory_used_bytes": (GAUGE, "Used memory of the card."),
    "anvil_gpu_utilization_ratio": (GAUGE, "Part of the time in which the card computes, 0 to 1."),
    "anvil_gpu_temperature_celsius": (GAUGE, "Temperature of the card."),
    "anvil_gpu_power_watts": (GAUGE, "Power that the card draws."),
    "anvil_gpu_power_limit_watts": (GAUGE, "Power that the card may draw."),
    "anvil_gpu_throttled": (GAUGE, "1 for a reason that lowers the clocks of the card."),
    "anvil_gpu_uncorrected_errors": (GAUGE, "Uncorrected memory errors since the driver was loaded."),
    "anvil_gpu_read_up": (GAUGE, "Whether the NVIDIA driver answered watch."),
    "anvil_gpu_read_timestamp_seconds": (GAUGE, "Last reading of the cards, in seconds since 1970."),
    "anvil_disk_free_bytes": (GAUGE, "Free space of the file system of the folder."),
    "anvil_disk_size_bytes": (GAUGE, "Size of the file system of the folder."),
    "anvil_watch_docker_up": (GAUGE, "Whether the Docker Engine answers watch."),
    "process_cpu_seconds_total": (COUNTER, "Processor time of watch."),
    "process_resident_memory_bytes": (GAUGE, "Memory of watch."),
    "process_start_time_seconds": (GAUGE, "Start of watch, in seconds since 1970."),
}
# Figures of an engine, by the words of ``counters``.
ENGINE_METRICS: Mapping[str, str] = {
    counters.RUNNING: "anvil_serve_requests_running",
    counters.WAITING: "anvil_serve_requests_waiting",
    counters.FINISHED: "anvil_serve_requests_total",
    counters.PREEMPTED: "anvil_serve_preemptions_total",
    counters.KV_USE: "anvil_serve_kv_cache_usage_ratio",
    counters.KV_TOKENS: "anvil_serve_kv_cache_tokens",
    counters.PROMPT: "anvil_serve_prompt_tokens_total",
    counters.GENERATED: "anvil_serve_generation_tokens_total",
    counters.PROMPT_SECONDS: "anvil_serve_prompt_seconds_total",
    counters.GENERATION_SECONDS: "anvil_serve_generation_seconds_total",
}
ENGINE_HISTOGRAMS: Mapping[str, str] = {
    counters.DURATION: "anvil_serve_request_duration_seconds",
    counters.FIRST_TOKEN: "anvil_serve_time_to_first_token_seconds",
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
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    served_name: str = ""
    kind: str = ""


@dataclass(frozen=True)
class OwnFigures:
    """What watch costs, and whether the Docker Engine answers it. started: seconds since 1970."""

    docker_up: bool
    processor_seconds: float
    resident_bytes: float
    started: float


def format_metrics(serves: Sequence[ServeFigures], own: OwnFigures, survey: Survey, host: HostFigures) -> str:
    """The text of ``/metrics``."""
    text = Exposition()
    for one in serves:
        _add_serve(text, one)
        text.add("anvil_serve_drift", {"serve": one.name, "engine": one.engine}, survey.drift.get(one.name))
    _add_survey(text, survey)
    text.add("anvil_watch_serves", {}, len(serves))
    for card in host.cards:
        _add_card(text, card)
    if host.cards_up is not None:
        text.add("anvil_gpu_read_up", {}, host.cards_up)
        text.add("anvil_gpu_read_timestamp_seconds", {}, host.read)
    for disk in host.disks:
        where = {"place": disk.place, "folder": disk.folder}
        text.add("anvil_disk_free_bytes", where, disk.free)
        text.add("anvil_disk_size_bytes", where, disk.size)
    text.add("anvil_watch_docker_up", {}, own.docker_up)
    text.add("process_cpu_seconds_total", {}, own.processor_seconds)
    text.add("process_resident_memory_bytes", {}, own.resident_bytes)
    text.add("process_start_time_seconds", {}, own.started)
    return text.join()


def _add_serve(text: Exposition, one: ServeFigures) -> None:
    labels = {"serve": one.name, "engine": one.engine}
    text.add("anvil_serve_info", {**labels, "served_name": one.served_name, "kind": one.kind}, 1)
    for state in STATES:
        text.add("anvil_serve_state", {**labels, "state": state}, one.state == state)
    text.add("anvil_serve_in_rotation", labels, one.in_rotation)
    text.add("anvil_serve_given_up", labels, one.given_up)
    text.add("anvil_serve_restarts_total", labels, one.restarts)
    text.add("anvil_serve_docker_restarts", labels, one.docker_restarts)
    text.add("anvil_serve_incidents_total", labels, one.incidents)
    text.add("anvil_serve_since_token_seconds", labels, one.since_token)
    text.add("anvil_serve_ready_seconds", labels, one.ready_seconds)
    text.add("anvil_serve_probe_seconds", labels, one.probe_seconds)
    for word, name in ENGINE_METRICS.items():
        text.add(name, labels, one.values.get(word))
    for word, name in ENGINE_HISTOGRAMS.items():
        text.add_histogram(name, labels, one.histograms.get(word))


def _add_survey(text: Exposition, survey: Survey) -> None:
    for uuid, claimed in survey.claimed.items():
        text.add("anvil_gpu_claimed_bytes", {"uuid": uuid}, claimed)
    for uuid, budget in survey.budget.items():
        text.add("anvil_gpu_budget_bytes", {"uuid": uuid}, budget)
    for live in survey.revisions:
        text.add("anvil_router_revision_info", {"container": live.container, "revision": live.revision}, 1)
        text.add("anvil_router_promotion_timestamp_seconds", {"container": live.container}, live.promoted)
    for path, end in survey.certificates.items():
        text.add("anvil_edge_certificate_expiry_timestamp_seconds", {"file": path}, end)
    if survey.finished:
        text.add("anvil_watch_survey_timestamp_seconds", {}, survey.finished)
        text.add("anvil_watch_survey_failures", {}, len(survey.failures))


def _add_card(text: Exposition, health: CardHealth) -> None:
    card = health.card
    labels = {"gpu": "" if card.index is None else str(card.index), "uuid": card.uuid or card.bus}
    text.add("anvil_gpu_info", {**labels, "name": card.name or "", "driver": card.driver or ""}, 1)
    for state in CARD_STATES:
        text.add("anvil_gpu_health_state", {**labels, "state": state}, health.state == state)
    text.add("anvil_gpu_memory_bytes", labels, card.memory_total)
    text.add("anvil_gpu_memory_used_bytes", labels, card.memory_used)
    text.add("anvil_gpu_utilization_ratio", labels, card.utilisation)
    text.add("anvil_gpu_temperature_celsius", labels, card.temperature)
    text.add("anvil_gpu_power_watts", labels, card.power)
    text.add("anvil_gpu_power_limit_watts", labels, card.power_limit)
    text.add("anvil_gpu_uncorrected_errors", labels, card.uncorrected)
    for reason in THROTTLES:
        text.add("anvil_gpu_throttled", {**labels, "reason": reason}, reason in card.throttles)


class Exposition:
    """Samples grouped by their metric, as the format demands."""

    def __init__(self) -> None:
        self._groups: Dict[str, List[str]] = {}

    def add(self, name: str, labels: Mapping[str, str], value: Optional[float], end: str = "") -> None:
        """One sample; none for a value that is not known. end: of the sample's name, for a histogram."""
        if value is None:
            return
        kind, about = METRICS[name]
        group = self._groups.setdefault(name, ["# HELP {0} {1}".format(name, about), "# TYPE {0} {1}".format(name, kind)])
        shown = ",".join('{0}="{1}"'.format(key, escape_label(text)) for key, text in labels.items())
        group.append("{0}{1}{2} {3}".format(name, end, "{" + shown + "}" if shown else "", repr(float(value))))

    def add_histogram(self, name: str, labels: Mapping[str, str], found: Optional[Histogram]) -> None:
        if found is None:
            return
        for bound, count in sorted(found.buckets.items(), key=lambda one: float(one[0])):
            self.add(name, {**labels, "le": bound}, count, "_bucket")
        self.add(name, labels, found.total, "_sum")
        self.add(name, labels, found.count, "_count")

    def join(self) -> str:
        return "".join(line + "\n" for group in self._groups.values() for line in group)


def escape_label(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
