"""anvil_image on a real Docker Engine and registry: it rebuilds only on changes, leaks no secret, survives a killed builder."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bed import Bed, wait_until
from conftest import COLLECTIONS, REPO
from harness import run_module

BASE = "anvil.local/llama-server:1"
TOKEN = "hf_abcdefghijklmnopqrstuvwxyz012345"
DOCKERFILE = """\
ARG BASE
FROM ${BASE} AS fetch
USER 0:0
RUN --mount=type=secret,id=hf_token mkdir /out && wc -c < /run/secrets/hf_token > /out/length
FROM ${BASE}
COPY --from=fetch --chown=10001:10001 /out /models
COPY hello /usr/local/bin/hello
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/hello"]
"""
HELLO = "#!/bin/sh\necho $(id -u) $(cat /models/length)\n"
REPOSITORY = "anvil.test/image"
PYTHON = "anvil.local/base:1"


def image(**changes: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "name": REPOSITORY,
        "stack": "vllm",
        "tag": "v1",
        "base": BASE,
        "dockerfile": DOCKERFILE,
        "files": {"hello": HELLO},
        "build_secrets": {"hf_token": TOKEN},
        "network": "none",
    }
    asked["sbom_folder"] = "/tmp/anvil-test-images"
    check = changes.pop("check", False)
    return run_module("anvil_image", check=check, **{**asked, **changes})


@pytest.fixture
def images(clean_bed: Bed) -> Iterator[Bed]:
    def remove() -> None:
        found = clean_bed.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()
        ours = [name for name in found if "/image:" in name]
        if ours:
            clean_bed.docker("rmi", "--force", *ours)

    remove()
    yield clean_bed
    remove()


def test_an_image_is_built_once(images: Bed) -> None:
    predicted = image(check=True)
    assert (predicted["changed"], predicted["action"], predicted["image_id"]) == (True, "build", None)
    built = image()
    assert (built["action"], built["reasons"], built["reference"]) == ("build", ["missing"], predicted["reference"])
    assert built["reference"].startswith(f"{REPOSITORY}:vllm-") and f"{REPOSITORY}:vllm-v1" in built["tags"]
    again = image()
    assert (again["changed"], again["action"], again["image_id"]) == (False, "none", built["image_id"])
    assert images.docker("run", "--rm", f"{REPOSITORY}:vllm-v1") == f"10001 {len(TOKEN)}"


def test_a_built_image_has_a_list_of_its_packages_and_of_what_it_was_built_from(images: Bed, tmp_path: Path) -> None:
    # A stand-in for what a distribution and pip leave in an image: our base has no complete list of packages.
    deb = "\\nPackage: libthing\\nStatus: install ok installed\\nVersion: 1:2.0-3\\n"
    wheel = "mkdir -p /opt/p/Thing-1.2.dist-info && printf 'Name: Thing\\nVersion: 1.2\\n' > /opt/p/Thing-1.2.dist-info/METADATA"
    layers = f"FROM ${{BASE}}\nUSER 0\nRUN printf '{deb}' >> /var/lib/dpkg/status && {wheel}\nCOPY hello /hello\n"
    built = image(sbom_folder=str(tmp_path), base=PYTHON, dockerfile="ARG BASE\n" + layers)
    assert not built.get("warnings") and Path(built["sbom"]).parent == tmp_path
    bill = json.loads(Path(built["sbom"]).read_text())
    assert (bill["bomFormat"], bill["specVersion"], bill["metadata"]["component"]["version"]) == (
        "CycloneDX",
        "1.5",
        built["image_id"],
    )
    names = {one["purl"].split("@")[0] for one in bill["components"]}
    assert {"pkg:deb/debian/libthing", "pkg:pypi/thing"} <= names
    origin = {one["name"]: one["value"] for one in bill["metadata"]["properties"]}
    assert origin["anvil:base_id"] == images.docker("image", "inspect", "--format", "{{.Id}}", PYTHON)
    assert len(origin["anvil:file_sha256:hello"]) == 64 and TOKEN not in json.dumps(bill)
    assert image(sbom_folder=str(tmp_path), base=PYTHON, dockerfile="ARG BASE\n" + layers)["sbom"] == ""
    # An image without Python: its packages are read without starting it.
    bare = f"ARG BASE\nFROM ${{BASE}} AS one\nUSER 0\nRUN printf '{deb}' > /status\n"
    bare += "FROM scratch\nCOPY --from=one /status /var/lib/dpkg/status\n"
    plain = image(sbom_folder=str(tmp_path), dockerfile=bare, files={})
    assert [one["name"] for one in json.loads(Path(plain["sbom"]).read_text())["components"]] == ["libthing"]


def test_every_change_of_content_makes_another_image(images: Bed, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.gguf").write_text("GGUF")
    first = image()
    seen = {first["reference"]}
    for change in (
        {"files": {"hello": HELLO + "\n"}},
        {"build_args": {"A": "1"}},
        {"folders": {"weights": str(tmp_path / "weights")}},
    ):
        seen.add(image(check=True, **change)["reference"])
    (tmp_path / "weights" / "model.gguf").write_text("GGUG")
    seen.add(image(check=True, folders={"weights": str(tmp_path / "weights")})["reference"])
    assert len(seen) == 5
    assert image(check=True, tag="v2")["action"] == "tag"
    # Another value of a secret is no change.
    assert not image(build_secrets={"hf_token": TOKEN[::-1]})["changed"]


def test_a_replaced_base_is_a_reason_to_build(images: Bed) -> None:
    images.docker("tag", BASE, "anvil.test/base/image:1")
    image(base="anvil.test/base/image:1")
    images.docker("tag", "anvil.local/registry:2", "anvil.test/base/image:1")
    assert image(base="anvil.test/base/image:1", check=True)["reasons"] == ["base"]


def test_a_moved_tag_is_set_again(images: Bed) -> None:
    image()
    images.docker("tag", BASE, f"{REPOSITORY}:vllm-v1")
    moved = image()
    assert (moved["action"], moved["reasons"]) == ("tag", ["tag"]) and not image()["changed"]


def test_no_layer_and_no_history_contains_a_secret(images: Bed, tmp_path: Path) -> None:
    built = image()
    assert TOKEN not in json.dumps(built)
    with (tmp_path / "image.tar").open("wb") as saved:
        subprocess.run(["docker", "save", built["reference"]], stdout=saved, check=True)
    layers = 0
    with tarfile.open(tmp_path / "image.tar") as saved_tar:
        for member in saved_tar:
            content = saved_tar.extractfile(member)
            raw = content.read() if content else b""
            assert TOKEN.encode() not in raw, member.name
            layers += member.name.startswith("blobs/") or member.name.endswith("layer.tar")
    assert layers > 3
    assert TOKEN not in images.docker("history", "--no-trunc", built["reference"])
    assert TOKEN not in images.docker("image", "inspect", built["reference"])


def test_a_failed_build_shows_the_end_of_its_log_and_leaves_no_image(images: Bed) -> None:
    broken = DOCKERFILE.replace("mkdir /out", "cat /run/secrets/hf_token && echo before-the-end && false")
    failed = image(dockerfile=broken)
    assert failed["failed"] and "before-the-end" in failed["msg"] and TOKEN not in json.dumps(failed)
    assert REPOSITORY not in images.docker("images", "--format", "{{.Repository}}")
    assert image()["action"] == "build"


def test_a_missing_weights_folder_is_an_error_before_the_build(images: Bed) -> None:
    failed = image(folders={"weights": "/no/such/folder"})
    assert failed["failed"] and "is not there" in failed["msg"] and "/no/such/folder" in failed["msg"]


def test_an_image_contains_its_weights_once(images: Bed, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "model.gguf").write_bytes(os.urandom(8 << 20))
    dockerfile = "ARG BASE\nFROM ${BASE}\nCOPY --from=weights --chown=10001:10001 / /models/\nUSER 10001:10001\n"
    built = image(dockerfile=dockerfile, folders={"weights": str(tmp_path / "w")}, files={}, build_secrets={})
    base, made = (int(images.docker("image", "inspect", "--format", "{{.Size}}", name)) for name in (BASE, built["reference"]))
    assert 8 << 20 <= made - base < 9 << 20


def _pid_of(*words: str) -> int:
    """The pid of a process whose command line contains all of the words; 0 if there is none."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if all(word.encode() in line for word in words):
                return int(path.parent.name)
    return 0


def _megabytes(bed: Bed) -> int:
    """MiB of the Docker Engine's images, containers and build cache, without its mounts."""
    argv = ("du", "--summarize", "--one-file-system", "--block-size=1M", str(bed.data))
    return int(bed.run(*argv, check=False).stdout.split()[0])  # du fails on files that are removed while it runs


@pytest.mark.parametrize(
    ("victim", "told"),
    [("run", ""), ("client", "docker buildx build was killed by signal 9"), ("engine", "the image could not be built")],
)
def test_a_killed_builder_leaves_nothing_and_the_next_run_converges(images: Bed, victim: str, told: str) -> None:
    pause = f"4.{time.time_ns() % 10**6:06d}"  # unique, so that no build cache of an earlier run has the step
    slow = DOCKERFILE.replace("mkdir /out", f"mkdir /out && head -c 100000000 /dev/urandom > /big && sleep {pause} && rm /big")
    script = (
        "import json, sys; sys.path[:0] = json.loads(sys.argv[1]); import test_image as t; "
        "print(json.dumps(t.image(dockerfile=sys.argv[2], tag=sys.argv[3])))"
    )
    argv = [sys.executable, "-c", script, json.dumps(sys.path), slow, f"v{pause}"]
    before = _megabytes(images)
    child = subprocess.Popen(argv, cwd=Path(__file__).parent, start_new_session=True, stdout=subprocess.PIPE, text=True)
    wait_until("the builder", lambda: _pid_of(f"sleep\0{pause}\0") != 0, 60)
    if victim == "run":
        os.killpg(child.pid, signal.SIGKILL)
    elif victim == "client":
        os.kill(_pid_of("docker\0-H\0", "buildx\0build", str(images.socket)), signal.SIGKILL)
    else:
        images.stop_engine(signal.SIGKILL)
        images.start_engine()
    answer = child.communicate(timeout=60)[0]
    if told:  # what a client prints when its engine is killed depends on the moment: tests/unit/images has its lines
        failed = json.loads(answer)
        assert failed["failed"] and told in failed["msg"] and "no part of it is kept" in failed["msg"], failed["msg"]
    wait_until("the step to end", lambda: _pid_of(f"sleep\0{pause}\0") == 0, 60)
    assert REPOSITORY not in images.docker("images", "--format", "{{.Repository}}") and not images.docker(
        "ps", "--all", "--quiet"
    )
    wait_until("removal of the unfinished build", lambda: _megabytes(images) < before + 50, 60)
    assert image(dockerfile=slow)["action"] == "build" and not image(dockerfile=slow)["changed"]


# ------------------------------------------------------------------------------------------------------------ registry

# printf of htpasswd -B: user ci, password "let me in"
HTPASSWD = "ci:$2b$04$2Lzo09aBy3R9TCNHjSAVRO.rR3pql5yuMEJjdOYNVrOabUPIZ9lPe\n"


@pytest.fixture
def registry(images: Bed, tmp_path: Path) -> str:
    """A registry with a password; its address as the Docker Engine sees it."""
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    images.docker(
        "run", "--detach", "--name", "registry", "--volume", f"{tmp_path}:/auth:ro",
        "--env", "REGISTRY_AUTH=htpasswd", "--env", "REGISTRY_AUTH_HTPASSWD_REALM=bed",
        "--env", "REGISTRY_AUTH_HTPASSWD_PATH=/auth/htpasswd", "anvil.local/registry:2",
    )  # fmt: skip
    address = images.docker("inspect", "--format", "{{.NetworkSettings.IPAddress}}", "registry")
    time.sleep(0.5)
    return f"{address}:5000"


def test_a_push_is_retried_while_the_registry_restarts(images: Bed, registry: str) -> None:
    images.docker("stop", "--time", "1", "registry")
    login = {"name": f"{registry}/team/image", "push": True, "username": "ci", "password": "let me in"}
    back = threading.Timer(1.0, images.docker, ("start", "registry"))
    back.start()
    pushed = image(**login)
    back.join()
    assert pushed.get("pushed") and pushed["digest"].startswith("sha256:"), pushed


def test_an_image_is_pushed_with_credentials_and_not_pushed_twice(images: Bed, registry: str) -> None:
    name = f"{registry}/team/image"
    assert not image(name=name)["pushed"]
    refused = image(name=name, push=True, username="ci", password="wrong")
    assert refused["failed"] and "refuses the credentials" in refused["msg"]
    anonymous = image(name=name, push=True)
    assert anonymous["failed"] and "did not accept the image" in anonymous["msg"]
    login = {"name": name, "push": True, "username": "ci", "password": "let me in"}
    pushed = image(**login)
    assert pushed["pushed"] and pushed["digest"].startswith("sha256:") and "let me in" not in json.dumps(pushed)
    assert not image(**login)["changed"]
    assert not (Path.home() / ".docker/config.json").exists() or registry not in (Path.home() / ".docker/config.json").read_text()
    images.docker("rmi", "--force", *pushed["tags"], f"{name}@{pushed['digest']}")
    assert image(**login, check=True)["action"] == "build"


# ---------------------------------------------------------------------------------------------------------------- role


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., str]:
    """Runs a playbook, or a role, with variables; returns its output. A home folder of its own keeps the logins.

    others: whether collections are found that are installed beside Ansible, such as community.docker.
    """

    def run(playbook: Path | str, *words: str, fails: bool = False, others: bool = True, **variables: Any) -> str:
        if isinstance(playbook, str):
            steps = {"hosts": "localhost", "connection": "local", "gather_facts": False, "roles": [{"role": playbook}]}
            playbook = tmp_path / "play.yml"
            playbook.write_text(json.dumps([steps]))
        variables["ansible_python_interpreter"] = sys.executable
        argv = [str(Path(sys.executable).with_name("ansible-playbook")), str(playbook), "-i", "localhost,", "-c", "local"]
        environment = {
            **os.environ,
            "HOME": str(tmp_path),
            "ANSIBLE_COLLECTIONS_SCAN_SYS_PATH": str(others),
            "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        }
        argv += [*words, "-e", json.dumps(variables)]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


ENTRY = {
    "name": REPOSITORY,
    "stack": "llama_cpp",
    "tag": "cpu",
    "base": BASE,
    "network": "none",
    "environment": {"GREETING": "it's $5"},
    "entrypoint": ["/usr/bin/env"],
}


def test_the_role_builds_an_image_that_does_not_run_as_root(images: Bed, play: Callable[..., str]) -> None:
    first, second = (play("anvil.serving.images", images_list=[ENTRY]) for _run in range(2))
    assert "changed=1" in first and "changed=0" in second, first + second
    told = json.loads(images.docker("image", "inspect", f"{REPOSITORY}:llama-cpu"))[0]["Config"]
    assert (told["User"], told["StopSignal"], told["Entrypoint"]) == ("10001:10001", "SIGTERM", ["/usr/bin/env"])
    environment = images.docker("run", "--rm", f"{REPOSITORY}:llama-cpu")
    assert "HOME=/home/anvil" in environment and "GREETING=it's $5" in environment
    refused = play("anvil.serving.images", images_list=[{**ENTRY, "weights": "baked"}], fails=True)
    assert "weights_folder is missing" in refused


def test_a_host_logs_in_builds_what_it_uses_pushes_it_and_logs_out(
    images: Bed, registry: str, play: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("let me in")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.gguf").write_text("GGUF")
    secret = "{{ lookup('ansible.builtin.file', '" + str(tmp_path / "password") + "') }}"
    serves = {
        "fast": {
            "engine": "llama_cpp",
            "image": "x:1",
            "model": "/models/m.gguf",
            "volumes": ["models:/models:ro"],
            "port": 30003,
        }
    }
    baked = {"name": "anvil.test/baked/image", "weights": "baked", "weights_folder": str(tmp_path / "weights")}
    inventory = {
        "anvil_registries": {registry: {"username": "ci", "password": "registry_password"}},
        "anvil_secrets": {"registry_password": secret},
        "anvil_serves": serves,
        "anvil_models_allowed": [{"sha256": "0" * 64}],
        "images_list": [{**ENTRY, "name": f"{registry}/team/image"}, {**ENTRY, "stack": "vllm"}],
        "images_select": "used",
        "images_push": True,
    }
    config, logins = tmp_path / ".docker" / "config.json", REPO / "playbooks" / "registries.yml"
    clear = play(logins, fails=True, **{**inventory, "anvil_secrets": {"registry_password": "let me in"}})
    assert "clear text" in clear and not config.exists()
    assert "changed=1" in play(logins, "--check", **inventory) and not config.exists()
    first, second = (play(logins, "-vvv", **inventory) for _run in range(2))
    assert "changed=1" in first and "changed=0" in second
    assert "let me in" not in first + second and registry in config.read_text() and not config.stat().st_mode & 0o077
    built = play("anvil.serving.images", **inventory)
    assert "the selected serves use no image of these stacks: vllm" in built
    name = f"{registry}/team/image:llama-cpu"
    assert "changed=1" in built and "changed=0" in play("anvil.serving.images", **inventory)
    refused = play("anvil.serving.images", fails=True, **{**inventory, "images_list": [{**ENTRY, **baked}]})
    assert "files have no known origin" in refused and "model.gguf" in refused
    images.docker("rmi", "--force", name)
    subprocess.run(["docker", "--config", str(config.parent), "pull", "--quiet", name], check=True, capture_output=True)
    assert "changed=1" in play(logins, "-e", "state=absent", **inventory) and registry not in config.read_text()
    alone = play(logins, fails=True, others=False, **inventory)
    assert "ansible-galaxy collection install community.docker" in alone


def test_prepare_brings_weights_and_bakes_those_that_are_allowed_without_another_collection(
    images: Bed, play: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "model.gguf").write_text("GGUF")
    baked = {"weights": "baked", "weights_folder": str(tmp_path / "models" / "tiny")}
    models = [{"name": "tiny", "copy_from": str(tmp_path / "from"), "folder": str(tmp_path / "models")}]
    inventory = {"models_list": models, "images_list": [{**ENTRY, **baked}]}
    prepare = REPO / "playbooks" / "prepare.yml"
    assert "changed=2" in play(prepare, "--check", **inventory)
    assert "changed=2" in play(prepare, others=False, **inventory)
    assert "changed=0" in play(prepare, **inventory)
    assert "changed=0" in play(REPO / "playbooks" / "models.yml", **inventory)


def test_prune_removes_images_of_ours_that_nothing_needs_and_nothing_else(
    images: Bed, play: Callable[..., str], tmp_path: Path
) -> None:
    def build(number: int, tag: str = "") -> str:
        reference: str = image(files={"hello": HELLO + f"# {number}\n"}, tag=tag)["reference"]
        return reference

    old, named, running, listed, spare = (build(number, "v1" if number == 3 else "") for number in range(5))
    argv = ["docker", "build", "--quiet", "--tag", "anvil.test/mine/image:1", "-"]
    subprocess.run(argv, input=f"FROM {old}\nRUN echo > /tmp/x\n", text=True, check=True, capture_output=True)
    images.docker("create", "--name", "stopped", running)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "kept.json").write_text(json.dumps({"image": named}))
    entry = {"name": REPOSITORY, "stack": "vllm", "tag": "v1", "base": BASE}
    inventory = {"anvil_root": str(tmp_path / "root"), "images_list": [entry]}

    def names() -> set[str]:
        return set(images.docker("images", "--all", "--format", "{{.Repository}}:{{.Tag}}").split())

    prune, before = REPO / "playbooks" / "prune.yml", names()
    predicted = play(prune, "--check", **inventory)
    assert "changed=1" in predicted and f"{old}: nothing needs it" in predicted and "images to remove: 1" in predicted
    assert f"{spare}: stays (kept for a roll back)" in predicted and f"{running}: stays (container stopped)" in predicted
    assert names() == before
    assert "changed=1" in play(prune, **inventory)
    assert "changed=0" in play(prune, others=False, **inventory)
    assert before - names() == {old} and {named, running, listed, spare} <= names()
    images.docker("rm", "stopped")


def test_an_image_for_another_platform_is_warned_about_before_it_is_built(images: Bed) -> None:
    other = {"x86_64": "linux/arm64"}.get(os.uname().machine, "linux/amd64")
    told = image(check=True, platform=other)
    assert told["action"] == "build" and f"the image is for {other}" in " ".join(map(str, told["warnings"]))


def test_images_go_to_a_host_in_an_archive_and_only_where_it_lacks_them(
    images: Bed, play: Callable[..., str], tmp_path: Path
) -> None:
    first = image(files={"hello": HELLO + "# archived\n"})["reference"]
    other = first.rpartition(":")[0] + ":again"
    images.docker("tag", first, other)
    export, load = REPO / "playbooks" / "export_images.yml", REPO / "playbooks" / "load_images.yml"
    archive = ("-e", f"archive={tmp_path}/images.tar")
    both = ("-e", f"images={first},{other}")
    assert "changed=1" in play(export, *archive, *both)
    assert "changed=0" in play(export, *archive, *both)
    # One name is gone, and the other was moved to another image.
    images.docker("rmi", "--force", first)
    images.docker("tag", BASE, other)
    predicted = play(load, *archive, *both, "--check")
    assert "changed=1" in predicted and f"{other}: loaded" in predicted and f"{first}: loaded" in predicted
    assert "changed=1" in play(load, *archive, *both)
    assert images.docker("image", "inspect", "--format", "{{.Id}}", first) and "changed=0" in play(load, *archive)
    assert "it holds" in play(load, *archive, "-e", "images=no:1", fails=True)
    assert "install community.docker" in play(load, *archive, fails=True, others=False)
