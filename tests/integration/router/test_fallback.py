# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rendered tiers on the real routers under load: a serve is frozen, loads or dies; a tier is taken out of service."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import render_router_config, render_router_profile
from bed import Bed, wait_until
from harness import run_module
from planning import ROUTER, plan
from replicas import BACKEND, TOKEN, make_load

# While /tmp/loading exists, the serve answers like an engine that is loading its model. It prints a line for each request.
LOADING = "        if os.path.exists('/tmp/loading'): return self.send_error(503)\n"
SERVE = (
    BACKEND.replace("import json, time", "import json, os, time")
    .replace('"fake"', "os.environ['MODEL']")
    .replace("9000", "int(os.environ['PORT'])")
    .replace("    def do_GET(self):\n", "    def do_GET(self):\n" + LOADING)
    .replace("    def do_POST(self):\n", "    def do_POST(self):\n        print('asked', flush=True)\n" + LOADING)
)
PROFILE, GATEWAY = "anvil.local/router:0.13.2", "anvil.local/router:2.0.2"
# Seconds; short enough that a request to a frozen serve moves to the other tier while the test runs.
TIMEOUT = (ROUTER + "request_timeout", 4)


def start_router(bed: Bed, name: str, image: str) -> str:
    """Start a router with the files rendered from an inventory with the tiers heavy and fast, in this order. Returns its URL."""
    made = plan((ROUTER + "image", image), (ROUTER + "token", "router_token"), TIMEOUT)
    assert made.router is not None
    command = ["--env", f"ANVIL_ROUTER_TOKEN={TOKEN}", "--volume", f"{name}-cfg:/etc/anvil", image]
    bed.docker("create", "--name", name, "--network", "anvil", "--publish", "127.0.0.1::8000", *command)
    engine = DockerEngine(bed.environment["DOCKER_HOST"])
    files = {"config.toml": render_router_config(made, made.router), "profile.json": render_router_profile(made.router)}
    for file, text in files.items():
        engine.put_file(name, "/etc/anvil", file, text.encode(), 0o644)
    bed.docker("start", name)
    url = "http://" + bed.docker("port", name, "8000/tcp")
    wait_until(name, lambda: ask(url, "GET", "/healthz")[0] == 200)
    return url


def ask(url: str, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    content = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, content, headers, method=method), timeout=10) as reply:
            return reply.status, json.loads(reply.read() or b"{}")
    except urllib.error.HTTPError as exc:
        return exc.code, {}
    except OSError:
        return 0, {}


def complete(url: str, model: str) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "0"}]}
    return ask(url, "POST", "/v1/chat/completions", body)[0]


@pytest.fixture(scope="module")
def serves(bed: Bed) -> Iterator[Bed]:
    bed.start_engine()
    bed.clear()
    bed.docker("network", "create", "anvil")
    router = plan().router
    assert router is not None
    for tier in router.tiers:
        name, port = tier.base_url.removeprefix("http://").removesuffix("/v1").split(":")
        start = ["--env", f"MODEL={tier.model}", "--env", f"PORT={port}", "--entrypoint", "python3", GATEWAY, "-c", SERVE]
        bed.docker("run", "--detach", "--name", name, "--network", "anvil", *start)
    yield bed
    bed.clear()


HEAVY, FAST = "anvil-heavy", "anvil-fast"


def asked(bed: Bed, serve: str) -> int:
    return bed.docker("logs", serve).count("asked")


def test_a_preset_goes_to_its_next_tier_and_no_request_fails(serves: Bed) -> None:
    url = start_router(serves, "fallback", PROFILE)
    # Without measurements, too, requests go to the first tier of the preset.
    assert [complete(url, "chat") for _ in range(5)] == [200] * 5
    assert (asked(serves, HEAVY), asked(serves, FAST)) == (5, 0)
    faults = {
        "frozen": (["pause", HEAVY], ["unpause", HEAVY]),
        "loading": (["exec", HEAVY, "touch", "/tmp/loading"], ["exec", HEAVY, "rm", "/tmp/loading"]),
        "dead": (["kill", HEAVY], ["start", HEAVY]),
    }
    for fault, (begin, end) in faults.items():
        assert complete(url, "heavy") == 200  # the tier that answered last is preferred
        load = make_load(url, 8, streams=0.25, stream_seconds=0.5, model="chat").start()
        time.sleep(0.7)
        serves.docker(*begin)
        before = asked(serves, FAST)
        time.sleep(5.5)
        report = load.stop()
        assert report.failed == 0 and report.short > 20, (fault, report)
        assert asked(serves, FAST) - before > 10, fault
        serves.docker(*end)
        wait_until(fault, lambda: complete(url, "heavy") == 200)


def test_a_gateway_refuses_at_once_and_answers_again_when_the_serve_does(serves: Bed) -> None:
    """A gateway has one tier for each route, so it has no fallback; but no request waits for a frozen serve."""
    url = start_router(serves, "refusing", GATEWAY)
    wait_until("ready", lambda: (complete(url, "heavy"), complete(url, "fast")) == (200, 200))
    serves.docker("pause", HEAVY)
    try:
        wait_until("the router to notice", lambda: complete(url, "heavy") == 503)
        began = time.monotonic()
        assert [complete(url, "heavy") for _ in range(3)] == [503] * 3 and complete(url, "fast") == 200
        assert time.monotonic() - began < 6
    finally:
        serves.docker("unpause", HEAVY)
    wait_until("the serve to be used again", lambda: complete(url, "heavy") == 200)


@pytest.mark.parametrize("image", [PROFILE, GATEWAY])
def test_a_rendered_tier_is_quiesced_drained_and_readmitted(serves: Bed, image: str) -> None:
    name = "steered-" + image.rpartition(":")[2].replace(".", "-")
    url = start_router(serves, name, image)
    wait_until("ready", lambda: complete(url, "heavy") == 200)

    def steer(**given: Any) -> str:
        answer = run_module("anvil_router_tier", containers=[name], tier="heavy", token=TOKEN, **given)
        assert not answer["failed"], answer["msg"]
        return str(answer["routers"][name][0]["state"])

    def report() -> Any:
        return run_module("anvil_router_info", container=name, volume=f"{name}-cfg", token=TOKEN)["tiers"]

    admitted = {"state": "admitted", "ready": True, "in_flight": 0, "reason": ""}
    assert report() == {"heavy": {name: admitted}, "fast": {name: {**admitted}}}
    assert steer(state="quiesced", reason="new-image") == "quiesced"
    shown = report()["heavy"][name]
    assert (shown["state"], shown["reason"], report()["fast"][name]["state"]) == ("quiesced", "new-image", "admitted")
    assert steer(state="drained") == "quiesced" and complete(url, "heavy") == 503
    assert complete(url, "chat" if image == PROFILE else "fast") == 200
    assert steer(state="admitted") == "admitting" and complete(url, "heavy") == 200
