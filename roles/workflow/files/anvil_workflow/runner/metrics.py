# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The metrics of this replica, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from anvil_workflow.runner.costs import CallCost

SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The metrics in a registry of their own: two servers in one process do not share numbers."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.submitted = Counter("workflow_jobs_submitted", "Jobs accepted by this replica.", registry=registry)
        self.ended = Counter("workflow_jobs_ended", "Jobs ended by this replica.", ["status"], registry=registry)
        self.refused = Counter("workflow_requests_refused", "Requests refused.", ["reason"], registry=registry)
        self.running = Gauge("workflow_jobs_running", "Jobs that run on this replica.", registry=registry)
        self.waiting = Gauge("workflow_jobs_pending", "Pending jobs in the store, of all replicas.", registry=registry)
        self.seconds = Histogram("workflow_run_seconds", "Duration of a run on this replica.", buckets=SECONDS, registry=registry)
        self.callbacks = Counter("workflow_callbacks", "Attempts to deliver a callback.", ["result"], registry=registry)
        self.tokens = Counter("workflow_tokens", "Tokens that model endpoints reported.", ["kind"], registry=registry)
        self.cost = Counter("workflow_cost", "Cost of model calls, where it is known.", ["model"], registry=registry)
        unknown = "Model calls whose tokens, and so their cost, are not known."
        self.unknown = Counter("workflow_unknown_calls", unknown, ["model"], registry=registry)
        self.spans = Gauge("workflow_trace_spans", "Spans sent to MLflow, dropped, and waiting.", ["result"], registry=registry)
        self.untraced = Gauge("workflow_traces_failing", "1 while traces do not arrive at MLflow.", registry=registry)

    def count_call(self, call: CallCost) -> None:
        """Every call counts where it was made, once: what a resumed run replays is no call."""
        if call.tokens is None:
            self.unknown.labels(call.model).inc()
            return
        self.tokens.labels("prompt").inc(call.tokens.prompt)
        self.tokens.labels("completion").inc(call.tokens.completion)
        if call.cost is not None:
            self.cost.labels(call.model).inc(call.cost)

    def write(self) -> bytes:
        return generate_latest(self._registry)
