# SPDX-License-Identifier: GPL-3.0-or-later
"""Which rows of the live profile are stale: their tier has another image, other arguments, cards or another driver by now."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.measure.live_files import read_live
from ansible_collections.anvil.serving.plugins.module_utils.measure.measured_serve import describe_serves, list_differences
from ansible_collections.anvil.serving.plugins.module_utils.measure.profile_difference import parse_profile, read_measured
from ansible_collections.anvil.serving.plugins.module_utils.router.candidate_checks import PROFILE_FILE


def list_stale(
    docker: DockerEngine, router: Mapping[str, Any], container: str, serves: Sequence[Mapping[str, Any]]
) -> Dict[str, List[str]]:
    """Tier -> what differs from what was measured. router, serves: of the plan. A profile that does not say is never stale."""
    try:
        _image, files = read_live(docker, container, str(router["image"]), str(router["volume"]))
    except AnvilError:  # no container and no image: nothing is live here
        return {}
    measured = read_measured(parse_profile(files.get(PROFILE_FILE, "")))
    if not measured:
        return {}
    containers = {str(serve["name"]): str(serve["container"]) for serve in serves}
    behind = {str(tier["id"]): containers.get(str(tier["serve"]), "") for tier in router["tiers"]}
    now = describe_serves(docker, {tier: name for tier, name in behind.items() if name and tier in measured})
    found = {tier: list_differences(measured[tier], one) for tier, one in now.items()}
    return {tier: names for tier, names in found.items() if names}


def describe_stale(stale: Mapping[str, Sequence[str]]) -> List[str]:
    text = "tier {0}: its rows of the live profile are stale: {1} changed since; playbooks/measure.yml measures it again"
    return [text.format(tier, ", ".join(names)) for tier, names in sorted(stale.items())]
