"""The compiled image of llama.cpp. It takes minutes to build, so only `make llama` runs these tests."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from bed import Bed, wait_until
from compiled import IMAGE, play_images, serve_folder

MEGABYTE = 1_000_000


@pytest.fixture(scope="module", autouse=True)
def compiled(bed: Bed) -> None:
    if not bed.docker("images", "--quiet", IMAGE):
        pytest.skip("the image is not built; run: make llama")


def complete(url: str, model: str) -> str:
    """Return the answer of a model."""
    body = {"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": "Who are you?"}]}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return str(json.load(reply)["choices"][0]["message"]["content"])


@pytest.fixture(scope="module")
def content(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's file system, as a tar."""
    path = tmp_path_factory.mktemp("image") / "root.tar"
    made = bed.docker("create", IMAGE)
    with path.open("wb") as out:
        subprocess.run(["docker", "export", made], stdout=out, check=True)
    bed.docker("rm", made)
    return path


@pytest.fixture
def server(clean_bed: Bed, models: Path) -> Iterator[Bed]:
    run = ["run", "--detach", "--name", "compiled", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--init"]
    options = ["--security-opt", "no-new-privileges", "--publish", "127.0.0.1:8080:8080", "--volume", f"{models}:/models:ro"]
    clean_bed.docker(*run, *options, IMAGE, "--model", "/models/fast.gguf", "--alias", "fast", "-c", "1024")
    wait_until("the server", lambda: "listening" in logs(clean_bed))
    yield clean_bed


def logs(bed: Bed) -> str:
    done = bed.run("docker", "logs", "compiled")
    return done.stdout + done.stderr


def test_the_image_is_small_and_holds_only_the_server_and_its_libraries(bed: Bed, content: Path) -> None:
    assert int(bed.docker("image", "inspect", "--format", "{{.Size}}", IMAGE)) <= 60 * MEGABYTE
    with tarfile.open(content) as tar:
        files = {member.name for member in tar if member.isfile()}
        (link,) = [member.linkname for member in tar if member.name == "usr/local/bin/llama-server"]
    assert link == "/opt/llama/llama-server" and "opt/llama/llama-server" in files
    assert not [name for name in files if "/bin/" in name and not name.startswith("opt/")]  # no shell, no compiler
    assert len([name for name in files if "libggml-cpu-" in name]) > 5
    assert bed.docker("image", "inspect", "--format", "{{.Config.User}} {{.Config.StopSignal}}", IMAGE) == "10001:10001 SIGTERM"


def test_the_server_runs_without_capabilities_and_picks_its_cpu_variant(server: Bed) -> None:
    assert "the fast tier answers" in complete("http://127.0.0.1:8080", "fast")
    maps = server.docker("top", "compiled", "-o", "pid,comm").splitlines()
    pid = next(line.split()[0] for line in maps if "llama-server" in line)
    loaded = {line.rpartition("/")[2] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "libggml-cpu-" in line}
    assert len(loaded) == 1 and loaded != {"libggml-cpu-x64.so"}, loaded
    for word in ("Exec format error", "Permission denied"):
        assert word not in logs(server)
    began = time.monotonic()
    server.docker("stop", "--time", "20", "compiled")
    assert time.monotonic() - began < 10 and server.docker("inspect", "--format", "{{.State.ExitCode}}", "compiled") in (
        "0",
        "143",
    )


def test_an_image_is_made_from_a_prebuilt_archive(bed: Bed, content: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "--extract", "--file", content, "--directory", tmp_path, "opt/llama"], check=True)
    with tarfile.open(tmp_path / "llama.tar.gz", "w:gz") as packed:
        packed.add(tmp_path / "opt" / "llama", "release")
    sha256 = hashlib.sha256((tmp_path / "llama.tar.gz").read_bytes()).hexdigest()
    with serve_folder(tmp_path) as http:
        prebuilt = {"url": f"http://127.0.0.1:{http.server_address[1]}/llama.tar.gz", "sha256": sha256}
        llama = {"prebuilt": prebuilt, "build_base": "anvil.local/builder:1", "build_packages": []}
        entry = {"name": "anvil.test/llama", "stack": "llama_cpp", "tag": "prebuilt", "base": "scratch", "llama": llama}
        done = play_images(entry)
    assert done.returncode == 0, done.stdout
    try:
        told = bed.run("docker", "run", "--rm", "anvil.test/llama:llama-prebuilt", "--version")
        assert "version:" in told.stdout + told.stderr
    finally:
        names = bed.docker("images", "--format", "{{.Repository}}:{{.Tag}}", "anvil.test/llama").split()
        bed.docker("rmi", "--force", *names)
