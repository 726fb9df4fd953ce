"""Images of llama.cpp are built from each source and for each kind of card. The source is a small project that compiles in a
second and prints the options that it was configured with; `make llama` compiles llama.cpp itself.
"""

from __future__ import annotations

import hashlib
import socket
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bed import REPO, Bed, BedError, wait_until
from compiled import play_images, serve_folder

REPOSITORY = "anvil.test/sources"
BUILDER = {"build_base": "anvil.local/builder:1", "build_packages": []}
PROJECT = {
    "CMakeLists.txt": """\
cmake_minimum_required(VERSION 3.18)
project(tiny C)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
string(REPLACE ";" "," ARCHITECTURES "${CMAKE_CUDA_ARCHITECTURES}")
set(TOLD "native=${GGML_NATIVE} variants=${GGML_CPU_ALL_VARIANTS} cuda=${GGML_CUDA}:${ARCHITECTURES} vulkan=${GGML_VULKAN}")
set(TOLD "${TOLD} build=${CMAKE_BUILD_TYPE} openmp=${GGML_OPENMP}")
add_library(ggml SHARED ggml.c)
target_compile_definitions(ggml PRIVATE "TOLD=\\"${TOLD}\\"")
add_executable(llama-server server.c)
target_link_libraries(llama-server PRIVATE ggml)
""",
    "ggml.c": "const char *told(void) { return TOLD; }\n",
    "server.c": "#include <stdio.h>\nconst char *told(void);\nint main(void) { return puts(told()) < 0; }\n",
}


@pytest.fixture
def images(clean_bed: Bed) -> Iterator[Bed]:
    yield clean_bed
    names = clean_bed.docker("images", "--format", "{{.Repository}}:{{.Tag}}", REPOSITORY).split()
    if names:
        clean_bed.docker("rmi", "--force", *names)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for name, text in PROJECT.items():
        (folder / name).write_text(text)
    return folder


def entry(tag: str, llama: dict[str, Any], base: str = "scratch", **more: Any) -> dict[str, Any]:
    return {"name": REPOSITORY, "stack": "llama_cpp", "tag": tag, "base": base, "llama": {**BUILDER, **llama}, **more}


def build(*asked: dict[str, Any], **variables: Any) -> None:
    done = play_images(*asked, **variables)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def refuse(*asked: dict[str, Any], **variables: Any) -> str:
    done = play_images(*asked, **variables)
    assert done.returncode, done.stdout
    return " ".join((done.stdout + done.stderr).split())


def run_server(bed: Bed, tag: str) -> str:
    """Return what the server of an image prints."""
    return bed.docker("run", "--rm", "--read-only", "--cap-drop", "ALL", f"{REPOSITORY}:llama-{tag}")


def pack(source: Path) -> str:
    """Pack the source into an archive beside it; return its checksum."""
    with tarfile.open(source.parent / "source.tar.gz", "w:gz") as packed:
        packed.add(source, "tiny-1")
    return hashlib.sha256((source.parent / "source.tar.gz").read_bytes()).hexdigest()


VARIANTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "cpu": ({}, "scratch", "native=OFF variants=ON cuda=: vulkan= build=Release openmp="),
    "native": (
        {"native": True, "cmake": ["-DGGML_OPENMP=OFF"]},
        "scratch",
        "native=ON variants= cuda=: vulkan= build=Release openmp=OFF",
    ),
    "vulkan": ({"gpu": "vulkan"}, "scratch", "native=OFF variants=ON cuda=: vulkan=ON build=Release openmp="),
    "cuda": (
        {"gpu": "cuda", "cuda_architectures": ["90", "120"]},
        "anvil.local/builder:1",
        "native=OFF variants=ON cuda=ON:90,120 vulkan= build=Release openmp=",
    ),
}


def test_an_archive_is_compiled_with_the_requested_options(images: Bed, source: Path) -> None:
    sha256 = pack(source)
    with serve_folder(source.parent) as server:
        archive = {"url": f"http://127.0.0.1:{server.server_address[1]}/source.tar.gz", "sha256": sha256}
        build(*(entry(tag, {"archive": archive, **options}, base) for tag, (options, base, _printed) in VARIANTS.items()))
        expected = {tag: printed for tag, (_options, _base, printed) in VARIANTS.items()}
        assert {tag: run_server(images, tag) for tag in VARIANTS} == expected
        refused = refuse(entry("wrong", {"archive": {**archive, "sha256": "0" * 64}}))
    assert "/archive: FAILED" in refused and "computed checksum did NOT match" in refused


@pytest.fixture
def repository(source: Path, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Serve a git repository with the tag v1 on loopback; its URL and commit."""
    git = ["git", "-C", str(source), "-c", "user.name=bed", "-c", "user.email=bed@localhost"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "tiny"], ["tag", "v1"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    commit = subprocess.run([*git, "rev-parse", "v1"], check=True, capture_output=True, text=True).stdout.strip()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = ["git", "daemon", "--export-all", "--reuseaddr", f"--base-path={tmp_path}", "--listen=127.0.0.1", f"--port={port}"]
    log = tmp_path / "daemon.log"
    with log.open("w") as stream, subprocess.Popen([*argv, "--verbose"], stderr=stream) as daemon:
        url = f"git://127.0.0.1:{port}/source"
        listed = ["git", "ls-remote", url]
        try:
            wait_until("git daemon", lambda: not subprocess.run(listed, capture_output=True, check=False).returncode)
        except BedError as error:
            daemon.terminate()
            raise BedError(f"{error}: {log.read_text()}") from None
        yield url, commit
        daemon.terminate()


def test_a_git_tag_is_compiled_and_a_moved_tag_is_refused(images: Bed, repository: tuple[str, str]) -> None:
    url, commit = repository
    pinned = {"url": url, "ref": "v1", "commit": commit}
    build(entry("git", {"git": pinned}, network="host"))
    assert "native=OFF variants=ON" in run_server(images, "git")
    refused = refuse(entry("moved", {"git": {**pinned, "commit": "0" * 40}}, network="host"))
    assert f"v1 is not commit {'0' * 40}: the tag was moved" in refused


BACKEND = """\
def prepare_metadata_for_build_wheel(folder, settings=None):
    import pathlib
    info = pathlib.Path(folder, "llama_cpp_python-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: llama-cpp-python\\nVersion: 1.0\\n")
    return info.name

def build_wheel(*_words):
    raise SystemExit("only the source is wanted")
"""
# A builder with pip and the Python of the same release.
WITH_PIP = """\
ARG BASE
FROM ${BASE}
COPY --from=anvil.local/base:1 /usr /usr
COPY --from=wheels *.whl /pip.whl
ENV PYTHONPATH=/pip.whl
"""


@pytest.fixture
def sdist(source: Path, tmp_path: Path) -> Path:
    """An index with a source distribution of llama-cpp-python, which contains llama.cpp; pip reads its name from its backend."""
    root, simple = tmp_path / "sdist", tmp_path / "simple" / "llama-cpp-python"
    (root / "vendor").mkdir(parents=True)
    simple.mkdir(parents=True)
    source.rename(root / "vendor" / "llama.cpp")
    (root / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: 1.0\n")
    (root / "backend.py").write_text(BACKEND)
    (root / "pyproject.toml").write_text('[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n')
    path = simple / "llama_cpp_python-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        packed.add(root, "llama_cpp_python-1.0")
    (simple / "index.html").write_text(f'<a href="{path.name}">{path.name}</a>')
    return path


def test_a_source_distribution_is_compiled_and_another_checksum_is_refused(images: Bed, sdist: Path, tmp_path: Path) -> None:
    (pip,) = (REPO / ".cache" / "wheels").glob("pip-*.whl")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / pip.name).write_bytes(pip.read_bytes())
    base: dict[str, Any] = {"name": REPOSITORY, "stack": "tool", "tag": "pip", "base": BUILDER["build_base"]}
    base.update(dockerfile=WITH_PIP, folders={"wheels": str(wheels)})
    pinned = {"version": "1.0", "sha256": hashlib.sha256(sdist.read_bytes()).hexdigest()}
    llama = {"sdist": pinned, "build_base": f"{REPOSITORY}:tool-pip"}
    with serve_folder(tmp_path) as server:
        secrets = {"pip_conf": f"[global]\nindex-url = http://127.0.0.1:{server.server_address[1]}/simple/\n"}
        build(base, entry("sdist", llama, network="host"), images_secrets=secrets)
        assert "native=OFF variants=ON" in run_server(images, "sdist")
        other = {**llama, "sdist": {**pinned, "sha256": "0" * 64}}
        refused = refuse(entry("other", other, network="host"), images_secrets=secrets)
    assert "DO NOT MATCH THE HASHES" in refused and "0" * 64 in refused


CONTROL = "Package: tiny-llama\nVersion: 1\nArchitecture: {0}\nMaintainer: the bed <bed@localhost>\n"
COMPILE = """\
cc -shared -fPIC -Wl,-soname,libggml.so '-DTOLD="packaged"' -o /package/usr/lib/libggml.so /source/ggml.c
cc -o /package/usr/bin/llama-server /source/server.c /package/usr/lib/libggml.so
"""


@pytest.fixture
def packages(bed: Bed, source: Path, tmp_path: Path) -> Path:
    """A flat apt repository with a package of a server and its library, like that of the distribution."""
    package, repo = tmp_path / "package", tmp_path / "repo"
    for folder in (package / "DEBIAN", package / "usr/bin", package / "usr/lib", repo):
        folder.mkdir(parents=True)
    mounts = ["--volume", f"{source}:/source:ro", "--volume", f"{package}:/package"]
    bed.docker("run", "--rm", *mounts, BUILDER["build_base"], "sh", "-ec", COMPILE)
    architecture = subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True).stdout.strip()
    control = CONTROL.format(architecture)
    (package / "DEBIAN" / "control").write_text(control + "Description: a server\n")
    argv = ["dpkg-deb", "--root-owner-group", "--build", str(package), str(repo / "tiny.deb")]
    subprocess.run(argv, check=True, capture_output=True)
    raw = (repo / "tiny.deb").read_bytes()
    listed = f"Filename: ./tiny.deb\nSize: {len(raw)}\nSHA256: {hashlib.sha256(raw).hexdigest()}\nDescription: a server\n"
    (repo / "Packages").write_text(control + listed)
    return repo


def test_the_server_is_taken_from_packages_of_the_distribution(images: Bed, packages: Path) -> None:
    with serve_folder(packages) as server:
        line = f"deb [trusted=yes] http://127.0.0.1:{server.server_address[1]}/ ./"
        dockerfile = f"ARG BASE\nFROM ${{BASE}}\nRUN mkdir -p /etc/apt && echo '{line}' > /etc/apt/sources.list\n"
        base = {"name": REPOSITORY, "stack": "tool", "tag": "apt", "base": "anvil.local/dockerhost:1", "dockerfile": dockerfile}
        of_base = {"build_base": f"{REPOSITORY}:tool-apt"}
        build(base, entry("apt", {"packages": ["tiny-llama"], **of_base}, network="host"))
        refused = refuse(entry("unknown", {"packages": ["no-such-llama"], **of_base}, network="host"))
    assert run_server(images, "apt") == "packaged"
    assert "Unable to locate package no-such-llama" in refused


TOOLS = """\
ARG BASE
FROM anvil.local/builder:1 AS tools
FROM ${BASE}
USER 0:0
COPY --from=tools /bin/bash /bin/grep /bin/sed /usr/bin/find /usr/bin/ldd /usr/bin/
COPY --from=tools /bin/tar /bin/gzip /usr/bin/
COPY --from=tools /usr/lib/*-linux-gnu/libtinfo.so.6 /usr/lib/*-linux-gnu/libpcre2-8.so.0 /usr/local/lib/
ENV LD_LIBRARY_PATH=/usr/local/lib
"""


def test_an_existing_server_is_taken_with_its_libraries(images: Bed, models: Path, tmp_path: Path) -> None:
    """The base contains the distribution's llama-server, as after apt has installed `packages`."""
    base = {"name": REPOSITORY, "stack": "tool", "tag": "server", "base": "anvil.local/llama-server:1", "dockerfile": TOOLS}
    made = images.docker("create", "anvil.local/llama-server:1")
    (tmp_path / "release").mkdir()
    images.docker("cp", f"{made}:/usr/bin/llama-server", str(tmp_path / "release"))
    with tarfile.open(tmp_path / "llama.tar.gz", "w:gz") as packed:
        packed.add(tmp_path / "release", "release")
    sha256 = hashlib.sha256((tmp_path / "llama.tar.gz").read_bytes()).hexdigest()
    with serve_folder(tmp_path) as server:
        prebuilt = {"url": f"http://127.0.0.1:{server.server_address[1]}/llama.tar.gz", "sha256": sha256}
        of_base = {"build_base": f"{REPOSITORY}:tool-server"}
        build(base, entry("packages", {"packages": [], **of_base}), entry("prebuilt", {"prebuilt": prebuilt, **of_base}))
    version = images.run("docker", "run", "--rm", "--read-only", f"{REPOSITORY}:llama-prebuilt", "--version")
    assert "version" in version.stdout + version.stderr
    run = ["run", "--detach", "--name", "taken", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--publish"]
    volume = ["127.0.0.1:8095:8080", "--volume", f"{models}:/m:ro"]
    images.docker(*run, *volume, f"{REPOSITORY}:llama-packages", "--model", "/m/fast.gguf", "-c", "512")
    wait_until("the server", lambda: is_healthy("http://127.0.0.1:8095/health"), 60)


def is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        time.sleep(0.1)
        return False
