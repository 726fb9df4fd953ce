# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests in flight: how each engine counts them, and the wait until a serve has none.

llama.cpp reports for each slot whether it is busy (``/slots``, unless started with ``--no-slots``), or counts requests
(``/metrics`` of a server started with ``--metrics``); vLLM always counts them, SGLang with ``--enable-metrics``. Without such
a report the count is unknown. Clock, sleep and request are passed in.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Callable, Dict, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.serves import readiness

# A slot is free for a moment between two queued requests: a serve is idle only after two counts of 0.
IDLE_COUNTS = 2
COUNT_SECONDS = 0.25
# The serve did not answer in time; the request is repeated. (A serve that cannot report its count is not queried again.)
NO_ANSWER = -1

RequestCounter = Callable[[], Optional[int]]


def count_slots(text: str) -> Optional[int]:
    """Count the busy slots in an answer of llama.cpp's ``/slots``; None where it is not a list of slots."""
    try:
        return sum(bool(slot["is_processing"]) for slot in json.loads(text))
    except (ValueError, KeyError, TypeError):
        return None


def sum_metrics(text: str, names: Tuple[str, ...]) -> Optional[int]:
    """The sum of all samples of these metrics (Prometheus text format); None where the first metric has no sample."""
    sample = re.compile(r"^({0})(?:\{{[^}}]*\}})?\s+([0-9.eE+]+)".format("|".join(map(re.escape, names))), re.MULTILINE)
    found = sample.findall(text)
    if not any(name == names[0] for name, _value in found):
        return None
    return round(sum(float(value) for _name, value in found))


def _metrics(*names: str) -> Callable[[str], Optional[int]]:
    return lambda text: sum_metrics(text, names)


# engine -> the paths that report requests in flight, and how to read each; the first that answers counts.
SOURCES: Mapping[str, Tuple[Tuple[str, Callable[[str], Optional[int]]], ...]] = {
    "llama_cpp": (
        ("/metrics", _metrics("llamacpp:requests_processing", "llamacpp:requests_deferred")),
        ("/slots", count_slots),
    ),
    "vllm": (("/metrics", _metrics("vllm:num_requests_running", "vllm:num_requests_waiting")),),
    "sglang": (("/metrics", _metrics("sglang:num_running_reqs", "sglang:num_queue_reqs")),),
}


def build_counter(
    service: Service,
    probe: Optional[readiness.ReadinessProbe],
    fetch: Callable[[readiness.ReadinessProbe, str], readiness.Answer] = readiness.request_path,
) -> RequestCounter:
    """A function that counts the requests a serve has in flight.

    It returns None where the serve does not report them, and ``NO_ANSWER`` where the serve did not answer in time.
    """

    def count_requests() -> Optional[int]:
        if probe is None:
            return None
        for path, read in SOURCES.get(str(service.anvil.get("engine")), ()):
            answer = fetch(probe, path)
            if answer.status == 0 and "timed out" in answer.text:
                return NO_ANSWER
            count = read(answer.text) if answer.status == 200 else None
            if count is not None:
                return count
        return None

    return count_requests


@dataclass(frozen=True)
class InFlight:
    """The requests a serve had in flight when the wait ended; None: not reported, NO_ANSWER: no answer in time."""

    requests: Optional[int]


def wait_idle(
    counters: Mapping[str, RequestCounter], clock: Callable[[], float], sleep: Callable[[float], None], timeout: float
) -> Dict[str, InFlight]:
    """Count the requests of each serve until it has none, or does not report them, or ``timeout`` seconds have passed."""
    deadline = clock() + timeout
    left: Dict[str, InFlight] = {}
    idle = dict.fromkeys(counters, 0)
    while True:
        last = clock() >= deadline
        for name, count_requests in counters.items():
            if name in left:
                continue
            count = count_requests()
            idle[name] = idle[name] + 1 if count == 0 else 0
            if count is None or idle[name] >= IDLE_COUNTS or last:
                left[name] = InFlight(count)
        if len(left) == len(counters):
            return left
        sleep(COUNT_SECONDS)


def describe_undrained(left: Mapping[str, InFlight], timeout: float) -> List[str]:
    """A note for each serve that was stopped before its last request was seen to end."""
    notes = []
    for name, in_flight in left.items():
        if in_flight.requests is None:
            notes.append("serve {0} was evicted, perhaps with requests in flight: its engine does not report them".format(name))
        elif in_flight.requests == NO_ANSWER:
            notes.append(
                "serve {0} was evicted, perhaps with requests in flight: it did not answer within {1:g} s (drain_timeout)".format(
                    name, timeout
                )
            )
        elif in_flight.requests:
            notes.append(
                "serve {0} was evicted with {1} requests in flight: they did not end within {2:g} s (drain_timeout)".format(
                    name, in_flight.requests, timeout
                )
            )
    return notes
