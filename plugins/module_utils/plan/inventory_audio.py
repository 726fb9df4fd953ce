# SPDX-License-Identifier: GPL-3.0-or-later
"""Place the tiers for audio in a gateway router: their addresses, the audio that they send, and the default of each purpose.

anvil-serving 2.0.2 has ``[[router.audio_routes]]`` for two purposes. It reaches such a server only at the host itself
(``host.docker.internal``) or at a private address, never by the name of a container.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.served_kinds import SPEECH, TRANSCRIPTION
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import HOST_GATEWAY
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import ExternalPlan, ServePlan, TierPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_tiers import TierBackend, format_base_url
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import Section

# Kind of a serve -> its purpose in the router.
AUDIO_PURPOSES = {TRANSCRIPTION: "stt", SPEECH: "tts"}
PRIVATE = tuple(ipaddress.ip_network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"))


def place_audio_tiers(section: Section, tiers: Sequence[TierPlan], serves: Mapping[str, TierBackend]) -> Tuple[TierPlan, ...]:
    """The tiers for audio that the router can have, with their addresses; any other is left out, with a note.

    Of several tiers for one purpose, the one with ``default: true`` is the default, else the first.
    """
    placed: List[TierPlan] = []
    for tier in tiers:
        serve = serves.get(tier.serve)
        if serve is None and not tier.backends:
            continue  # told already
        # A tier over hosts is at the edge of this host, which has a private address.
        host = _find_address(serve) if serve else tier.id
        if serve and not host:
            how = (
                "set host to that address"
                if isinstance(serve, ExternalPlan)
                else "publish it there with an api_key and insecure: true, such as publish: 172.17.0.1 (the bridge of Docker)"
            )
            _leave_out(section, tier, "the router reaches a server for audio only at a private IP address: " + how)
        elif tier.kind == SPEECH and not tier.sample_rate:
            _leave_out(section, tier, "set sample_rate of the tier to that of the raw audio that the serve sends, such as 24000")
        else:
            placed.append(replace(tier, base_url=_format_address(serve, host)) if serve else tier)
    return _choose_defaults(section, placed)


def _leave_out(section: Section, tier: TierPlan, why: str) -> None:
    section.add_note("tiers", "tier {0} is left out: serve {1} is for {2}; {3}".format(tier.id, tier.answered_by, tier.kind, why))


def _format_address(serve: TierBackend, host: str) -> str:
    """The base URL of a server for audio; a serve is reached through the edge, in plain HTTP."""
    if isinstance(serve, ServePlan) and serve.published:
        return format_base_url(replace(serve, tls=False), host, serve.published.port)
    return format_base_url(serve, host, serve.port)


def _find_address(serve: TierBackend) -> str:
    """Where the router reaches a server for audio; empty: nowhere that it accepts."""
    if isinstance(serve, ExternalPlan):
        host = serve.container
    elif serve.published is None or not serve.published.insecure:
        return ""
    else:
        host = serve.published.bind
    if host == HOST_GATEWAY or (isinstance(serve, ServePlan) and host in ("0.0.0.0", "[::]")):
        return HOST_GATEWAY
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    return host if any(address in network for network in PRIVATE) else ""


def _choose_defaults(section: Section, tiers: Sequence[TierPlan]) -> Tuple[TierPlan, ...]:
    chosen: Dict[str, Optional[str]] = {}
    for kind in AUDIO_PURPOSES:
        mine = [tier for tier in tiers if tier.kind == kind]
        marked = [tier.id for tier in mine if tier.default]
        if len(marked) > 1:
            section.add_problem(
                "tiers",
                "tiers {0} are all the default for {1}".format(" and ".join(marked), kind),
                "keep default: true in one of them",
            )
        chosen[kind] = next(iter(marked or [tier.id for tier in mine]), None)
    return tuple(replace(tier, default=tier.id == chosen[tier.kind]) for tier in tiers)
