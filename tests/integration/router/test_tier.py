"""Tier transitions on the real routers: a tier is drained and readmitted; an impossible transition fails with its reason."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from bed import Bed, wait_until
from harness import run_module
from replicas import BACKEND, ROUTER_CONFIG, TOKEN, make_load

NAMES = ["tier-router-1", "tier-router-2"]
GATEWAY = "anvil.local/router:2.0.2"
CONFIG = """
[server]
auth_env = "ANVIL_ROUTER_TOKEN"
[router]
[[router.tiers]]
id = "heavy"
base_url = "http://backend:9000/v1"
model = "fake"
dialect = "openai"
context_limit = 8192
privacy = "local"
tool_support = true
auth_env = "ANVIL_HEAVY_KEY"
health_path = "/health"
model_identity = true
[router.model_routes]
"heavy" = "heavy"
"""


def start_router(bed: Bed, name: str, image: str, config: str) -> None:
    environment = ["--env", f"ANVIL_ROUTER_TOKEN={TOKEN}", "--env", "ANVIL_HEAVY_KEY=x"]
    bed.docker("create", "--name", name, "--network", "anvil", "--publish", "127.0.0.1::8000", *environment, image)
    DockerEngine(bed.environment["DOCKER_HOST"]).put_file(name, "/etc/anvil", "config.toml", config.encode(), 0o644)
    bed.docker("start", name)
    wait_until(name, lambda: answers(url(bed, name)))


def url(bed: Bed, name: str) -> str:
    return "http://" + bed.docker("port", name, "8000/tcp")


def answers(base: str) -> bool:
    try:
        return bool(urllib.request.urlopen(base + "/healthz", timeout=2).status == 200)
    except OSError:
        return False


@pytest.fixture
def routers(clean_bed: Bed) -> Iterator[Bed]:
    clean_bed.docker("network", "create", "anvil")
    start = ["--entrypoint", "python3", GATEWAY, "-c", BACKEND]
    clean_bed.docker("run", "--detach", "--name", "backend", "--network", "anvil", *start)
    for name in NAMES:
        start_router(clean_bed, name, GATEWAY, CONFIG)
    yield clean_bed


def steer(**given: Any) -> dict[str, Any]:
    return run_module("anvil_router_tier", **{"containers": NAMES, "tier": "heavy", "token": TOKEN, **given})


def states(answer: dict[str, Any]) -> list[str]:
    assert not answer["failed"], answer["msg"]
    return [rows[0]["state"] for rows in answer["routers"].values()]


def test_a_tier_is_drained_and_readmitted_in_every_replica(routers: Bed) -> None:
    assert states(steer(tier="")) == ["admitting", "admitting"]
    load = make_load(url(routers, NAMES[0]), 2, streams=1.0, stream_seconds=2).start()
    time.sleep(0.7)
    late = steer(state="drained", drain_timeout=0)
    assert late["failed"] and "requests in flight" in late["msg"], late
    began = time.monotonic()
    drained = steer(state="drained", drain_timeout=20)
    assert states(drained) == ["quiesced", "quiesced"] and time.monotonic() - began > 0.2
    assert [rows[0]["active_requests"] for rows in drained["routers"].values()] == [0, 0]
    refused = load.stop()
    assert refused.streams >= 2 and "the stream was cut" not in str(refused.failures), refused
    for check in (True, False):
        assert not steer(state="quiesced", check=check)["changed"]

    assert steer(state="admitted", check=True)["changed"]
    assert states(steer()) == ["quiesced", "quiesced"]
    assert states(steer(state="admitted")) == ["admitting", "admitting"]
    assert not steer(state="admitted")["changed"]


def test_readmission_waits_for_a_serve_that_is_still_starting(routers: Bed) -> None:
    one = {"containers": NAMES[:1]}
    assert states(steer(state="quiesced", **one)) == ["quiesced"]
    routers.docker("stop", "--time", "0", "backend")
    gone = steer(state="admitted", retry=1, **one)
    assert gone["failed"] and "was not readmitted" in gone["msg"], gone
    later = threading.Timer(2, lambda: routers.docker("start", "backend"))
    later.start()
    assert states(steer(state="admitted", retry=20, **one)) == ["admitting"]
    later.join()
    # A router does not answer right after its restart; readmission retries.
    assert states(steer(state="quiesced", **one)) == ["quiesced"]
    routers.docker("restart", "--time", "5", NAMES[0])
    assert states(steer(state="admitted", retry=20, **one)) == ["admitting"]


def test_an_impossible_transition_fails_with_its_reason(routers: Bed) -> None:
    unknown = steer(tier="other", state="quiesced")
    assert unknown["failed"] and "that 'other' is a tier" in unknown["msg"]
    assert "refuses the token" in steer(token="wrong")["msg"]
    assert "it is absent" in steer(containers=["no-such-router"])["msg"]
    assert "0 to 3600" in steer(state="drained", drain_timeout=3601)["msg"]
    assert "not a reason" in steer(state="quiesced", reason="two words")["msg"]
    assert "no tier is named" in steer(tier="", state="drained")["msg"]
    start_router(routers, "tier-profile", "anvil.local/router:0.13.2", ROUTER_CONFIG)
    old = {"containers": ["tier-profile"]}
    # A tier that one router could not readmit is not taken out of service in any router.
    start_router(routers, "tier-bare", GATEWAY, CONFIG.replace("model_identity = true\n", ""))
    for bare, reason in ((["tier-profile"], "no health_path"), ([NAMES[0], "tier-bare"], "no model_identity")):
        for check in (True, False):
            for state in ("quiesced", "drained"):
                lasting = steer(state=state, containers=bare, check=check)
                assert lasting["failed"] and "could not be readmitted" in lasting["msg"] and reason in lasting["msg"], lasting
        assert states(steer(containers=bare)) == ["admitting"] * len(bare)
    assert states(steer(state="quiesced", force=True, **old)) == ["quiesced"]
    unproven = steer(state="admitted", **old)
    assert unproven["failed"] and "[[router.tiers]] needs model" in unproven["msg"], unproven
    without = ROUTER_CONFIG.replace("[server]", "").replace('auth_env = "ANVIL_ROUTER_TOKEN"', "")
    start_router(routers, "tier-open", "anvil.local/router:0.13.2", without)
    none = steer(containers=["tier-open"], state="quiesced")
    assert none["failed"] and "no tier transitions" in none["msg"], none
