"""The modules bring up the rendered project of two replicas and their edge on a real engine."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import Place, hash_revision
from ansible_collections.anvil.serving.plugins.module_utils.promotion.volume_writer import open_writer
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import Edge
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_report import describe_edge
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import render_host
from bed import Bed
from harness import run_module
from replicas import BACKEND, ROUTER_IMAGE, TOKEN, make_certificate, make_load
from routersite import NEW_IMAGE, kill_before, spawn_module, wait_until

SECRETS = {"router_token": TOKEN}
REPLICAS, EDGE = ["anvil-router-1", "anvil-router-2"], "anvil-router-edge"
PROFILE_ROW = {"tier": "heavy", "work_class": "planning", "decision": "allow", "quality_score": 0.9, "sample_n": 4}


@dataclass
class Host:
    bed: Bed
    root: Path
    router: dict[str, Any] = field(default_factory=lambda: {"replicas": 2, "profile": [PROFILE_ROW]})
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def engine(self) -> DockerEngine:
        return DockerEngine(self.bed.environment["DOCKER_HOST"])

    def render(self) -> dict[str, Any]:
        serve = {"engine": "llama_cpp", "image": "anvil.local/llama-server:1", "model": "/m", "port": 9000, "served_name": "fake"}
        variables = {
            "anvil_root": str(self.root),
            "anvil_secrets": {"router_token": None},
            "anvil_serves": {"heavy": {**serve, "container": "backend", "args": ["-c", "4096"]}},
            "anvil_router": {"image": ROUTER_IMAGE, "publish": "127.0.0.1:8123", **self.router},
            **self.more,
        }
        return render_host(build_plan("bed", variables, {"router_token": "file"}))

    def lay_files(self) -> None:
        """What a promotion leaves behind: one revision, and a pointer of each replica to it."""
        rendered = self.render()["router_files"]
        contents = {"config.toml": rendered["config"].encode(), "profile.json": rendered["profile"].encode()}
        files, revision = {name: text for name, text in contents.items() if text}, hash_revision(contents)
        place = Place("anvil-router-cfg", "/etc/anvil", REPLICAS[0], tuple(files))
        image = self.bed.docker("image", "inspect", "--format", "{{.Id}}", ROUTER_IMAGE)
        with open_writer(self.engine, image, place, 10) as writer:
            writer.put_folder(f".anvil/revisions/{revision}", files)
            for replica in (*REPLICAS, "anvil-router"):
                writer.put_link(f".anvil/live/{replica}", f"../revisions/{revision}")
            for name in files:  # what a stock router reads
                writer.put_link(name, f".anvil/live/anvil-router/{name}")

    def promote_edge(self, **given: Any) -> dict[str, Any]:
        """Promote the edge's configuration as the role does. given: parameters of the module, and check."""
        return run_module("anvil_router_edge", **{**self.render()["edge"], "secrets": SECRETS, "settle": 0.3, **given})

    def promote(self, **given: Any) -> dict[str, Any]:
        """Promote the router's own files as the role does."""
        rendered = self.render()
        files = {name: text for name, text in rendered["router_files"].items() if text}
        names = {"replicas": REPLICAS, "edge": EDGE, "image": self.router.get("image", ROUTER_IMAGE)}
        return run_module("anvil_router_promote", **{**names, **files, "settle": 0.5, "drain_timeout": 20, **given})

    def up(self, check: bool = False) -> dict[str, Any]:
        if self.render()["router_names"]["edge"]:
            done = self.promote_edge(check=check)
            assert not done["failed"], done["msg"]
        return run_module("anvil_serve", check=check, diff=True, project=self.render()["router"], secrets=SECRETS)

    def started(self) -> dict[str, str]:
        found = self.bed.started()
        return {name: found[name] for name in (*REPLICAS, EDGE)}


@pytest.fixture
def host(clean_bed: Bed, tmp_path: Path) -> Iterator[Host]:
    clean_bed.docker("network", "create", "anvil")
    start = ["--entrypoint", "python3", ROUTER_IMAGE, "-c", BACKEND]
    clean_bed.docker("run", "--detach", "--name", "backend", "--network", "anvil", *start)
    made = Host(clean_bed, tmp_path / "anvil")
    made.lay_files()
    yield made


def actions(answer: dict[str, Any]) -> dict[str, str]:
    assert not answer["failed"], answer["msg"]
    return {name: serve["action"] for name, serve in answer["serves"].items()}


def test_two_replicas_come_up_behind_the_edge_and_the_second_run_changes_nothing(host: Host) -> None:
    assert set(actions(host.up(check=True)).values()) == {"create"}
    first = host.up()
    assert actions(first) == {"router-1": "create", "router-2": "create", "edge": "create"}
    started = host.started()
    for check in (True, False):
        again = host.up(check)
        assert set(actions(again).values()) == {"none"}, again["serves"]
        assert (again["changed"], again["commands"]) == (False, [])
    assert host.started() == started

    seen = describe_edge(host.engine, EDGE)
    assert seen["healthy"] and seen["loaded"] is True
    deadline = time.monotonic() + 10
    while [each["status"] for each in seen["replicas"]] != ["UP", "UP"] and time.monotonic() < deadline:
        seen = describe_edge(host.engine, EDGE)
    assert [(each["name"], each["status"]) for each in seen["replicas"]] == [(name, "UP") for name in REPLICAS]
    assert "quality profile loaded" in host.bed.docker("logs", REPLICAS[1]) + host.bed.run("docker", "logs", REPLICAS[1]).stderr

    load = make_load("http://127.0.0.1:8123", 16, stream_seconds=1).start()
    time.sleep(0.5)
    restarted = run_module("anvil_router_restart", replicas=REPLICAS, edge=EDGE, drain_timeout=20)
    assert not restarted["failed"] and restarted["changed"] and set(restarted["seconds"]) == set(REPLICAS), restarted
    after = host.started()
    assert all(after[name] != started[name] for name in REPLICAS) and after[EDGE] == started[EDGE]
    report = load.stop()
    assert report.failed == 0 and report.short > 50 and report.streams > 8, report


def test_the_edges_configuration_is_promoted_and_rolled_back_under_long_streams(host: Host) -> None:
    host.up()
    edge, started = Edge(host.engine, EDGE), host.started()
    wait_until(lambda: [server.status for server in edge.read_servers()] == ["UP", "UP"])
    streams = make_load("http://127.0.0.1:8123", 4, streams=1.0, stream_seconds=20).start()
    short = make_load("http://127.0.0.1:8123", 8, streams=0.0).start()
    wait_until(lambda: sum(server.sessions for server in edge.read_servers()) >= 4)
    first = edge.read_loaded_hash()
    host.router["request_timeout"] = 301
    predicted = host.promote_edge(check=True, diff=True)
    assert predicted["changed"] and "timeout server 331s" in predicted["diff"][0]["after"], predicted
    done = host.promote_edge()
    assert done["changed"] and done["reloaded"] and done["revision"] == predicted["revision"], done
    assert streams.report().streams == 0, "every stream is older than the reload"
    assert not host.promote_edge()["changed"]
    second = edge.read_loaded_hash()
    assert second == edge.read_written_hash() != first

    refused = host.promote_edge(config=host.render()["edge"]["config"] + "  no-such-word\n")
    assert refused["failed"] and "no-such-word" in str(refused["problems"]), refused
    # HAProxy's check accepts an address that the new process cannot bind.
    cannot = host.render()["edge"]["config"].replace("bind :8000", "bind :8000\n    bind 203.0.113.9:8001")
    failed = host.promote_edge(config=cannot)
    assert failed["failed"] and "throwaway edge" in failed["msg"] and "203.0.113.9" in str(failed["problems"]), failed
    assert edge.read_loaded_hash() == second == edge.read_written_hash()
    back = host.promote_edge(state="rolled_back", config=None)
    assert back["changed"] and edge.read_loaded_hash() == first, back
    assert run_module("anvil_router_edge", container=EDGE, force=True)["changed"]
    assert [load.stop().failed for load in (short, streams)] == [0, 0], (short.report(), streams.report())
    assert streams.report().streams >= 4 and short.report().short > 50
    failed = host.promote_edge(config=cannot, timeout=3, dry_boot=False)
    assert failed["failed"] and "rolled back to" in failed["msg"], failed
    assert edge.read_loaded_hash() == first == edge.read_written_hash()
    assert host.started() == started


def test_an_edge_reload_waits_for_a_promotion_and_is_refused_while_a_replica_is_drained(host: Host) -> None:
    host.up()
    edge = Edge(host.engine, EDGE)
    wait_until(lambda: [server.status for server in edge.read_servers()] == ["UP", "UP"])
    place = Place("anvil-router-cfg", "/etc/anvil", REPLICAS[0], ())
    image = host.bed.docker("image", "inspect", "--format", "{{.Id}}", ROUTER_IMAGE)
    host.router["request_timeout"] = 302
    with open_writer(host.engine, image, place, 10):  # as a promotion of the replicas does
        busy = run_module("anvil_router_edge", container=EDGE, force=True, lock_timeout=0.3)
        assert busy["failed"] and "another promotion is under way" in busy["msg"], busy
        waiting = host.promote_edge(lock_timeout=0.3)
        assert waiting["failed"] and "another promotion is under way" in waiting["msg"], waiting
        restart = run_module("anvil_router_restart", replicas=REPLICAS, edge=EDGE, lock_timeout=0.3)
        assert restart["failed"] and "another promotion is under way" in restart["msg"], restart
    edge.drain(REPLICAS[0], 10)
    for refused in (run_module("anvil_router_edge", container=EDGE, force=True), host.promote_edge()):
        assert refused["failed"] and f"while {REPLICAS[0]} is drained" in refused["msg"], refused
    edge.readmit(REPLICAS[0], 10)
    assert host.promote_edge()["changed"]


EDGE_STEPS = [
    ("promotion.volume_writer", "Writer", "_request", 5),
    ("router.edge_container", "EdgeContainer", "reload", 1),
    ("router.promoted_container", "PromotedContainer", "verify", 1),
    ("promotion.locked_run", "PromotionRun", "_close", 1),
]


def test_a_killed_edge_promotion_is_completed_by_the_next_run(host: Host) -> None:
    host.up()
    edge, started = Edge(host.engine, EDGE), host.started()
    for number, step in enumerate(EDGE_STEPS):
        host.router["request_timeout"] = 303 + number
        given = {**host.render()["edge"], "secrets": SECRETS, "settle": 0.3}
        assert kill_before(lambda before, **more: spawn_module("anvil_router_edge", before, more), step, **given), step
        done = host.promote_edge()
        assert not done["failed"] and edge.read_loaded_hash() == edge.read_written_hash(), (step, done)
        assert f"timeout server {333 + number}s" in edge.read_config(), step
        assert not host.promote_edge()["changed"], step
    assert host.started() == started


def test_a_gateway_router_is_rendered_brought_up_and_rolled_under_load(clean_bed: Bed, tmp_path: Path) -> None:
    clean_bed.docker("network", "create", "anvil")
    start = ["--entrypoint", "python3", NEW_IMAGE, "-c", BACKEND]
    clean_bed.docker("run", "--detach", "--name", "backend", "--network", "anvil", *start)
    host = Host(clean_bed, tmp_path / "anvil", {"image": NEW_IMAGE, "replicas": 2})
    first = host.promote()
    assert first["changed"] and not first["reloaded"], first
    assert actions(host.up()) == {"router-1": "create", "router-2": "create", "edge": "create"}
    edge, started = Edge(host.engine, EDGE), host.started()
    wait_until(lambda: [server.status for server in edge.read_servers()] == ["UP", "UP"])
    asked = {"container": REPLICAS[0], "edge": EDGE, "image": NEW_IMAGE, "token": TOKEN}
    assert not run_module("anvil_router_info", **asked, ask=["heavy"])["failed"]
    assert not host.promote()["changed"]

    load = make_load("http://127.0.0.1:8123", 16, stream_seconds=1).start()
    host.router["routes"] = {"llm.primary": "heavy"}
    rolled = host.promote()
    bad = host.promote(probes=[{"path": "/nowhere"}], dry_boot=False, config=rolled_config(host, "llm.other"))
    back = host.promote(state="rolled_back", config=None)
    report = load.stop()
    assert rolled["changed"] and [action for action in rolled["actions"] if "serves" in action] == [
        f"{replica} serves {rolled['revision']['new'][:12]}" for replica in REPLICAS
    ], rolled
    assert bad["failed"] and "rolled back to" in bad["msg"], bad
    assert back["changed"] and back["revision"] == {"old": rolled["revision"]["new"], "new": first["revision"]["new"]}, back
    assert report.failed == 0 and report.short > 50 and report.streams > 8, report
    assert host.started()[EDGE] == started[EDGE]
    assert not host.promote()["failed"]
    assert not run_module("anvil_router_info", **asked, ask=["llm.primary", "heavy"])["failed"]
    assert set(actions(host.up()).values()) == {"none"}


def rolled_config(host: Host, route: str) -> str:
    host.router["routes"] = {route: "heavy"}
    config = str(host.render()["router_files"]["config"])
    host.router["routes"] = {"llm.primary": "heavy"}
    return config


def test_an_edited_subnet_is_refused_and_only_a_missing_replica_is_created(host: Host) -> None:
    host.up()
    host.more["anvil_edge"] = {"subnet": "10.87.214.0/28"}
    refused = host.up()
    assert refused["failed"] and "router_down.yml" in refused["msg"] and REPLICAS[1] in refused["msg"], refused
    host.more.clear()
    host.bed.docker("rm", "--force", REPLICAS[1])
    assert actions(host.up()) == {"router-1": "none", "router-2": "create", "edge": "none"}
    # No container has the network any more: it is created again.
    host.bed.docker("rm", "--force", *REPLICAS, EDGE)
    host.more["anvil_edge"] = {"subnet": "10.87.214.0/28"}
    assert host.up()["created"] == ["network anvil-router-edge"]
    host.bed.docker("rm", "--force", *REPLICAS, EDGE)


def test_a_change_to_two_replicas_replaces_the_single_router(host: Host) -> None:
    host.router["replicas"] = 1
    host.lay_files()
    first = host.up()
    assert list(actions(first)) == ["router"]
    host.router["replicas"] = 2
    host.lay_files()
    moved = host.up()
    assert set(actions(moved).values()) == {"create"} and "because a serve needs its port" in str(moved["warnings"])
    names = host.bed.docker("ps", "--format", "{{.Names}}").split()
    assert "anvil-router" not in names and {*REPLICAS, EDGE} <= set(names)
    assert not host.up()["changed"]


def test_an_edge_takes_the_port_of_the_single_router_and_gives_it_back(host: Host) -> None:
    host.router["replicas"] = 1
    host.lay_files()
    assert list(actions(host.up())) == ["router"] and not host.up()["changed"]
    host.more["anvil_edge"] = {}
    predicted = host.up(check=True)
    assert actions(predicted) == {"router": "recreate", "edge": "create"}, predicted
    assert actions(host.up()) == {"router": "recreate", "edge": "create"}
    assert not host.up()["changed"] and not host.promote_edge()["changed"]
    wait_until(lambda: describe_edge(host.engine, EDGE)["healthy"])
    report = make_load("http://127.0.0.1:8123", 4, stream_seconds=0.5).start()
    restarted = run_module("anvil_router_restart", replicas=["anvil-router"])
    assert not restarted["failed"], restarted
    assert report.stop().short > 0
    host.more.clear()
    back = run_module("anvil_router_up", project=host.render()["router"], secrets=SECRETS)
    assert not back["failed"] and back["removed"] == [EDGE], back
    assert host.bed.docker("ps", "--format", "{{.Names}}").split().count("anvil-router") == 1


def ask_over_tls(stop: threading.Event, keep: bool, seconds: float) -> tuple[int, list[str]]:
    """Requests until the event, on one connection or each on a new one; streams of that many seconds if it is not 0.

    Returns how many were answered whole, and what failed.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the certificate changes meanwhile
    connection = http.client.HTTPSConnection("127.0.0.1", 8123, timeout=20, context=context)
    body = {"model": "heavy", "messages": [{"role": "user", "content": f"{seconds:g}"}], "stream": bool(seconds)}
    answered, failed = 0, []
    while not stop.is_set():
        try:
            headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            reply = connection.getresponse()
            text = reply.read().decode()
            whole = reply.status == 200 and ("[DONE]" in text or not seconds)
            answered, failed = (answered + 1, failed) if whole else (answered, [*failed, f"{reply.status} {text[-100:]}"])
        except (OSError, http.client.HTTPException) as error:
            failed.append(f"{type(error).__name__}: {error}")
            connection.close()
        if not keep:
            connection.close()
        stop.wait(0.02)
    connection.close()
    return answered, failed


def test_a_renewed_certificate_is_loaded_without_a_restart(host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    make_certificate(folder, "old.example")
    host.more["anvil_edge"] = {"tls": {"certificate": str(folder / "edge.pem")}}
    up = host.up()
    assert actions(up)["edge"] == "create" and up["serves"]["edge"]["endpoint"] == "https://127.0.0.1:8123/v1"

    def certificate() -> str:
        return ssl.get_server_certificate(("127.0.0.1", 8123))

    trust = ssl.create_default_context(cadata=certificate())
    trust.check_hostname = False
    request = urllib.request.Request("https://127.0.0.1:8123/v1/models", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, context=trust, timeout=5) as answer:
        assert json.load(answer)["data"]

    asked = {"container": REPLICAS[0], "edge": EDGE, "image": ROUTER_IMAGE, "ask": ["heavy"], "token": TOKEN}
    stranger = tmp_path / "stranger"
    make_certificate(stranger, "old.example")
    mine, other = str(folder / "edge.pem"), str(stranger / "edge.pem")
    for trust in ({}, {"ca_file": mine}, {"ca_file": mine, "server_name": "old.example"}):
        told = run_module("anvil_router_info", **asked, **trust)
        assert not told["failed"] and told["answers"]["heavy"]["text"] == "hello", told
    for trust, why in (
        ({"ca_file": other}, "CERTIFICATE_VERIFY_FAILED"),
        ({"ca_file": mine, "server_name": "other.example"}, "CERTIFICATE_VERIFY_FAILED"),
        ({"ca_file": "/nowhere.pem"}, "certificate of the edge cannot be checked"),
    ):
        refused = run_module("anvil_router_info", **asked, **trust)
        assert refused["failed"] and why in refused["msg"], refused
    old, started = certificate(), host.started()[EDGE]
    make_certificate(folder, "new.example")
    assert host.promote_edge(check=True)["changed"] and certificate() == old
    stop = threading.Event()
    with ThreadPoolExecutor(6) as pool:
        asking = [pool.submit(ask_over_tls, stop, keep, seconds) for keep in (True, False) for seconds in (0, 0, 1.5)]
        time.sleep(0.5)
        renewed = host.promote_edge(diff=True)
        time.sleep(0.5)
        stop.set()
        results = [each.result() for each in asking]
    assert all(answered and not failed for answered, failed in results), results
    assert renewed["changed"] and renewed["reloaded"] and list(renewed["certificates"]) == [mine], renewed
    assert "PRIVATE KEY" not in json.dumps(renewed) and "not shown" in json.dumps(renewed["diff"])
    assert certificate() != old and host.started()[EDGE] == started
    assert not host.promote_edge()["changed"] and not run_module("anvil_router_info", **asked)["failed"]
    mode = host.bed.docker("exec", EDGE, "stat", "-Lc", "%a %u", "/etc/anvil-edge/private/host-0.pem")
    assert mode == "600 10001"
    # The certificate of one key with another key: HAProxy refuses it before anything changes.
    text = (stranger / "edge.pem").read_text()
    pem = (folder / "edge.pem").read_text()
    (folder / "edge.pem").write_text(pem[: pem.index("-----BEGIN PRIVATE")] + text[text.index("-----BEGIN PRIVATE") :])
    refused = host.promote_edge()
    assert refused["failed"] and "the validator refuses the candidate" in refused["msg"], refused
    (folder / "edge.pem").write_text("no certificate")
    refused = host.promote_edge()
    assert refused["failed"] and "the file holds no certificate" in refused["msg"], refused
    assert certificate() != old and host.started()[EDGE] == started
