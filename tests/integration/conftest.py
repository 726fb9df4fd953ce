"""Integration tests run inside the test-bed: ``tests/testbed/bed.py run -- pytest tests/integration``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bed import FAKOLI_DARK, Bed, wait_until
from conftest import REPO
from installed import Installed, install
from routersite import OLD_IMAGE, Site, new_site, profile_config, profile_text
from workflowserver import Endpoint

OUTSIDE, HERE = "198.51.100.2", "198.51.100.1"
PHRASES = {"heavy": "the heavy tier answers", "fast": "the fast tier answers"}


@pytest.fixture(scope="session")
def bed() -> Bed:
    """The test-bed; ends the session outside of it, so that no other Docker Engine is ever used."""
    found = Bed()
    if not found.is_inside():
        pytest.exit("integration tests run inside the test-bed: make integration", returncode=2)
    return found


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one tiny model per tier; each answers with a phrase of its own."""
    folder = tmp_path_factory.mktemp("models")
    folder.chmod(0o755)
    for name, phrase in PHRASES.items():
        generator = [sys.executable, str(REPO / "bootstrap" / "tinymodel.py")]
        subprocess.run([*generator, str(folder / f"{name}.gguf"), "--phrase", phrase, "--name", name], check=True)
    return folder


@pytest.fixture
def clean_bed(bed: Bed) -> Iterator[Bed]:
    """A bed without containers, volumes and networks of earlier tests, with both cards."""
    bed.start_engine()
    bed.clear()
    bed.write_gpus(FAKOLI_DARK)
    yield bed
    bed.start_engine()
    bed.clear()
    bed.write_gpus(FAKOLI_DARK)


@pytest.fixture
def field(clean_bed: Bed, models: Path, tmp_path: Path) -> Any:
    """Two serves that are not started."""
    from serving import make_field  # the collection is importable only once tests/conftest.py has run

    return make_field(clean_bed, models, tmp_path / "anvil")


@pytest.fixture(scope="module")
def chain(request: pytest.FixtureRequest, bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A router and tiers that run for all tests of a file, with workflows on top. ``SITE`` of the file: more variables."""
    from workflowsite import make_chain

    bed.start_engine()
    bed.clear()
    yield make_chain(bed, tmp_path_factory.mktemp("chain"), getattr(request.module, "SITE", {}))
    bed.clear()


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The collection as its users have it, installed from the archive."""
    return install(tmp_path_factory.mktemp("tarball"))


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A model endpoint on loopback whose answers a test chooses."""
    made = Endpoint()
    yield made
    made.close()


@pytest.fixture
def make_site() -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(image: str = OLD_IMAGE) -> Site:
        made.append(new_site(image))
        return made[-1]

    yield make
    for site in made:
        site.clean()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


@pytest.fixture
def running(site: Site) -> Site:
    """A profile router that runs its first revision."""
    assert site.promote(config=profile_config(), profile=profile_text())["changed"]
    site.start_router()
    site.wait_healthy()
    return site


@pytest.fixture
def outside() -> Iterator[str]:
    """Another machine beside the host, which has no route to the containers: the address of a web server on it."""
    machine = subprocess.Popen(["unshare", "--net", "sleep", "120"])
    inside = ["nsenter", "--net", f"--target={machine.pid}"]

    def do(*argv: str, check: bool = True) -> None:
        subprocess.run(argv, check=check, capture_output=True)

    own = os.readlink("/proc/self/ns/net")
    wait_until("the other machine", lambda: os.readlink(f"/proc/{machine.pid}/ns/net") != own)
    do("ip", "link", "add", "wire0", "type", "veth", "peer", "name", "wire1")
    do("ip", "link", "set", "wire1", "netns", str(machine.pid))
    do("ip", "address", "add", f"{HERE}/30", "dev", "wire0")
    do("ip", "link", "set", "wire0", "up")
    do(*inside, "ip", "address", "add", f"{OUTSIDE}/30", "dev", "wire1")
    do(*inside, "ip", "link", "set", "wire1", "up")
    server = subprocess.Popen([*inside, "python3", "-m", "http.server", "8000", "--bind", OUTSIDE], stderr=subprocess.DEVNULL)
    yield OUTSIDE
    for process in (server, machine):
        process.kill()
        process.wait()
    do("ip", "link", "delete", "wire0", check=False)
