# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision for one serve, with its reasons: create, recreate, start, unpause, stop, remove or leave its container. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.serves.drift import Change
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import ObservedContainer

# The actions.
NONE, CREATE, RECREATE, START, UNPAUSE, STOP, REMOVE, RESTART, ADOPT, EVICT = (
    "none",
    "create",
    "recreate",
    "start",
    "unpause",
    "stop",
    "remove",
    "restart",
    "adopt",
    "evict",
)


# Reasons that come from the operator or the inventory and not from the container.
REQUESTED, RESTS_ON_DEMAND, RESTS_EVICTED, RESTS_OFF = "requested", "on_demand", "evicted", "off"

# The exit code of a process that SIGKILL ended. If a container is restarted with it again and again, and not out of memory,
# then most likely the Docker Engine died between a start of it and its record of that start, and now kills every later start.
KILLED = 137


@dataclass(frozen=True)
class Decision:
    """What to do with one serve. action: one of the actions above. reasons: words of the vocabulary of anvil_serve."""

    action: str
    reasons: Tuple[str, ...]
    changes: Tuple[Change, ...] = ()


def decide_up(
    changes: Optional[List[Change]],
    seen: Optional[ObservedContainer],
    project: str,
    own_healthcheck: bool = False,
    waits_for_others: bool = False,
) -> Decision:
    """Decide what brings a serve up. changes: its drift; None where there is no container. project: the name of its project.

    own_healthcheck: the service defines a health check. The verdict of an image's own one never counts: it asks the port that
    the image listens on by default. waits_for_others: it exits again and again, most likely for want of its part on another
    host; when that part starts, a new container starts with it at once.
    """
    if seen is None or changes is None:
        return Decision(CREATE, ("missing",))
    reasons = [change.reason for change in changes]
    if seen.project != project:
        reasons.append("foreign_project")
    if seen.state in ("dead", "removing"):
        reasons.append(seen.state)
    if own_healthcheck and seen.health == "unhealthy" and seen.state == "running":
        reasons.append("unhealthy")
    if seen.state == "restarting" and seen.exit_code == KILLED and not seen.oom_killed:
        reasons.append("killed")
    if waits_for_others:
        reasons.append("restart_loop")
    if reasons:
        return Decision(RECREATE, tuple(sorted(set(reasons))), tuple(changes))
    if seen.state == "paused":
        return Decision(UNPAUSE, ("paused",))
    if seen.state in ("exited", "created"):
        return Decision(START, ("stopped",))
    return Decision(NONE, ())


def decide_down(seen: Optional[ObservedContainer], keep_container: bool) -> Decision:
    """Decide what takes a serve down: its container is removed, or only stopped."""
    if seen is None:
        return Decision(NONE, ())
    if not keep_container:
        return Decision(REMOVE, ("present",))
    if seen.state in ("exited", "created", "dead"):
        return Decision(NONE, ())
    return Decision(STOP, (seen.state,))
