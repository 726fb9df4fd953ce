"""anvil_model uploads weights from the controller to a simulated host over a real connection."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bed import Bed, Host
from conftest import COLLECTIONS, REPO

HOST = "air-gapped"
MIB = 1024 * 1024
LARGE = random.Random(3).randbytes(MIB + MIB // 2)
VOLUME = "/var/lib/docker/volumes/anvil-models/_data"
RECORDS = "/var/lib/docker/volumes/anvil-models/anvil-serving/data"


class Sender:
    """Runs one anvil_model task on the host."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host, self.folder = host, folder
        self.brought = folder / "brought"
        (self.brought / "sub").mkdir(parents=True)
        (self.brought / "config.json").write_text("{}")
        (self.brought / "empty.txt").write_text("")
        (self.brought / "sub" / "w.safetensors").write_bytes(LARGE)
        connection = "ansible_connection=community.docker.docker ansible_python_interpreter=/usr/bin/python3"
        (folder / "hosts").write_text(f"{HOST} {connection}\n")

    def options(self, **params: Any) -> dict[str, Any]:
        task = {"name": "org/name", "upload_from": str(self.brought), "volume": "anvil-models", "piece_mib": 1, "reserve_mib": 0}
        return {key: value for key, value in {**task, **params}.items() if value is not None}

    def start(self, *words: str, **params: Any) -> subprocess.Popen[str]:
        play = [{"hosts": "all", "gather_facts": False, "tasks": [{"anvil.serving.anvil_model": self.options(**params)}]}]
        (self.folder / "play.yml").write_text(json.dumps(play))
        argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(self.folder / "hosts")]
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "TMPDIR": str(self.folder),  # a killed run leaves a partial file there
        }
        argv += [str(self.folder / "play.yml"), *words]
        return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)

    def run(self, *words: str, **params: Any) -> dict[str, Any]:
        printed, _nothing = self.start(*words, **params).communicate(timeout=120)
        told: dict[str, Any] = json.loads(printed[printed.index("{") :])["plays"][0]["tasks"][0]["hosts"][HOST]
        return told

    def parts(self) -> dict[str, int]:
        """The size in bytes of each incomplete file on the host, by its opaque name."""
        listed = self.host.run("sh", "-c", f"cd {RECORDS}/org+name/parts 2>/dev/null && stat -c '%n %s' * || true")
        return {name: int(size) for name, size in (line.split() for line in listed.splitlines())}

    def sum_of(self, name: str) -> str:
        return self.host.run("sha256sum", f"{VOLUME}/org/name/{name}").split()[0]


def kill_family(pid: int) -> None:
    """Kill a process and its descendants with SIGKILL: a worker of Ansible has a session of its own."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    family = [pid]
    for one in family:
        family += [child for child, parent in parents.items() if parent == one]
    for one in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


@pytest.fixture(scope="module")
def up(bed: Bed) -> Iterator[Host]:
    bed.start_engine()
    bed.clear()
    yield bed.host_up(HOST)
    bed.host_down(HOST)


@pytest.fixture
def sender(up: Host, tmp_path: Path) -> Sender:
    up.run("sh", "-c", "docker volume rm -f anvil-models >/dev/null")
    return Sender(up, tmp_path)


def test_a_folder_of_the_controller_is_sent_once_and_later_only_its_missing_files(sender: Sender) -> None:
    told = sender.run("--check")
    assert (told["changed"], told["fetch"]["bytes"]) == (True, len(LARGE) + 2)
    assert sender.host.docker("volume", "ls", "--quiet") == ""
    first = sender.run()
    assert first["changed"] and first["fetch"] == told["fetch"], first
    assert first["seconds"]["mib_per_second"] > 0
    assert sender.sum_of("sub/w.safetensors") == hashlib.sha256(LARGE).hexdigest()
    assert not sender.run()["changed"]

    (sender.brought / "config.json").touch()  # a new time, the same content
    assert not sender.run()["changed"]
    (sender.brought / "config.json").write_text('{"new": 1}')
    assert sender.run()["fetch"] == {"files": ["config.json"], "bytes": 10}

    sender.host.run("truncate", "--size", "5", f"{VOLUME}/org/name/sub/w.safetensors")
    mended = sender.run()
    assert (mended["reasons"], mended["fetch"]["files"]) == (["damaged"], ["sub/w.safetensors"])
    assert sender.sum_of("sub/w.safetensors") == hashlib.sha256(LARGE).hexdigest()
    assert sender.host.run("sh", "-c", f"ls -A {RECORDS}/org+name").split() == [".lock", "manifest.json"]


def test_a_killed_upload_is_resumed_and_its_checksum_is_verified(sender: Sender) -> None:
    (sender.brought / "sub" / "w.safetensors").write_bytes(LARGE * 4)
    process = sender.start()
    deadline = time.monotonic() + 60
    while max(sender.parts().values(), default=0) < MIB:
        assert time.monotonic() < deadline and process.poll() is None
    kill_family(process.pid)
    process.wait()
    time.sleep(1)  # the remote process ends by itself
    came = max(sender.parts().values())
    assert MIB <= came < 4 * len(LARGE)
    sender.host.run("sh", "-c", f"! test -e {VOLUME}/org/name")
    done = sender.run()
    assert done["changed"], done
    assert sender.sum_of("sub/w.safetensors") == hashlib.sha256(LARGE * 4).hexdigest()
    assert done["seconds"]["mib_per_second"] > 0

    # A corrupted part is detected and discarded, and the file is sent again.
    (sender.brought / "sub" / "w.safetensors").write_bytes(LARGE[::-1])
    sums = hashlib.sha256(LARGE[::-1]).hexdigest()
    key = hashlib.sha256(f"sub/w.safetensors@{sums}".encode()).hexdigest()
    sender.host.run("sh", "-c", f"cd {RECORDS}/org+name && mkdir -p parts && printf spoilt > parts/{key}")
    refused = sender.run()
    assert refused["failed"] and "a file arrived with a different checksum than the controller announced" in refused["msg"], (
        refused
    )
    assert sender.sum_of("sub/w.safetensors") == hashlib.sha256(LARGE * 4).hexdigest()
    assert sender.run()["changed"] and sender.sum_of("sub/w.safetensors") == sums


def test_an_archive_is_checked_before_anything_is_sent(sender: Sender) -> None:
    archive = sender.folder / "m.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(sender.brought, ".")
    right = hashlib.sha256(archive.read_bytes()).hexdigest()
    packed = {"upload_from": str(archive)}
    wrong = sender.run(**packed, sha256="0" * 64)
    assert wrong["failed"] and "does not have the checksum" in wrong["msg"]
    assert "the model is not allowed" in sender.run(**packed, sha256=right, allowed=[{"sha256": "0" * 64}])["msg"]
    assert "not enough room" in sender.run(**packed, reserve_mib=10**9)["msg"]
    assert sender.host.docker("volume", "ls", "--quiet") in ("", "anvil-models")
    sender.host.run("sh", "-c", f"! test -e {VOLUME}/org/name")
    assert sender.run(**packed, sha256=right, allowed=[{"sha256": right}])["changed"]
    assert not sender.run(**packed, sha256=right)["changed"]
    assert sender.sum_of("sub/w.safetensors") == hashlib.sha256(LARGE).hexdigest()

    archive.write_bytes(archive.read_bytes()[:1000])
    assert "the weights to send cannot be read" in sender.run(**packed, name="cut")["msg"]
    assert "there is nothing to send" in sender.run(upload_from="/no/such/folder")["msg"]
