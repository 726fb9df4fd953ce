# SPDX-License-Identifier: GPL-3.0-or-later
"""Sends probes to a router and repeats each until its reply is the expected one or the time is over."""

from __future__ import annotations

import time
from typing import Callable, Dict, List, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.core.http_request import Reply, send_request
from ansible_collections.anvil.serving.plugins.module_utils.router.probes import Probe, judge_reply

# How long a wrong reply is tried again (seconds): a tier may still be connecting.
PATIENCE = 3.0


def send_probe(endpoint: Tuple[str, int], probe: Probe, token: str) -> Reply:
    """Send one probe to an address. token: the router's own."""
    headers = probe.request_headers(token)
    return send_request(
        endpoint,
        probe.method,
        probe.path,
        probe.timeout,
        headers=headers,
        content=None if probe.body is None else probe.body.encode("utf-8"),
    )


def run_probes(
    probes: Sequence[Probe], send: Callable[[Probe], Reply], patience: float = PATIENCE
) -> Tuple[List[Problem], List[str]]:
    """Send each probe until its reply is the expected one or ``patience`` seconds are over; returns problems and warnings.

    send: sends one probe, from this host or from inside a container.
    """
    problems: List[Problem] = []
    doubts: Dict[int, List[str]] = {}
    deadline = time.monotonic() + patience
    for probe in probes:
        while True:
            reply = send(probe)
            wrong = judge_reply(probe, reply)
            if not wrong or reply.status in probe.doubtful or time.monotonic() >= deadline:
                break
            time.sleep(0.1)
        if wrong and reply.status in probe.doubtful:
            doubts.setdefault(reply.status, []).append("{0}: {1}".format(probe.name, wrong))
        elif wrong:
            problems.append(Problem("a probe did not get the expected answer", where=probe.name, why=wrong))
    return problems, [_join_doubts(found) for found in doubts.values()]


def _join_doubts(found: Sequence[str]) -> str:
    """One warning for all requests with the same status: a tier that is down fails every preset that leads to it."""
    more = [text.partition(":")[0] for text in found[1:]]
    return found[0] + ("; so do {0}".format(", ".join(more)) if more else "")
