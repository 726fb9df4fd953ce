"""One router and its config volume for promotion tests, with functions that inspect, stop and kill promotions."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import Place, Snapshot, hash_revision
from ansible_collections.anvil.serving.plugins.module_utils.promotion.volume_lock import lock_name
from ansible_collections.anvil.serving.plugins.module_utils.promotion.volume_reader import read_unmounted_snapshot
from conftest import COLLECTIONS
from harness import run_module

OLD_IMAGE, NEW_IMAGE = "anvil.local/router:0.13.2", "anvil.local/router:2.0.2"
NAMES = ("config.toml", "profile.json")

TIER = """
[[router.tiers]]
id = "heavy-local"
base_url = "http://127.0.0.1:9/v1"
model = "fake"
dialect = "openai"
context_limit = 8192
privacy = "local"
tool_support = true
auth_env = "ANVIL_HEAVY_KEY"
"""


def profile_config(version: str = "1", profile_path: str | None = "/etc/anvil/profile.json") -> str:
    line = f'profile_path = "{profile_path}"\n' if profile_path else ""
    return f'[router]\nmapping_version = "{version}"\n{line}{TIER}\n[router.presets]\nplanning = ["heavy-local"]\n'


def gateway_config(route: str = "llm.primary", server: str = "") -> str:
    return f'{server}[router]\n{TIER}\n[router.model_routes]\n"{route}" = "heavy-local"\n'


def profile_text(score: float = 0.9, **changes: Any) -> str:
    entry = {"tier_id": "heavy-local", "work_class": "planning", "decision": "allow", "quality_score": score,
             "sample_n": 4, "last_measured": "2026-07-04T00:00:00Z", "fingerprint": None}  # fmt: skip
    schema = "anvil-serving.router.profile_bootstrap/v2"
    return json.dumps({"schema": schema, "mode": "live", "entries": [{**entry, **changes}]})


CRASHING = profile_config(profile_path="/nowhere/profile.json")  # the loader accepts it; a router that starts with it exits


# Code that the launcher runs first: the process kills itself before the Nth call of one function of the product.
DIE_BEFORE = """
owner = importlib.import_module(base + 'module_utils.{room}')
for part in '{owner}'.split('.') if '{owner}' else ():
    owner = getattr(owner, part)
original, calls = getattr(owner, '{name}'), []
def counted(*args, **kwargs):
    calls.append(1)
    if len(calls) == {nth}:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)
setattr(owner, '{name}', counted)
"""


# The same, but the process stops before every call, so that a test can inspect the state; SIGCONT lets it continue.
STOP_BEFORE = DIE_BEFORE.replace("len(calls) == {nth}", "True").replace("SIGKILL", "SIGSTOP")


def spawn_promotion(before: str, given: dict[str, Any]) -> subprocess.Popen[str]:
    return spawn_module("anvil_router_promote", before, given)


def spawn_module(which: str, before: str, given: dict[str, Any]) -> subprocess.Popen[str]:
    """Run a module in a separate process; ``before`` is code that runs there first."""
    code = (
        f"import sys, json, os, signal, importlib\nsys.path.insert(0, {str(COLLECTIONS)!r})\n"
        "from ansible.module_utils.testing import patch_module_args\n"
        "base = 'ansible_collections.anvil.serving.plugins.'\n"
        f"module = importlib.import_module(base + 'modules.{which}')\n"
        f"{before}\n"
        "with patch_module_args(json.loads(sys.argv[1])):\n    module.main()\n"
    )
    arguments = json.dumps({**given, "_ansible_check_mode": False, "_ansible_diff": False})
    return subprocess.Popen([sys.executable, "-c", code, arguments], stdout=subprocess.PIPE, text=True)


@dataclass
class Site:
    """One router container and its config volume, under names of its own."""

    api: docker.APIClient
    engine: DockerEngine
    name: str
    image: str = OLD_IMAGE

    @property
    def volume(self) -> str:
        return self.name + "-cfg"

    @property
    def place(self) -> Place:
        return Place(self.volume, "/etc/anvil", self.name, NAMES)

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of a quick promotion; a test of the dry boot or of the observation time overrides them."""
        base = {"container": self.name, "volume": self.volume, "image": self.image}
        return {**base, "settle": 0.1, "grace": 5, "dry_boot": False}

    def promote(self, **given: Any) -> dict[str, Any]:
        return run_module("anvil_router_promote", **{**self.parameters, **given})

    def info(self, **given: Any) -> dict[str, Any]:
        base = {key: self.parameters[key] for key in ("container", "volume", "image")}
        return run_module("anvil_router_info", **{**base, **given})

    def start_router(
        self, environment: dict[str, str] | None = None, command: list[str] | None = None, mounts: list[Any] | None = None
    ) -> str:
        """Start the router without a stop signal in its container: the product must know the signal that ends it at once. A
        Docker Engine that shuts down does not know that signal and waits for the stop timeout, which is therefore short."""
        made = self.api.create_container(
            self.image,
            command,
            entrypoint=[] if command else None,
            name=self.name,
            ports=[8000],
            environment=environment,
            stop_timeout=1,
            host_config=self.api.create_host_config(
                binds=[f"{self.volume}:/etc/anvil:ro"],
                mounts=mounts,
                port_bindings={8000: ("127.0.0.1",)},
                restart_policy={"Name": "unless-stopped"},
            ),
        )
        self.api.start(made)
        return str(made["Id"])

    def inspect(self) -> dict[str, Any]:
        return dict(self.api.inspect_container(self.name))

    def url(self) -> str:
        port = self.inspect()["NetworkSettings"]["Ports"]["8000/tcp"][0]["HostPort"]
        return f"http://127.0.0.1:{port}"

    def healthz(self) -> int:
        try:
            with urllib.request.urlopen(self.url() + "/healthz", timeout=2) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as exc:
            return exc.code
        except (OSError, KeyError, TypeError, docker.errors.APIError):  # a container that does not run has no port
            return 0

    def wait_healthy(self) -> None:
        wait_until(lambda: self.healthz() == 200)

    def snapshot(self) -> Snapshot:
        return read_unmounted_snapshot(self.engine, self.image, self.place)

    def live_files(self) -> dict[str, str]:
        return {name: content.decode() for name, content in self.snapshot().observed().items()}

    def write_plain(self, files: dict[str, str]) -> None:
        """Write plain files into the volume, as anvil-serving itself does."""
        script = "import json,sys,pathlib\n[pathlib.Path('/v',n).write_text(t) for n,t in json.loads(sys.argv[1]).items()]"
        self.engine.run_side_container(
            self.image,
            ["-c", script, json.dumps(files)],
            entrypoint=["python3"],
            user="0",
            host_config={"binds": [f"{self.volume}:/v"], "network_mode": "none"},
        )

    def spawn(self, before: str = "", **given: Any) -> subprocess.Popen[str]:
        """Run the module in a separate process, which a test can kill; ``before`` is code that runs there first."""
        return spawn_promotion(before, {**self.parameters, **given})

    def clean(self) -> None:
        for name in (self.name, lock_name(self.volume)):
            self.engine.remove_container(name)
        with contextlib.suppress(docker.errors.NotFound):
            self.api.remove_volume(self.volume, force=True)


def wait_until(condition: Callable[[], Any], seconds: float = 20.0, every: float = 0.05) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"timed out after {seconds:g} s"
        time.sleep(every)


def new_site(image: str = OLD_IMAGE) -> Site:
    address = os.environ.get("DOCKER_HOST")
    if not address:
        pytest.fail("DOCKER_HOST does not name the test-bed's Docker Engine; run: tests/testbed/bed.py run -- pytest ...")
    return Site(
        docker.APIClient(base_url=address, version="1.43"), DockerEngine(address), "promote-" + uuid.uuid4().hex[:10], image
    )


def assert_whole(site: Site, *allowed: dict[str, str]) -> None:
    """Assert that the volume holds exactly one of the allowed sets of files, and that the live revision is named by its hash."""
    files = site.live_files()
    assert files in allowed, files
    snapshot = site.snapshot()
    assert snapshot.live is None or hash_revision(snapshot.files_of(snapshot.live)) == snapshot.live


def journal_state(site: Site) -> str:
    found = site.engine.read_archive(site.name, "/etc/anvil/.anvil/journal")
    for state in (b"switching", b"going back", b"written", b"done"):
        if found and b'"state": "' + state in found[1]:
            return state.decode()
    return ""


def make_folder_after_the_first_failure(folder: str) -> str:
    """Code that the launcher runs first: it creates the missing folder after the first restart, which the Docker Engine refuses
    because of it. Later restarts succeed."""
    return f"""
engine = importlib.import_module(base + 'module_utils.docker.docker_engine')
restart = engine.DockerEngine.restart_container
def mended(self, *args):
    try:
        restart(self, *args)
    finally:
        os.makedirs({folder!r}, exist_ok=True)
engine.DockerEngine.restart_container = mended
"""


# Code that the launcher runs first: the announced description of a file differs from the sent content.
ALTER = """
volume_writer = importlib.import_module(base + 'module_utils.promotion.volume_writer')
describe = volume_writer._describe_content
def altered(content):
    described = describe(content)
    {change}
    return described
volume_writer._describe_content = altered
"""


def kill_before(spawn: Callable[..., subprocess.Popen[str]], step: tuple[str, str, str, int], **given: Any) -> bool:
    """Run a promotion that is killed before the Nth call of a function; return whether it got that far."""
    room, owner, name, nth = step
    killed = spawn(DIE_BEFORE.format(room=room, owner=owner, name=name, nth=nth), **given)
    killed.communicate(timeout=120)
    return killed.returncode == -signal.SIGKILL


def halt_before(spawn: Callable[..., subprocess.Popen[str]], room: str, owner: str, name: str, **given: Any) -> Halted:
    """Start a promotion that stops before every call of a function; returns when it has stopped before the first."""
    return Halted(spawn(STOP_BEFORE.format(room=room, owner=owner, name=name), **given))


class Halted:
    """A stopped promotion."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._wait()

    def _wait(self) -> None:
        stat = Path(f"/proc/{self.process.pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] in "TZ")
        assert self.process.poll() is None, "the promotion ended before it called the function"

    def go_on(self) -> None:
        """Continue to the next call."""
        self.process.send_signal(signal.SIGCONT)
        self._wait()

    def finish(self) -> dict[str, Any]:
        """Continue to the end, with no further call of the function; return the module's result."""
        self.process.send_signal(signal.SIGCONT)
        answer: dict[str, Any] = json.loads(self.process.communicate(timeout=60)[0])
        return answer

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()
