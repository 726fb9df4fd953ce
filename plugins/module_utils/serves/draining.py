# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Does a server still answer somebody? What each engine tells of its requests in flight, and the wait until there are none.

llama.cpp tells of each of its slots whether it is busy (``/slots``, unless started with ``--no-slots``), or counts them
(``/metrics`` of a server started with ``--metrics``); vLLM counts them always, SGLang with ``--enable-metrics``. An engine
that does not tell is unknown, and unknown stays unknown. Clock, sleep and request are passed in.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Callable, Dict, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.service import Service
from ansible_collections.anvil.serving.plugins.module_utils.serves import readiness

# A slot is free for a moment between two requests that queue for it: only a second look that finds nothing counts.
LOOKS = 2
LOOK_SECONDS = 0.25
# Too busy to answer in time: it will be asked again, which one that does not tell will not.
NO_ANSWER = -1

Question = Callable[[], Optional[int]]


def count_slots(text: str) -> Optional[int]:
    """The busy ones among llama.cpp's slots; None where this is no list of slots."""
    try:
        return sum(bool(slot["is_processing"]) for slot in json.loads(text))
    except (ValueError, KeyError, TypeError):
        return None


def sum_metrics(text: str, names: Tuple[str, ...]) -> Optional[int]:
    """The sum of all samples of these metrics (Prometheus text format); None where there is none of the first."""
    sample = re.compile(r"^({0})(?:\{{[^}}]*\}})?\s+([0-9.eE+]+)".format("|".join(map(re.escape, names))), re.MULTILINE)
    found = sample.findall(text)
    if not any(name == names[0] for name, _value in found):
        return None
    return round(sum(float(value) for _name, value in found))


def _metrics(*names: str) -> Callable[[str], Optional[int]]:
    return lambda text: sum_metrics(text, names)


# engine -> where to ask, and how to read the answer; the first that answers counts.
TELLS: Mapping[str, Tuple[Tuple[str, Callable[[str], Optional[int]]], ...]] = {
    "llama_cpp": (
        ("/metrics", _metrics("llamacpp:requests_processing", "llamacpp:requests_deferred")),
        ("/slots", count_slots),
    ),
    "vllm": (("/metrics", _metrics("vllm:num_requests_running", "vllm:num_requests_waiting")),),
    "sglang": (("/metrics", _metrics("sglang:num_running_reqs", "sglang:num_queue_reqs")),),
}


def question_for(
    service: Service,
    subject: Optional[readiness.Subject],
    fetch: Callable[[readiness.Subject, str], readiness.Answer] = readiness.fetch,
) -> Question:
    """How many requests a serve has in flight, as a question that can be asked again.

    The answer None is that it does not tell, ``NO_ANSWER`` that it took too long to.
    """

    def ask() -> Optional[int]:
        if subject is None:
            return None
        for path, read in TELLS.get(str(service.anvil.get("engine")), ()):
            answer = fetch(subject, path)
            if answer.status == 0 and "timed out" in answer.text:
                return NO_ANSWER
            count = read(answer.text) if answer.status == 200 else None
            if count is not None:
                return count
        return None

    return ask


@dataclass(frozen=True)
class Left:
    """What a serve still had in flight when the wait ended; None: it does not tell, NO_ANSWER: it did not answer."""

    requests: Optional[int]


def wait_idle(
    asked: Mapping[str, Question], clock: Callable[[], float], sleep: Callable[[float], None], timeout: float
) -> Dict[str, Left]:
    """Ask each serve until it has nothing in flight, or does not tell, or ``timeout`` seconds have passed."""
    deadline = clock() + timeout
    left: Dict[str, Left] = {}
    quiet = dict.fromkeys(asked, 0)
    while True:
        last = clock() >= deadline
        for name, ask in asked.items():
            if name in left:
                continue
            count = ask()
            quiet[name] = quiet[name] + 1 if count == 0 else 0
            if count is None or quiet[name] >= LOOKS or last:
                left[name] = Left(count)
        if len(left) == len(asked):
            return left
        sleep(LOOK_SECONDS)


def tell(drained: Mapping[str, Left], timeout: float) -> List[str]:
    """What an operator should know of serves that were stopped before their last request was seen to end."""
    notes = []
    for name, left in drained.items():
        if left.requests is None:
            notes.append("serve {0} was evicted without knowing what it had in flight: its engine does not tell".format(name))
        elif left.requests == NO_ANSWER:
            notes.append("serve {0} was evicted without an answer of it within {1:g} s (drain_timeout)".format(name, timeout))
        elif left.requests:
            notes.append(
                "serve {0} was evicted with {1} requests in flight: they did not end within {2:g} s (drain_timeout)".format(
                    name, left.requests, timeout
                )
            )
    return notes
