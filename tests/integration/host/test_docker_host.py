"""The role docker_host on simulated hosts: it reports everything that is missing, merges daemon.json and installs the toolkit."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bed import FAKOLI_DARK, HOST_NETWORK, Bed, BedError, Host, wait_until
from conftest import COLLECTIONS, REPO

HOST = "docker-host"
UUIDS = [gpu.uuid for gpu in FAKOLI_DARK]


class Play:
    """Runs the role on the simulated host, as a user's playbook would."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host, self.folder = host, folder
        connection = "ansible_connection=community.docker.docker ansible_python_interpreter=/usr/bin/python3"
        (folder / "hosts").write_text(f"{HOST} {connection}\n")
        roles = [{"role": "anvil.serving.docker_host"}]
        (folder / "play.yml").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "roles": roles}]))

    def run(self, *options: str, fails: bool = False, **variables: Any) -> str:
        argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(self.folder / "hosts")]
        argv += [str(self.folder / "play.yml"), "-e", json.dumps(variables), *options]
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        }
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        assert bool(done.returncode) is fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def write_daemon(self, text: str) -> None:
        script = (
            'import sys, os; os.makedirs("/etc/docker", exist_ok=True); open("/etc/docker/daemon.json", "w").write(sys.argv[1])'
        )
        self.host.run("python3", "-c", script, text)

    def daemon(self) -> Any:
        return json.loads(self.host.run("cat", "/etc/docker/daemon.json"))

    def started(self) -> str:
        return self.host.run("sh", "-c", 'stat -c %Y.%i "/proc/$(cat /run/docker.pid)"; cat /run/docker.pid')


@pytest.fixture(scope="module")
def up(bed: Bed) -> Iterator[Host]:
    bed.start_engine()
    bed.clear()
    yield bed.host_up(HOST, FAKOLI_DARK)
    bed.host_down(HOST)


@pytest.fixture
def play(up: Host, tmp_path: Path) -> Play:
    up.run("rm", "-rf", "/etc/docker/daemon.json", "/etc/docker/daemon.json.anvil-restart")
    return Play(up, tmp_path)


def test_settings_are_merged_once_and_the_engine_restarts_once(play: Play) -> None:
    play.write_daemon('{"log-opts": {"max-file": "3"}, "log-driver": "json-file", "labels": ["rack=7"]}')
    wanted = {"log-opts": {"max-size": "10m"}, "log-driver": "local", "labels": ["anvil=yes"]}
    before = play.started()
    assert "changed=1" in play.run("--check", docker_host_daemon=wanted) and play.started() == before
    assert "changed=1" in play.run(docker_host_daemon=wanted, docker_host_gpus=UUIDS)
    assert play.daemon() == {
        "log-opts": {"max-file": "3", "max-size": "10m"},
        "log-driver": "local",
        "labels": ["rack=7", "anvil=yes"],
    }
    after = play.started()
    assert after != before and play.host.docker("info", "--format", "{{.LoggingDriver}}") == "local"
    assert "changed=0" in play.run(docker_host_daemon=wanted) and play.started() == after


def test_settings_that_dockerd_reads_again_stop_nothing_and_no_secret_is_shown(play: Play) -> None:
    proxies = {"http-proxy": "http://user:s3cret@proxy:3128"}
    play.write_daemon(json.dumps({"proxies": proxies}))
    play.host.run("chmod", "600", "/etc/docker/daemon.json")
    wanted = {"labels": ["rack=7"], "live-restore": True, "proxies": proxies}
    before = play.started()
    told = play.run("--diff", "-vvv", docker_host_daemon=wanted)
    assert "changed=1" in told and "s3cret" not in told and "<hidden>" in told and play.started() == before
    assert play.host.docker("info", "--format", "{{.Labels}} {{.LiveRestoreEnabled}}") == "[rack=7] true"
    assert play.host.run("stat", "-c", "%a", "/etc/docker/daemon.json") == "600" and play.daemon() == {
        "proxies": proxies,
        **wanted,
    }
    play.host.run("test", "!", "-e", "/etc/docker/daemon.json.anvil-restart")


def test_the_next_run_restarts_the_engine_after_a_run_killed_before_the_restart(play: Play) -> None:
    wanted = {"labels": ["anvil=yes"]}
    play.write_daemon(json.dumps(wanted))
    play.host.run("touch", "/etc/docker/daemon.json.anvil-restart")
    before = play.started()
    assert "changed=1" in play.run(docker_host_daemon=wanted) and play.started() != before
    assert "changed=0" in play.run(docker_host_daemon=wanted)


def test_a_broken_daemon_json_is_not_changed(play: Play) -> None:
    play.write_daemon('{"labels": [')
    before = play.started()
    told = play.run(fails=True, docker_host_daemon={"debug": True})
    assert "daemon.json is not valid JSON" in told and play.host.run("cat", "/etc/docker/daemon.json") == '{"labels": ['
    assert play.started() == before


def test_settings_that_dockerd_refuses_are_not_written(play: Play) -> None:
    play.write_daemon("{}")
    before = play.started()
    told = play.run(fails=True, docker_host_daemon={"no-such-setting": 1})
    assert "no-such-setting" in told and "nothing was written" in told
    assert play.daemon() == {} and play.started() == before


def test_an_engine_that_does_not_start_gets_its_old_daemon_json_back(play: Play) -> None:
    """The file is valid, but dockerd cannot start with it, as if it contradicts a flag; --validate does not notice that."""
    play.write_daemon('{"labels": ["rack=7"]}')
    script = (
        '#!/bin/sh\ngrep -q debug /etc/docker/daemon.json && { echo "bridge is gone"; exit 1; }\nexec /usr/local/bin/service\n'
    )
    play.host.run("python3", "-c", 'import sys; open("/usr/local/bin/restart", "w").write(sys.argv[1])', script)
    play.host.run("chmod", "+x", "/usr/local/bin/restart")
    told = play.run(fails=True, docker_host_daemon={"debug": True}, docker_host_restart_command=["/usr/local/bin/restart"])
    assert "bridge is gone" in told and "the old daemon.json was put back, and the Docker Engine runs with it" in told
    assert play.daemon() == {"labels": ["rack=7"]}


def test_everything_that_is_missing_is_reported_at_once(play: Play) -> None:
    hidden = {
        "/usr/local/bin/nvidia-container-runtime-hook": "/root/hook",
        "/usr/libexec/docker/cli-plugins/docker-compose": "/root/compose",
    }
    for path, away in hidden.items():
        play.host.run("mv", path, away)
    try:
        told = play.run(fails=True, docker_host_gpus=[UUIDS[0], "GPU-not-here"], docker_host_weights_mib=10**9, images_list=[{}])
        for words in (
            "the Docker Compose plugin is missing",
            "the Docker buildx plugin is missing",
            "the NVIDIA container toolkit is missing",
            "GPU GPU-not-here is not on this host",
            "1000000000 MiB are required for weights",
        ):
            assert words in told
    finally:
        for path, away in hidden.items():
            play.host.run("mv", away, path)


def test_a_host_without_cards_is_accepted_unless_cards_are_requested(bed: Bed, tmp_path: Path) -> None:
    bare = bed.host_up(HOST + "-cpu")
    try:
        play = Play(bare, tmp_path)
        (tmp_path / "hosts").write_text((tmp_path / "hosts").read_text().replace(HOST, HOST + "-cpu"))
        assert "changed=0" in play.run()
        assert "there is no NVIDIA driver" in play.run(fails=True, docker_host_gpus=UUIDS)
        with pytest.raises(BedError):
            bare.run("test", "-e", "/etc/docker/daemon.json")
    finally:
        bed.host_down(HOST + "-cpu")


# ------------------------------------------------------------------------------------------------------------- install

HOOK = "/usr/local/bin/nvidia-container-runtime-hook"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A signed flat apt repository with a container toolkit, in the layout of NVIDIA's, and its public key."""
    folder = tmp_path_factory.mktemp("repository")
    package, home = folder / "package", folder / "gpg"
    (package / "DEBIAN").mkdir(parents=True)
    (package / "usr/bin").mkdir(parents=True)
    home.mkdir(mode=0o700)
    control = "Package: nvidia-container-toolkit\nVersion: 1.17.8-1\nArchitecture: all\nMaintainer: the bed <bed@localhost>\n"
    (package / "DEBIAN/control").write_text(control + "Description: the simulated driver's hook\n")
    hook = package / "usr/bin/nvidia-container-runtime-hook"
    hook.write_text('#!/bin/sh\nexec /usr/local/bin/simulated-hook "$@"\n')
    hook.chmod(0o755)
    run = {"capture_output": True, "env": {**os.environ, "GNUPGHOME": str(home)}}
    repo = folder / "repo"
    repo.mkdir()
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(package), str(repo / "toolkit.deb")], check=True, **run)
    raw = (repo / "toolkit.deb").read_bytes()
    packages = f"{control}Filename: ./toolkit.deb\nSize: {len(raw)}\nSHA256: {hashlib.sha256(raw).hexdigest()}\n"
    (repo / "Packages").write_text(packages + "Description: the simulated driver's hook\n")
    digest = hashlib.sha256((repo / "Packages").read_bytes()).hexdigest()
    date = "Thu, 01 Jan 2026 00:00:00 UTC"
    (repo / "Release").write_text(f"Date: {date}\nSHA256:\n {digest} {(repo / 'Packages').stat().st_size} Packages\n")
    subprocess.run(
        ["gpg", "--batch", "--passphrase", "", "--quick-gen-key", "bed@localhost", "ed25519", "sign"], check=True, **run
    )
    subprocess.run(
        ["gpg", "--batch", "--clearsign", "--output", str(repo / "InRelease"), str(repo / "Release")], check=True, **run
    )
    key = subprocess.run(["gpg", "--armor", "--export"], check=True, **run).stdout.decode()
    return repo, key


def test_the_toolkit_is_installed_and_containers_then_get_cards(play: Play, bed: Bed, repository: tuple[Path, str]) -> None:
    repo, key = repository
    play.host.load_images(["anvil.local/llama-server:1"])
    hide = f"cd /usr/local/bin; mv {HOOK} simulated-hook; mv {HOOK}.py simulated-hook.py"
    play.host.run("sh", "-c", f"{hide}; mkdir -p /srv/repo /etc/apt/sources.list.d; service docker restart")
    wait_until("the engine", play.host.is_up)
    bed.docker("cp", f"{repo}/.", f"{HOST}:/srv/repo")
    gpu = ["run", "--rm", "--gpus", f"device={UUIDS[0]}", "--entrypoint", "true", "anvil.local/llama-server:1"]
    with pytest.raises(BedError, match="could not select device driver"):
        play.host.docker(*gpu)
    wanted = {
        "docker_host_install": True,
        "docker_host_gpus": UUIDS,
        "docker_host_repositories": [
            {
                "name": "nvidia",
                "uris": "file:/srv/repo",
                "suites": "/",
                "signed_by": key,
                "packages": ["nvidia-container-toolkit"],
            }
        ],
    }
    play.run(**wanted)
    play.host.docker(*gpu)
    assert "1.17.8-1" in play.host.run("dpkg-query", "--show", "nvidia-container-toolkit")
    assert "changed=0" in play.run(**wanted)


# ----------------------------------------------------------------------------------------- ports on 127.0.0.1 and neighbours

KNOCK = """import socket, sys
try:
    with socket.create_connection(("127.0.0.1", 8555), 2):
        print("reached")
except OSError as error:
    print("dropped:", error)
"""


@pytest.fixture
def neighbour(play: Play, bed: Bed) -> Iterator[Any]:
    """A machine of the same network that sends packets for 127.0.0.1 to the host; returns whether it reaches port 8555."""
    name = "neighbour"
    bed.docker(
        *("run", "--detach", "--privileged", "--name", name, "--network", HOST_NETWORK, "--entrypoint", "sleep"),
        *("anvil.local/dockerhost:1", "600"),
    )
    commands = (
        "ip address del 127.0.0.1/8 dev lo; sysctl -qw net.ipv4.conf.all.route_localnet=1; "
        f"ip route add 127.0.0.0/8 via {play.host.ip()} src $(hostname -i)"
    )
    bed.docker("exec", name, "sh", "-c", commands)
    yield lambda: bed.docker("exec", name, "python3", "-c", KNOCK) == "reached"
    bed.docker("rm", "--force", name)


def test_neighbours_reach_ports_on_loopback_before_docker_engine_28_and_a_rule_prevents_it(play: Play, neighbour: Any) -> None:
    version = play.host.docker("version", "--format", "{{.Server.Version}}")
    assert int(version.split(".")[0]) < 28, "this Docker Engine protects the ports itself: the test needs another one"
    play.host.load_images(["anvil.local/base:1"])
    server = ["anvil.local/base:1", "-m", "http.server", "8555"]
    play.host.docker("run", "--detach", "--name", "web", "--publish", "127.0.0.1:8555:8555", "--entrypoint", "python3", *server)
    wait_until("a server", lambda: play.host.run("python3", "-c", KNOCK) == "reached")
    assert neighbour()
    told = "machines of the same network can reach ports that containers publish on 127.0.0.1"
    predicted = play.run("--check", docker_host_guard_loopback=True)
    assert told in predicted and "changed=0" not in predicted and neighbour()
    play.run(docker_host_guard_loopback=True)
    assert not neighbour() and play.host.run("python3", "-c", KNOCK) == "reached"
    again = play.run(docker_host_guard_loopback=True)
    assert "changed=0" in again and told not in again
    # What systemd runs at each boot, twice: the rule is there once.
    rule = ["iptables", "-t", "raw", "-S", "PREROUTING"]
    play.host.run(*rule[:3], "-F", "PREROUTING")
    assert neighbour()
    unit = play.host.run("cat", "/etc/systemd/system/anvil-loopback-guard.service")
    line = next(line for line in unit.splitlines() if line.startswith("ExecStart=")).removeprefix("ExecStart=")
    for _boot in range(2):
        play.host.run("sh", "-c", line)
    assert not neighbour() and play.host.run(*rule).count("127.0.0.0/8") == 1
    play.host.docker("rm", "--force", "web")
