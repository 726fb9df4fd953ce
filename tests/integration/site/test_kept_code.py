"""The code that a simulated host keeps: sent once for each version and user, never needed, and the same result either way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bed import FAKOLI_DARK, Bed, Host
from conftest import COLLECTIONS, REPO

NAME = "keeper"
FOLDER = ".ansible/anvil-serving"
SECRET = "s3cret-that-must-not-be-kept"
INFO = {"anvil.serving.anvil_host_info": {}}
SERVES = {
    "anvil.serving.anvil_serve_info": {
        "project": {"name": "p", "directory": "/opt/p", "compose": "services: {}\n", "services": {}},
        "secrets": {"key": SECRET},
    }
}


class Controller:
    """Plays tasks against the host, with a copy of the collection or with that of the checkout."""

    def __init__(self, folder: Path, collections: Path = COLLECTIONS) -> None:
        self.folder, self.collections = folder, collections
        folder.mkdir(exist_ok=True)
        variables = "ansible_connection=community.docker.docker ansible_python_interpreter=/usr/bin/python3"
        (folder / "hosts").write_text(f"{NAME} {variables}\n")

    def play(self, *tasks: dict[str, Any], words: tuple[str, ...] = (), **environment: str) -> tuple[list[dict[str, Any]], int]:
        """The result of each task, and how many commands ran on the host."""
        (self.folder / "play.yml").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
        argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts", "play.yml", "-vvv", *words]
        settings = {
            **os.environ,
            "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": f"{self.collections}:{COLLECTIONS}",
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANVIL_PROGRESS": "no",  # its token is another one in each run
            **environment,
        }
        done = subprocess.run(argv, cwd=self.folder, env=settings, capture_output=True, text=True, check=False)
        told = json.loads(done.stdout[done.stdout.index("\n{\n") :].rpartition("\n}")[0] + "\n}")
        results = [task["hosts"][NAME] for task in told["plays"][0]["tasks"]]
        assert not any(result.get("failed") for result in results), results
        for result in results:
            result.get("disk", {}).pop("free_mib", None)  # other processes use the disk too
        return results, done.stdout.count(f"<{NAME}> EXEC")


@pytest.fixture(scope="module")
def host(bed: Bed) -> Iterator[Host]:
    bed.clear()
    made = bed.host_up(NAME, FAKOLI_DARK)
    made.run("useradd", "--create-home", "keeper")
    made.run("chmod", "666", "/var/run/docker.sock")
    yield made
    bed.host_down(NAME)


@pytest.fixture
def controller(host: Host, tmp_path: Path) -> Controller:
    host.run("sh", "-c", f"umount /root/.ansible 2>/dev/null; rm -rf /root/.ansible /home/keeper/{FOLDER}")
    return Controller(tmp_path / "controller")


def kept(host: Host, home: str = "/root") -> list[str]:
    """Owner, mode, name and time of change of each file."""
    return host.run("sh", "-c", f"find {home}/{FOLDER} -name '*.zip' -printf '%u %m %f %C@\\n' 2>/dev/null || true").splitlines()


def test_code_is_sent_once_and_gives_the_results_that_ansibles_own_way_gives(controller: Controller, host: Host) -> None:
    whole, commands = controller.play(INFO, SERVES, ANSIBLE_KEEP_REMOTE_FILES="1")
    host.run("rm", "-rf", "/root/.ansible", "/tmp/ansible_*")
    first, first_commands = controller.play(INFO, SERVES)
    assert first_commands == 3  # the first task calls twice
    (file,) = kept(host)
    assert file.startswith("root 600 ")
    second, second_commands = controller.play(INFO, SERVES)
    assert second_commands == 2 and kept(host) == [file]
    assert whole == first == second
    piped, _commands = controller.play(INFO, SERVES, ANSIBLE_PIPELINING="0")
    checked, _commands = controller.play(INFO, SERVES, words=("--check", "--diff"))
    assert piped == checked == first and kept(host) == [file] and commands > 2
    assert host.run("sh", "-c", f"grep -rl {SECRET} /root /tmp || true") == ""
    assert host.run("ls", "/root/.ansible/tmp") == ""


def test_a_task_in_the_background_is_sent_whole(controller: Controller, host: Host) -> None:
    ended, _commands = controller.play({**INFO, "async": 60, "poll": 1})
    assert [gpu["uuid"] for gpu in ended[0]["gpus"]] == [gpu.uuid for gpu in FAKOLI_DARK]
    assert kept(host) == []


def test_two_versions_of_the_collection_take_turns(controller: Controller, host: Host, tmp_path: Path) -> None:
    other = tmp_path / "collections" / "ansible_collections" / "anvil" / "serving"
    for name in ("plugins", "meta", "galaxy.yml"):
        copy = shutil.copytree if (REPO / name).is_dir() else shutil.copy
        other.mkdir(parents=True, exist_ok=True)
        copy(REPO / name, other / name)
    room = other / "plugins/module_utils/host/host_facts.py"
    room.write_text(room.read_text() + "\n# another version\n")
    newer = Controller(tmp_path / "newer", other.parents[2])
    old, _commands = controller.play(INFO)
    new, _commands = newer.play(INFO)
    files = kept(host)
    assert len(files) == 2 and old == new
    assert (controller.play(INFO), newer.play(INFO)) == ((old, 1), (new, 1))
    assert kept(host) == files


def test_each_user_has_code_of_its_own_and_one_without_a_home_works(controller: Controller, host: Host) -> None:
    tasks = [{**INFO, "become": True, "become_user": user} for user in ("keeper", "nobody", "root")]
    results, commands = controller.play(*tasks, *tasks)
    assert results[0] == results[1] == results[2] and results[3:] == results[:3]
    assert commands == (2 + 3 + 2) + 3  # nobody tries to keep the code, once
    owners = [kept(host, home)[0].split()[0] for home in ("/home/keeper", "/root")]
    assert owners == ["keeper", "root"]


def test_a_home_that_cannot_be_written_costs_one_attempt(controller: Controller, host: Host) -> None:
    host.run("mkdir", "-p", "/root/.ansible")
    host.run("mount", "-t", "tmpfs", "-o", "ro,mode=0700", "tmpfs", "/root/.ansible")
    results, commands = controller.play(INFO, INFO)
    assert results[0] == results[1] and commands == 4  # without code, with code, whole; then whole at once
