# SPDX-License-Identifier: GPL-3.0-or-later
"""Take a tier of a router out of service and back, through the router's transition API (anvil-serving 0.13.2, 2.0.2).

A router keeps the state of its tiers in memory: with several replicas each gets the request, and a restarted one has every
tier admitted again.
"""

from __future__ import annotations

import http.client
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import is_elsewhere, list_published
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine

PATH = "/v1/admin/transition"
LONGEST_DRAIN = 3600
RETRY_PAUSE = 0.5
# A router without a published port is reached at its own address and this port.
OWN_PORT = 8000
NO_ANSWER = "the router does not answer"
REASON = re.compile(r"[A-Za-z0-9._-]{1,128}")
NO_API = "this router has no tier transitions"


@dataclass(frozen=True)
class TierRequest:
    """The state that a tier shall have. drain_timeout, retry: seconds; retry: for how long a readmission is repeated.

    state: ``quiesced`` (no new requests), ``drained`` (nor any in flight), ``admitted`` (in use), ``status`` (report only).
    force: take a tier out of service even though the router cannot readmit it.
    """

    tier: str
    state: str
    reason: str
    drain_timeout: int
    retry: float
    token: str = field(repr=False)
    force: bool = False
    check_mode: bool = False


@dataclass(frozen=True)
class Reply:
    """The router's reply. status 0: there was none, and ``error`` says why."""

    status: int
    body: Mapping[str, Any]
    error: str = ""


def find_address(inspected: Mapping[str, Any]) -> Tuple[str, int]:
    """Where this host reaches the router: its published port, else its own address."""
    for address in list_published(inspected):
        return address
    for attached in ((inspected.get("NetworkSettings") or {}).get("Networks") or {}).values():
        if attached.get("IPAddress") and not is_elsewhere(attached):
            return (str(attached["IPAddress"]), OWN_PORT)
    where = "container " + str(inspected.get("Name", "")).lstrip("/")
    hint = "publish its port, or attach a network of this host"
    raise fail("the router has no address that this host can reach", where=where, hint=hint)


def send_request(address: Tuple[str, int], body: Mapping[str, Any], token: str, timeout: float) -> Reply:
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
    """Why a router did not do what was requested."""
    if reply.status == 0:
        return fail(
            NO_ANSWER, where=where, why=reply.error, hint="see whether it runs: ansible-playbook playbooks/router_status.yml"
        )
    if reply.status in (401, 403):
        return fail("the router refuses the token", where=where, why=reply.error, hint="set token to the one that clients send")
    if reply.status in (404, 405, 501):
        return fail(
            NO_API,
            where=where,
            why="{0} answers {1}".format(PATH, reply.status),
            hint="they need anvil-serving 0.13 or later and a token; with this router, promote a config without the tier",
        )
    hint = "check that {0!r} is a tier of its config: state: status lists the tiers".format(tier) if reply.status == 400 else ""
    return fail("the router refuses the transition", where=where, why="{0}: {1}".format(reply.status, reply.error), hint=hint)


class TransitionApi:
    """The transition API of one router container."""

    def __init__(self, docker: DockerEngine, container: str, token: str) -> None:
        inspected = docker.inspect_container(container)
        self.where = "container " + container
        if inspected is None or str(inspected["State"]["Status"]) != "running":
            state = "absent" if inspected is None else str(inspected["State"]["Status"])
            hint = "ansible-playbook playbooks/router_status.yml shows the router; ansible-playbook playbooks/site.yml starts it"
            raise fail("the router does not run", where=self.where, why="it is " + state, hint=hint)
        if not (token.isascii() and token.isprintable()):
            why = "it holds characters that no HTTP header may hold"
            raise fail(
                "the token is not usable", where="token", why=why, hint="remove line ends and control characters from the token"
            )
        self.address, self.token = find_address(inspected), token

    def send(self, action: str, tier: str, wait: float = 15.0, **more: Any) -> Dict[str, Any]:
        """Send one action and return the router's reply. wait: seconds for the reply. more: further keys of the request."""
        body = {"action": action, **({"tier_id": tier} if tier else {}), **more}
        reply = send_request(self.address, body, self.token, wait)
        if reply.status != 200:
            raise explain_refusal(reply, self.where, tier)
        return dict(reply.body)

    def read_tiers(self, tier: str, retry: float = 0.0) -> List[Dict[str, Any]]:
        """The state of one tier, or of all for an empty name. retry: seconds for which a router may not answer yet."""
        deadline = time.monotonic() + retry
        while True:
            try:
                return [dict(row) for row in self.send("status", tier).get("tiers") or []]
            except AnvilError as exc:
                if NO_ANSWER not in exc.as_text() or time.monotonic() + RETRY_PAUSE > deadline:
                    raise
            time.sleep(RETRY_PAUSE)

    def read_tier(self, tier: str) -> Dict[str, Any]:
        return self.read_tiers(tier)[0]

    def quiesce(self, tier: str, reason: str) -> None:
        self.send("quiesce", tier, reason=reason, confirm=True, dry_run=False)

    def drain(self, tier: str, timeout: int) -> None:
        """Wait until a quiesced tier has no request in flight; at the deadline it stays quiesced."""
        if self.read_tier(tier).get("active_requests", 0) == 0:
            return
        result = self.send("drain", tier, timeout + 15.0, timeout=timeout).get("result") or {} if timeout else {}
        if not result.get("drained"):
            raise fail(
                "tier {0} was not drained within {1} s".format(tier, timeout),
                where=self.where,
                why="{0} requests in flight".format((result.get("snapshot") or self.read_tier(tier)).get("active_requests")),
                hint="run again with a longer drain_timeout, or readmit it with state: admitted; until then it stays quiesced",
            )

    def readmit(self, tier: str, retry: float) -> None:
        """Readmit the tier; repeated for ``retry`` seconds, as the serve behind it may still be starting."""
        deadline = time.monotonic() + retry
        while True:
            try:
                result = self.send("readmit", tier, confirm=True, dry_run=False).get("result") or {}
                if result.get("readmitted"):
                    return
                is_final = result.get("reason") == "identity_not_configured"
                failure = fail(
                    "tier {0} was not readmitted".format(tier),
                    where=self.where,
                    why=str(result.get("reason")),
                    hint="the router readmits only a tier whose serve reports its model: [[router.tiers]] needs model, "
                    "model_identity and health_path"
                    if is_final
                    else "see whether its serve is ready: ansible-playbook playbooks/status.yml",
                )
            except AnvilError as exc:
                failure, is_final = exc, NO_ANSWER not in exc.as_text() and "503" not in exc.as_text()
            if is_final or time.monotonic() + RETRY_PAUSE > deadline:
                raise failure
            time.sleep(RETRY_PAUSE)


def explain_lasting_drain(row: Mapping[str, Any]) -> str:
    """Why a router could never readmit a tier once it is quiesced; empty if it could, or if that is not known.

    A router readmits a tier whose serve reports the configured model. What it checked last shows whether it can.
    """
    if row.get("metadata_source") == "upstream":
        return ""
    if row.get("readiness_reason") == "availability_not_configured":
        return "the tier has no health_path, or is not local, so the router never checks it"
    if row.get("readiness_reason") == "health_passed":
        return "the tier has no model_identity, so the router never learns which model answers"
    return ""


def _check_readmission(row: Mapping[str, Any], request: TierRequest, where: str) -> Tuple[List[Problem], List[str]]:
    """Whether a tier that is in use may be taken out of service; problems and warnings."""
    if request.state not in ("quiesced", "drained") or request.force or has_state(row, "quiesced"):
        return [], []
    why = explain_lasting_drain(row)
    if why:
        hint = (
            "promote a config with health_path and model_identity for it (playbooks/site.yml renders both), or set force: true; "
            "then only a restart of the router brings it back"
        )
        return [Problem("tier {0} could not be readmitted".format(request.tier), where=where, why=why, hint=hint)], []
    if str(row.get("readiness_reason")).startswith("identity_") and row.get("observed_model") not in (
        None,
        row.get("expected_model"),
    ):
        warning = "{0}: tier {1} is readmitted only once its serve reports the model {2}; now it reports {3}"
        return [], [warning.format(where, request.tier, row.get("expected_model"), row.get("observed_model"))]
    return [], []


def has_state(row: Mapping[str, Any], state: str) -> bool:
    """Whether a tier is already in that state."""
    quiesced = row.get("state") == "quiesced"
    if state == "admitted":
        return not quiesced
    return quiesced and (state == "quiesced" or row.get("active_requests", 0) == 0)


def set_tier_state(docker: DockerEngine, containers: Sequence[str], request: TierRequest) -> Dict[str, Any]:
    """Bring a tier into a state in every replica; the replicas do not share it. All errors come at once."""
    if not 0 <= request.drain_timeout <= LONGEST_DRAIN:
        raise fail("the time is out of range", where="drain_timeout", why=str(request.drain_timeout), hint="0 to 3600 seconds")
    if request.state != "status" and not request.tier:
        raise fail("no tier is named", where="tier", hint="state: status without a tier lists the tiers")
    if not REASON.fullmatch(request.reason):
        hint = "use one word of letters, digits and - _ . , such as new-image: the router takes no other"
        raise fail("not a reason that a router records", where="reason", why=repr(request.reason[:200]), hint=hint)
    report: Dict[str, Any] = {"changed": False, "routers": {}, "warnings": []}
    problems: List[Problem] = []
    found: Dict[str, Tuple[TransitionApi, List[Dict[str, Any]]]] = {}
    for container in containers:
        try:
            api = TransitionApi(docker, container, request.token)
            before = api.read_tiers(request.tier, request.retry if request.state == "admitted" else 0.0)
            found[container] = api, before
            if request.state != "status":
                refused, doubts = _check_readmission(before[0], request, api.where)
                problems += refused
                report["warnings"] += doubts
        except AnvilError as exc:
            problems.extend(exc.problems)
    if any(problem.what.endswith("could not be readmitted") for problem in problems):
        # No router is touched: the others would stay without the tier.
        raise AnvilError(*problems)
    for container, (api, before) in found.items():
        try:
            if request.state != "status" and not has_state(before[0], request.state):
                report["changed"] = True
                if not request.check_mode:
                    _change_state(api, before[0], request)
            only_reads = request.check_mode or request.state == "status"
            report["routers"][container] = before if only_reads else api.read_tiers(request.tier)
        except AnvilError as exc:
            problems.extend(exc.problems)
    if problems:
        raise AnvilError(*problems)
    return report


def _change_state(api: TransitionApi, before: Mapping[str, Any], request: TierRequest) -> None:
    if request.state == "admitted":
        api.readmit(request.tier, request.retry)
        return
    if not has_state(before, "quiesced"):
        api.quiesce(request.tier, request.reason)
    if request.state == "drained":
        api.drain(request.tier, request.drain_timeout)
