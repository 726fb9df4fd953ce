"""Secrets of a router change under load on two replicas behind the edge: its token, also over kills, and the key of a server."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan
from ansible_collections.anvil.serving.plugins.module_utils.router import token_rotation
from ansible_collections.anvil.serving.plugins.module_utils.router.deployment import Deployment
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import Edge
from ansible_collections.anvil.serving.plugins.module_utils.router.tier_report import read_own_token
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import read_project
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import render_host
from bed import Bed
from harness import run_module
from load import Load
from replicas import BACKEND, ROUTER_IMAGE
from routersite import wait_until

SERVE = {"engine": "llama_cpp", "image": "anvil.local/llama-server:1", "model": "/m", "served_name": "fake", "port": 9000}
PROFILE_ROW = {"tier": "heavy", "work_class": "planning", "decision": "allow", "quality_score": 0.9, "sample_n": 4}
PORT = 8124
KEY = "alice-" + "k" * 24
EXTERNAL_KEYS = {"old": "old-" + "e" * 24, "new": "new-" + "e" * 24}


class KilledError(Exception):
    """Stands in for a kill of the module."""


@dataclass
class Site:
    """Two replicas behind an edge, on a backend that answers at once. token: the value of the secret."""

    bed: Bed
    folder: Path
    image: str
    token: str = "first-" + "t" * 24
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def secrets(self) -> dict[str, str]:
        return {"router_token": self.token, "alice": KEY}

    @property
    def containers(self) -> list[str]:
        return ["anvil-router-1", "anvil-router-2"]

    def render(self) -> dict[str, Any]:
        variables = {
            "anvil_root": str(self.folder / "anvil"),
            "anvil_secrets": dict.fromkeys(self.secrets),
            "anvil_serves": {"heavy": {**SERVE, "container": "backend", "args": ["-c", "4096"]}},
            "anvil_router": {
                "image": self.image,
                "publish": f"127.0.0.1:{PORT}",
                "replicas": 2,
                "token": "router_token",
                **({"profile": [PROFILE_ROW]} if "0.13.2" in self.image else {}),
            },
            "anvil_clients": {"alice": {"keys": ["alice"]}},
            **self.more,
        }
        return render_host(build_plan("bed", variables, dict.fromkeys(self.secrets, "file")))

    def bring_up(self) -> None:
        rendered = self.render()
        given = {name: text for name, text in rendered["router_files"].items() if text}
        names = rendered["router_names"]
        promoted = run_module(
            "anvil_router_promote", image=self.image, replicas=names["replicas"], edge=names["edge"], settle=0.1,
            dry_boot=False, **given
        )  # fmt: skip
        assert not promoted["failed"], promoted["msg"]
        edge = run_module("anvil_router_edge", **{**rendered["edge"], "secrets": self.secrets, "settle": 0.1})
        assert not edge["failed"], edge["msg"]
        up = run_module("anvil_router_up", project=rendered["router"], edge="anvil-router-edge", secrets=self.secrets)
        assert not up["failed"], up["msg"]
        wait_until(self.answers)

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
        try:
            connection.request("GET", "/v1/models", headers={"Authorization": "Bearer " + KEY})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def statuses(self) -> set[str]:
        engine = DockerEngine(self.bed.environment["DOCKER_HOST"])
        return {server.status for server in Edge(engine, "anvil-router-edge").read_servers()}

    def rotate(self, **given: Any) -> dict[str, Any]:
        rendered = self.render()
        options = {"project": rendered["router"], "edge": rendered["edge"], "token": "router_token", "secrets": self.secrets}
        return run_module("anvil_router_token", **{**options, "settle": 0.1, "drain_timeout": 30, **given})

    def rotate_here(self) -> dict[str, Any]:
        """In this process, where a test can end it between two steps."""
        rendered = self.render()
        parts = {**rendered["router"], "services": json.loads(rendered["router"]["services"])}
        project = read_project(parts, self.secrets, ())
        deployment = Deployment(project, "anvil-router-edge", "", 30.0, 30.0, 30.0)
        edge = {**rendered["edge"], "dry_boot": False}
        rotation = token_rotation.Rotation(deployment, edge, "router_token", self.secrets, 0.1, False)
        return token_rotation.rotate_token(DockerEngine(self.bed.environment["DOCKER_HOST"]), rotation, False)

    def tokens(self) -> set[str]:
        engine = DockerEngine(self.bed.environment["DOCKER_HOST"])
        return {read_own_token(engine.inspect_container(name) or {}) for name in self.containers}


@dataclass
class External(Site):
    """The same two replicas, with one tier: a server that this collection does not manage. far: the key that they send it."""

    far: str = EXTERNAL_KEYS["old"]

    @property
    def secrets(self) -> dict[str, str]:
        return {**super().secrets, "far_key": self.far}

    def far_answers(self) -> bool:
        body = {"model": "far", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
        headers = {"Authorization": "Bearer " + KEY, "Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=10)
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("rotation")
    folder.chmod(0o755)
    bed.start_engine()
    bed.clear()
    bed.docker("network", "create", "anvil")
    bed.docker("run", "-d", "--name", "backend", "--network", "anvil", "--entrypoint", "python3", ROUTER_IMAGE, "-c", BACKEND)
    made = Site(bed, folder, f"anvil.local/router:{request.param}")
    made.bring_up()
    yield made
    bed.clear()


@pytest.mark.parametrize("site", ["2.0.2", "0.13.2"], indirect=True)
def test_a_new_token_fails_no_request(site: Site) -> None:
    assert site.rotate()["changed"] is False
    site.token = "second-" + "t" * 24
    predicted = site.rotate(check=True)
    assert predicted["changed"] and predicted["replaced"] == site.containers and len(site.tokens()) == 1
    load = Load(f"http://127.0.0.1:{PORT}", 8, stream_seconds=1.0, token=KEY, pause=0.05).start()
    done = site.rotate()
    report = load.stop()
    assert not done["failed"] and done["changed"], done
    assert report.failed == 0 and report.short > 50 and report.streams > 4, report
    assert site.tokens() == {site.token} and site.statuses() == {"UP"}
    assert site.rotate()["changed"] is False
    rendered = site.render()
    again = run_module("anvil_router_up", project=rendered["router"], edge="anvil-router-edge", secrets=site.secrets)
    assert not again["changed"], again
    assert "second-" not in json.dumps([predicted, done]) + site.bed.docker("logs", "anvil-router-edge")


# After the first replica has the new token, and after the edge has turned to it: the two states that differ for requests.
STEPS = [("_replace", 1), ("_promote", 2)]


def end_after(name: str, last: int) -> Callable[..., Any]:
    """A step of the rotation that is killed when it has been carried out this often."""
    real = getattr(token_rotation, name)
    done: list[Any] = []

    def carry_out(*given: Any) -> Any:
        done.append(real(*given))
        if len(done) == last:
            raise KilledError
        return done[-1]

    return carry_out


@pytest.mark.parametrize("site", ["0.13.2"], indirect=True)
def test_the_next_run_finishes_what_a_kill_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under load: no request fails, neither meanwhile nor in the run that finishes."""
    load = Load(f"http://127.0.0.1:{PORT}", 4, stream_seconds=0.5, token=KEY, pause=0.05).start()
    for number, (name, last) in enumerate(STEPS):
        site.token = f"killed-{number}-" + "t" * 24
        with monkeypatch.context() as patched, pytest.raises(KilledError):
            patched.setattr(token_rotation, name, end_after(name, last))
            site.rotate_here()
        site.rotate_here()
        assert site.tokens() == {site.token} and site.statuses() == {"UP"}, (name, last)
    report = load.stop()
    assert report.failed == 0 and report.short > 50, report


@pytest.mark.parametrize("site", ["0.13.2"], indirect=True)
def test_a_token_that_clients_present_is_refused(site: Site) -> None:
    site.token = "third-" + "t" * 24
    site.more = {"anvil_clients": {}}
    before = site.tokens()
    refused = site.rotate()
    assert refused["failed"] and "anvil_clients is not written" in refused["msg"] and site.tokens() == before
    site.more = {}


def start_external(bed: Bed, models: Path, *keys: str) -> None:
    """A real llama-server that this collection does not manage. It accepts several keys, as an API of a provider does."""
    bed.run("docker", "rm", "--force", "external", check=False)
    bed.docker(
        "run", "-d", "--name", "external", "--network", "anvil", "--env", "LLAMA_API_KEY=" + ",".join(keys),
        "--volume", f"{models}:/models:ro", "anvil.local/llama-server:1", "-m", "/models/heavy.gguf", "--host", "0.0.0.0",
        "--port", "9100", "-c", "4096", "-np", "4", "-t", "1", "-a", "far",
    )  # fmt: skip


def test_the_key_of_an_external_server_changes_under_load(bed: Bed, models: Path, tmp_path: Path) -> None:
    """The server accepts both keys, the routers change one by one, and then the server drops the old key."""
    tmp_path.chmod(0o755)
    bed.start_engine()
    bed.clear()
    bed.docker("network", "create", "anvil")
    start_external(bed, models, *EXTERNAL_KEYS.values())
    site = External(bed, tmp_path, "anvil.local/router:2.0.2")
    site.more = {
        "anvil_serves": {},
        "anvil_external": {"far": {"host": "external", "port": 9100, "served_name": "far", "api_key": "far_key"}},
    }
    try:
        site.bring_up()
        wait_until(site.far_answers)
        load = Load(f"http://127.0.0.1:{PORT}", 4, token=KEY, model="far", streams=0.25, pause=0.05).start()
        site.far = EXTERNAL_KEYS["new"]
        rendered = site.render()
        rolled = run_module("anvil_router_up", project=rendered["router"], edge="anvil-router-edge", secrets=site.secrets)
        report = load.stop()
        assert not rolled["failed"] and rolled["changed"], rolled
        assert report.failed == 0 and report.short > 20, report
        start_external(bed, models, EXTERNAL_KEYS["new"])
        wait_until(site.far_answers)
    finally:
        bed.clear()
