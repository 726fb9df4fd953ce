"""The rendered project of two replicas and their edge, brought up by the modules on a real engine."""

from __future__ import annotations

import json
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.edge import Edge, describe_edge
from ansible_collections.anvil.serving.plugins.module_utils.engine import Engine
from ansible_collections.anvil.serving.plugins.module_utils.plan import build_plan
from ansible_collections.anvil.serving.plugins.module_utils.volume import Place, hash_revision, open_writer
from ansible_collections.anvil.serving.plugins.plugin_utils.render import render_host
from bed import Bed
from harness import run_module
from load import Load
from replicas import BACKEND, ROUTER_IMAGE, TOKEN

REPLICAS, EDGE = ["anvil-router-1", "anvil-router-2"], "anvil-router-edge"
PROFILE_ROW = {"tier": "heavy", "work_class": "planning", "decision": "allow", "quality_score": 0.9, "sample_n": 4}


@dataclass
class Host:
    bed: Bed
    root: Path
    router: dict[str, Any] = field(default_factory=lambda: {"replicas": 2})

    @property
    def engine(self) -> Engine:
        return Engine(self.bed.environment["DOCKER_HOST"])

    def render(self) -> dict[str, Any]:
        serve = {"engine": "llama_cpp", "image": "anvil.local/llama-server:1", "model": "/m", "port": 9000, "served_name": "fake"}
        variables = {
            "anvil_root": str(self.root),
            "anvil_secrets": {"router_token": None},
            "anvil_serves": {"heavy": {**serve, "container": "backend", "args": ["-c", "4096"]}},
            "anvil_router": {"image": ROUTER_IMAGE, "publish": "127.0.0.1:8123", "profile": [PROFILE_ROW], **self.router},
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

    def up(self, check: bool = False) -> dict[str, Any]:
        secrets = {"router_token": TOKEN}
        return run_module("anvil_serve", check=check, diff=True, project=self.render()["router"], secrets=secrets)

    def started(self) -> dict[str, str]:
        names = [*REPLICAS, EDGE]
        return {name: self.bed.docker("inspect", "--format", "{{.Id}} {{.State.StartedAt}}", name) for name in names}


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

    load = Load("http://127.0.0.1:8123", clients=16, stream_seconds=1, token=TOKEN).start()
    time.sleep(0.5)
    restarted = run_module("anvil_router_restart", replicas=REPLICAS, edge=EDGE, drain_timeout=20)
    assert not restarted["failed"] and restarted["changed"] and set(restarted["seconds"]) == set(REPLICAS), restarted
    after = host.started()
    assert all(after[name] != started[name] for name in REPLICAS) and after[EDGE] == started[EDGE]

    host.router["request_timeout"] = 301
    changed = host.up()
    assert set(actions(changed).values()) == {"none"} and changed["files"] == [str(host.root / "anvil-router/edge/haproxy.cfg")]
    for check in (True, False):
        reloaded = run_module("anvil_router_edge", check=check, container=EDGE)
        assert not reloaded["failed"] and reloaded["changed"], reloaded
    assert not run_module("anvil_router_edge", container=EDGE)["changed"]
    assert host.started()[EDGE] == started[EDGE]
    report = load.stop()
    assert report.failed == 0 and report.short > 50 and report.streams > 8, report

    Edge(host.engine, EDGE).drain(REPLICAS[0], 10)
    refused = run_module("anvil_router_edge", container=EDGE, force=True)
    assert refused["failed"] and f"while {REPLICAS[0]} is drained" in refused["msg"]


def test_every_field_that_replicas_use_is_seen_when_it_is_edited(host: Host) -> None:
    host.up()
    host.router["edge"] = {"subnet": "10.87.214.0/28"}
    refused = host.up()
    assert refused["failed"] and "docker network rm anvil-router-edge" in refused["msg"]
    host.router["edge"] = {}
    host.bed.docker("rm", "--force", REPLICAS[1])
    assert actions(host.up()) == {"router-1": "none", "router-2": "create", "edge": "none"}


def test_one_router_makes_room_for_the_edge(host: Host) -> None:
    host.router["replicas"] = 1
    host.lay_files()
    first = host.up()
    assert list(actions(first)) == ["router"]
    host.router["replicas"] = 2
    host.lay_files()
    moved = host.up()
    assert set(actions(moved).values()) == {"create"} and "makes room" in str(moved["warnings"])
    names = host.bed.docker("ps", "--format", "{{.Names}}").split()
    assert "anvil-router" not in names and {*REPLICAS, EDGE} <= set(names)
    assert not host.up()["changed"]


def make_certificate(folder: Path, name: str) -> None:
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    made = ["-keyout", str(folder / "key"), "-out", str(folder / "crt"), "-subj", f"/CN={name}"]
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *made]
    subprocess.run(argv, check=True, capture_output=True)
    pem = folder / "edge.pem"
    pem.write_text((folder / "crt").read_text() + (folder / "key").read_text())
    pem.chmod(0o644)
    (folder / "key").unlink()
    (folder / "crt").unlink()


def test_tls_with_a_certificate_from_a_folder_that_is_renewed_without_a_restart(host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    make_certificate(folder, "old.example")
    tmp_path.chmod(0o755)
    host.router["edge"] = {"certificates": str(folder)}
    up = host.up()
    assert actions(up)["edge"] == "create" and up["serves"]["edge"]["endpoint"] == "https://127.0.0.1:8123/v1"

    def certificate() -> str:
        return ssl.get_server_certificate(("127.0.0.1", 8123))

    trust = ssl.create_default_context(cadata=certificate())
    trust.check_hostname = False
    request = urllib.request.Request("https://127.0.0.1:8123/v1/models", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, context=trust, timeout=5) as answer:
        assert json.load(answer)["data"]
    old, started = certificate(), host.started()[EDGE]
    make_certificate(folder, "new.example")
    assert not run_module("anvil_router_edge", container=EDGE)["changed"]
    assert run_module("anvil_router_edge", container=EDGE, force=True)["changed"]
    assert certificate() != old and host.started()[EDGE] == started
    (folder / "edge.pem").write_text("no certificate")
    refused = run_module("anvil_router_edge", container=EDGE, force=True)
    assert refused["failed"] and "HAProxy refuses" in refused["msg"], refused
    assert certificate() != old
