# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a container that reads promoted files: restarts, a failing health check, an end by itself. Pure."""

from __future__ import annotations

from typing import List

from ansible_collections.anvil.serving.plugins.module_utils.promotion.crash_loops import describe_restarts
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import ContainerState


def describe_troubles(replica: str, state: ContainerState, since: float, now: float) -> List[str]:
    """A line for each trouble; none for a container that is well. since: when its live files were first started; 0: not known."""
    found = [describe_restarts(replica, state, since, now)]
    if state.is_unhealthy:
        said = state.complaint or "Docker reports it as unhealthy"
        found.append("{0} runs, but the health check of its image fails: {1}".format(replica, said))
    if state.ended_alone:
        ended = "{0} ended by itself (exit code {1}), and nothing starts it again: playbooks/router_up.yml does for a router"
        found.append(ended.format(replica, state.exit_code))
    if state.oom_killed and state.exists:
        found.append("{0} reached its memory limit: the kernel ended one of its processes".format(replica))
    return [text for text in found if text]
