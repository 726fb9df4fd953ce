# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking a tier of a router out of service and back, through the router's transition API (anvil-serving 0.13.2, 2.0.2).

A router keeps this in memory: with several replicas each is told, and a restarted one has forgotten it.
"""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import published_address
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine

PATH = "/v1/admin/transition"
LONGEST_DRAIN = 3600
# quiesced: no new requests. drained: no new requests, and none in flight. admitted: it is used. status: only look.
STATES = ("status", "quiesced", "drained", "admitted")


@dataclass(frozen=True)
class Order:
    """What is wanted of a tier. drain_timeout, retry: seconds; retry is how long a readmission is tried again."""

    tier: str
    state: str
    reason: str
    drain_timeout: int
    retry: float
    token: str = field(repr=False)
    check: bool = False


@dataclass(frozen=True)
class Reply:
    """What the router answered. status 0: nothing did, and ``error`` says why."""

    status: int
    body: Mapping[str, Any]
    error: str = ""


def find_address(raw: Mapping[str, Any]) -> Tuple[str, int]:
    """Where this host reaches the router: its published port, else its own address."""
    network = raw.get("NetworkSettings") or {}
    for bound in (network.get("Ports") or {}).values():
        for binding in bound or ():
            return published_address(str(binding.get("HostIp", "")), int(binding["HostPort"]))
    for attached in (network.get("Networks") or {}).values():
        if attached.get("IPAddress"):
            return (str(attached["IPAddress"]), 8000)
    raise fail("the router has no address that this host reaches", where="container " + str(raw.get("Name", "")).lstrip("/"))


def request(address: Tuple[str, int], body: Mapping[str, Any], token: str, timeout: float) -> Reply:
    """One transition request, never through a proxy."""
    headers = {"Content-Type": "application/json", "Authorization": "Bearer " + token, "Connection": "close"}
    connection = http.client.HTTPConnection(address[0].strip("[]"), address[1], timeout=timeout)
    try:
        connection.request("POST", PATH, body=json.dumps(body).encode("utf-8"), headers=headers)
        answer = connection.getresponse()
        text = answer.read(4 * 1024 * 1024).decode("utf-8", "replace")
        status = answer.status
    except (OSError, http.client.HTTPException) as exc:
        return Reply(0, {}, "{0}: {1}".format(type(exc).__name__, exc))
    finally:
        connection.close()
    try:
        read = json.loads(text)
    except ValueError:
        read = {}
    return Reply(status, read if isinstance(read, dict) else {}, text[:300])


def explain_refusal(reply: Reply, where: str, tier: str) -> AnvilError:
    """Why a router did not do what it was asked."""
    if reply.status == 0:
        return fail("the router does not answer", where=where, why=reply.error, hint="is it up? see playbooks/router_status.yml")
    if reply.status in (401, 403):
        return fail("the router refuses the token", where=where, why=reply.error, hint="give token: the one that clients present")
    if reply.status in (404, 405, 501):
        return fail(
            "this router has no tier transitions",
            where=where,
            why="{0} answers {1}".format(PATH, reply.status),
            hint="they need anvil-serving 0.13 or later with a token; here, promote a config without the tier",
        )
    hint = "is {0!r} a tier of its config? state: status lists them".format(tier) if reply.status == 400 else ""
    return fail("the router refuses the transition", where=where, why="{0}: {1}".format(reply.status, reply.error), hint=hint)


class TierControl:
    """The transition API of one router container."""

    def __init__(self, engine: DockerEngine, container: str, token: str) -> None:
        raw = engine.inspect_container(container)
        self.where = "container " + container
        if raw is None or str(raw["State"]["Status"]) != "running":
            state = "absent" if raw is None else str(raw["State"]["Status"])
            raise fail("the router does not run", where=self.where, why="it is " + state)
        if not (token.isascii() and token.isprintable()):
            raise fail("not a token", where="token", why="it holds characters that no HTTP header may", hint="a line end?")
        self.address, self.token = find_address(raw), token

    def ask(self, action: str, tier: str, patience: float = 15.0, **more: Any) -> Dict[str, Any]:
        """One action; ``patience``: seconds until the answer must be there. more: further keys of the request."""
        body = {"action": action, **({"tier_id": tier} if tier else {}), **more}
        reply = request(self.address, body, self.token, patience)
        if reply.status != 200:
            raise explain_refusal(reply, self.where, tier)
        return dict(reply.body)

    def status(self, tier: str, patience: float = 0.0) -> List[Dict[str, Any]]:
        """patience: seconds for which a router that does not answer is asked again: it may have been restarted just now."""
        deadline = time.monotonic() + patience
        while True:
            try:
                return [dict(row) for row in self.ask("status", tier).get("tiers") or []]
            except AnvilError as exc:
                if "does not answer" not in exc.as_text() or time.monotonic() + 0.5 > deadline:
                    raise
            time.sleep(0.5)

    def row(self, tier: str) -> Dict[str, Any]:
        return self.status(tier)[0]

    def quiesce(self, tier: str, reason: str) -> None:
        self.ask("quiesce", tier, reason=reason, confirm=True, dry_run=False)

    def drain(self, tier: str, timeout: int) -> None:
        """Wait until a quiesced tier carries no request; at the deadline it stays quiesced."""
        if self.row(tier).get("active_requests", 0) == 0:
            return
        said = self.ask("drain", tier, timeout + 15.0, timeout=timeout).get("result") or {} if timeout else {}
        if not said.get("drained"):
            raise fail(
                "tier {0} was not drained within {1} s".format(tier, timeout),
                where=self.where,
                why="{0} requests in flight".format((said.get("snapshot") or self.row(tier)).get("active_requests")),
                hint="it stays quiesced; wait longer, or readmit it with state: admitted",
            )

    def readmit(self, tier: str, retry: float) -> None:
        """Readmit, again and again while the serve behind the tier is not ready: it may have been restarted just now."""
        deadline = time.monotonic() + retry
        while True:
            try:
                result = self.ask("readmit", tier, confirm=True, dry_run=False).get("result") or {}
                if result.get("readmitted"):
                    return
                trouble = fail(
                    "tier {0} was not readmitted".format(tier),
                    where=self.where,
                    why=str(result.get("reason")),
                    hint="the router readmits a tier whose serve names the configured model: [[router.tiers]] needs model, "
                    "model_identity and health_path"
                    if result.get("reason") == "identity_not_configured"
                    else "is the serve behind it up? see playbooks/status.yml",
                )
                final = result.get("reason") == "identity_not_configured"
            except AnvilError as exc:
                trouble, final = exc, "does not answer" not in exc.as_text() and "503" not in exc.as_text()
            if final or time.monotonic() + 0.5 > deadline:
                raise trouble
            time.sleep(0.5)


def is_done(row: Mapping[str, Any], state: str) -> bool:
    """Whether a tier already is what is wanted."""
    quiesced = row.get("state") == "quiesced"
    if state == "admitted":
        return not quiesced
    return quiesced and (state == "quiesced" or row.get("active_requests", 0) == 0)


def steer_tier(engine: DockerEngine, containers: Sequence[str], order: Order) -> Dict[str, Any]:
    """Bring a tier into a state, in every replica: they do not tell each other. All errors come at once."""
    if not 0 <= order.drain_timeout <= LONGEST_DRAIN:
        raise fail("not a sensible time", where="drain_timeout", why=str(order.drain_timeout), hint="0 to 3600 seconds")
    if order.state != "status" and not order.tier:
        raise fail("no tier is named", where="tier", hint="state: status without a tier lists them")
    told: Dict[str, Any] = {"changed": False, "routers": {}}
    problems: List[Problem] = []
    for container in containers:
        try:
            control = TierControl(engine, container, order.token)
            before = control.status(order.tier, order.retry if order.state == "admitted" else 0.0)
            if order.state != "status" and not is_done(before[0], order.state):
                told["changed"] = True
                if not order.check:
                    _steer(control, before[0], order)
            told["routers"][container] = before if order.check or order.state == "status" else control.status(order.tier)
        except AnvilError as exc:
            problems.extend(exc.problems)
    if problems:
        raise AnvilError(*problems)
    return told


def _steer(control: TierControl, before: Mapping[str, Any], order: Order) -> None:
    if order.state == "admitted":
        control.readmit(order.tier, order.retry)
        return
    if not is_done(before, "quiesced"):
        control.quiesce(order.tier, order.reason)
    if order.state == "drained":
        control.drain(order.tier, order.drain_timeout)
