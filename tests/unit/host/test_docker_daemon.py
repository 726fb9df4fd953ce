"""daemon.json beside stand-ins for dockerd and systemctl: the file, its mode, owner and link, and roll backs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.host import docker_daemon
from ansible_collections.anvil.serving.plugins.module_utils.host.docker_daemon import (
    DaemonSettings,
    converge_daemon,
    split_flags,
)
from ansible_collections.anvil.serving.plugins.module_utils.host.docker_installation import (
    DESKTOP,
    PACKAGE,
    ROOTLESS,
    SNAP,
    describe_installation,
    read_installation,
)

# A stand-in for systemd's start limit: after three failed starts it refuses every further one, until reset-failed.
SYSTEMCTL = """#!/bin/sh
state={folder}/failed
case $1 in
reset-failed) : > $state; exit 0;;
restart)
  [ "$(wc -l < $state)" -lt 3 ] || {{ echo "docker.service: start request repeated too quickly"; exit 1; }}
  if grep -q hosts {file}; then
    # Restart=always: systemd tries it again and again
    printf '1\n1\n1\n' >> $state; echo "unable to configure the Docker daemon with file"; exit 1
  fi
  echo started >> {folder}/starts;;
esac
"""


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> DockerEngine:
    """A Docker Engine that answers its version, and nothing else."""
    monkeypatch.setattr(DockerEngine, "version", lambda _self: {"Version": "29.0.0"})
    monkeypatch.setattr(DockerEngine, "info", lambda _self: {})
    return DockerEngine("unix:///no/such/socket")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with stand-ins for dockerd, which accepts every file, and for systemctl."""
    for name, text in (
        ("dockerd", "#!/bin/sh\nexit 0\n"),
        ("systemctl", SYSTEMCTL.format(folder=tmp_path, file=tmp_path / "daemon.json")),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "failed").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(docker_daemon, "restart_command", lambda: ["systemctl", "restart", "docker"])
    return tmp_path


def wanted(path: Path, **settings: object) -> DaemonSettings:
    return DaemonSettings(str(path), {name.replace("_", "-"): value for name, value in settings.items()}, timeout=2)


def test_a_restart_that_says_nothing_is_told_by_how_it_ended(folder: Path, engine: DockerEngine) -> None:
    path = folder / "daemon.json"
    path.write_text("{}")
    settings = DaemonSettings(str(path), {}, restart_command=("sh", "-c", "exit 3"), force_restart=True, timeout=1)
    with pytest.raises(AnvilError, match="it exited with 3 and printed nothing"):
        converge_daemon(engine, settings, False)
    assert path.read_text() == "{}"


def test_the_file_keeps_its_mode_its_owner_and_its_link_and_shows_no_secret(folder: Path, engine: DockerEngine) -> None:
    target, path = folder / "repo/daemon.json", folder / "daemon.json"
    target.parent.mkdir()
    target.write_text('{"proxies": {"http-proxy": "http://user:s3cret@proxy:3128"}}')
    target.chmod(0o600)
    os.chown(target, 1234, 4321)
    path.symlink_to("repo/daemon.json")
    result = converge_daemon(engine, wanted(path, log_driver="local"), False)
    found = target.stat()
    assert path.is_symlink() and (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o600, 1234, 4321)
    assert "s3cret" in target.read_text() and '"log-driver": "local"' in target.read_text()
    assert result["restarted"] and "s3cret" not in str(result) and "<hidden>" in result["diff"]["after"]
    assert not converge_daemon(engine, wanted(path, log_driver="local"), False)["changed"]


def test_a_roll_back_keeps_mode_owner_and_link_too_and_passes_the_start_limit_of_systemd(
    folder: Path, engine: DockerEngine
) -> None:
    target, path = folder / "real.json", folder / "daemon.json"
    target.write_text('{"labels": ["rack=7"]}')
    target.chmod(0o640)
    os.chown(target, 1234, 4321)
    path.symlink_to(target)
    for _run in range(3):
        with pytest.raises(AnvilError) as caught:
            converge_daemon(engine, wanted(path, hosts=["unix:///x"]), False)
        assert "the old daemon.json was put back, and the Docker Engine runs with it" in str(caught.value)
        found = target.stat()
        assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o640, 1234, 4321) and path.is_symlink()
        assert target.read_text() == '{"labels": ["rack=7"]}' and not (folder / "daemon.json.anvil-restart").exists()
    assert (folder / "starts").read_text() == "started\n" * 3


def test_a_roll_back_removes_a_file_that_was_not_there(folder: Path, engine: DockerEngine) -> None:
    with pytest.raises(AnvilError, match=r"the old daemon\.json was put back"):
        converge_daemon(engine, wanted(folder / "daemon.json", hosts=["unix:///x"]), False)
    assert not (folder / "daemon.json").exists()


def test_what_is_no_plain_file_is_not_read_and_never_waited_for(folder: Path, engine: DockerEngine) -> None:
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "huge").write_bytes(b" " * (docker_daemon.LIMIT + 1))
    (folder / "circle").symlink_to("circle")
    began = time.monotonic()
    for name, words in (("folder", "it is a folder"), ("pipe", "it is a FIFO"), ("huge", "bytes"), ("circle", "symbolic links")):
        with pytest.raises(AnvilError) as caught:
            converge_daemon(engine, wanted(folder / name, debug=True), False)
        assert "nothing was merged" in str(caught.value) and words in str(caught.value)
    assert time.monotonic() - began < 5


def test_a_link_to_nothing_is_followed(folder: Path, engine: DockerEngine) -> None:
    (folder / "daemon.json").symlink_to("later.json")
    converge_daemon(engine, wanted(folder / "daemon.json", log_driver="local"), False)
    assert (folder / "daemon.json").is_symlink() and "local" in (folder / "later.json").read_text()


def test_check_mode_writes_nothing(folder: Path, engine: DockerEngine) -> None:
    result = converge_daemon(engine, wanted(folder / "daemon.json", log_driver="local"), True)
    assert result["changed"] and not (folder / "daemon.json").exists() and not (folder / "daemon.json.anvil-restart").exists()


@pytest.mark.parametrize(
    ("words", "flags", "config"),
    [
        ([], [], ""),
        (["-H", "fd://", "--containerd=/run/c.sock"], ["-H", "fd://", "--containerd=/run/c.sock"], ""),
        (["--config-file", "/x.json", "--debug"], ["--debug"], "/x.json"),
        (["--config-file=/x.json", "-p", "/run/d.pid", "--debug"], ["--debug"], "/x.json"),
        (["--pidfile", "/run/d.pid", "--icc=false"], ["--icc=false"], ""),
    ],
)
def test_the_flags_of_a_running_dockerd(words: list[str], flags: list[str], config: str) -> None:
    assert split_flags(words) == (flags, config)


@pytest.mark.parametrize(
    ("info", "kind"),
    [
        ({}, PACKAGE),
        ({"OperatingSystem": "Docker Desktop"}, DESKTOP),
        ({"SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"]}, ROOTLESS),
        ({"DockerRootDir": "/var/snap/docker/common/var-lib-docker"}, SNAP),
        ({"DockerRootDir": None, "SecurityOptions": None}, PACKAGE),
    ],
)
def test_how_a_docker_engine_is_installed(info: dict[str, object], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/home/me/.config")
    assert read_installation(info) == kind
    place = {
        PACKAGE: "/etc/docker/daemon.json",
        SNAP: "/var/snap/docker/current/config/daemon.json",
        ROOTLESS: "/home/me/.config/docker/daemon.json",
        DESKTOP: "",
    }
    assert describe_installation(kind).daemon_json == place[kind]


def test_docker_desktop_has_no_daemon_json_here(monkeypatch: pytest.MonkeyPatch, engine: DockerEngine) -> None:
    monkeypatch.setattr(DockerEngine, "info", lambda _self: {"OperatingSystem": "Docker Desktop"})
    with pytest.raises(AnvilError, match="Settings, Docker Engine"):
        converge_daemon(engine, DaemonSettings("", {"debug": True}), False)
