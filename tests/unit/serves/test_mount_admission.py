"""Mounts judged on their host: links, other spellings, bind mounts of ``/``, volumes that name a folder, and sockets."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import LABEL_SERVE, Mount, Service
from ansible_collections.anvil.serving.plugins.module_utils.serves import mount_admission
from ansible_collections.anvil.serving.plugins.module_utils.serves.mount_admission import judge_mounts


class Engine:
    """Stands in for the Docker Engine: its data root, its socket, and one volume."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.options = folder, {}
        self.docker_host = f"unix://{folder}/engine.sock"

    def info(self) -> dict[str, Any]:
        return {"DockerRootDir": str(self.folder / "data-root")}

    def inspect_volume(self, _name: str) -> dict[str, Any]:
        return {"Options": self.options}


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    for name in ("data-root/volumes", "anvil/anvil-serves", "anvil/anvil-router", "models"):
        (tmp_path / name).mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "engine.sock"))
    return Engine(tmp_path)


def judge(engine: Engine, source: str, read_only: bool = True, kind: str = "bind", allow: tuple[str, ...] = ()) -> str:
    service = Service("fast", "fast", "i", mounts=(Mount(kind, source, "/x", read_only),), labels={LABEL_SERVE: "fast"})
    service.anvil["allow_mounts"] = list(allow)
    found = judge_mounts(engine, [service], str(engine.folder / "anvil" / "anvil-serves"))  # type: ignore[arg-type]
    return "; ".join(f"{one.what}: {one.why}" for one in found.get("fast", []))


def test_a_link_counts_as_what_it_leads_to(engine: Engine) -> None:
    base = engine.folder
    for name, target in (("etc", "/etc"), ("up", "/"), ("ssh", "/etc/ssh"), ("sock", "engine.sock"), ("good", "models")):
        (base / name).symlink_to(target)
    assert "the whole host" in judge(engine, f"{base}/up")
    assert "(it is /etc): it holds /etc/shadow" in judge(engine, f"{base}/etc")
    assert "a folder of the system" in judge(engine, f"{base}/up/etc/ssh/../ssh")
    assert "who has the engine's socket has the host" in judge(engine, f"{base}/sock")
    assert judge(engine, f"{base}/good", read_only=False) == "" == judge(engine, f"{base}/none/yet")


def test_folders_of_the_engine_and_of_this_collection_are_refused(engine: Engine) -> None:
    base = engine.folder
    for path in ("data-root", "data-root/volumes/x/_data", ".", "anvil/anvil-router", "anvil/anvil-serves/env", "anvil"):
        assert judge(engine, f"{base}/{path}"), path
    assert judge(engine, f"{base}/models") == ""
    assert judge(engine, f"{base}/anvil/anvil-serves/models/x.ini") == ""  # the plan mounts it itself
    assert judge(engine, f"{base}/anvil/anvil-serves/models/x.ini", read_only=False)


def test_records_of_models_are_never_writable(engine: Engine) -> None:
    (engine.folder / "models" / "disk" / ".anvil-serving").mkdir(parents=True)
    for name in ("models", "models/disk"):
        assert judge(engine, f"{engine.folder}/{name}") == ""
        assert "the records of models, and the mount is not read-only" in judge(
            engine, f"{engine.folder}/{name}", read_only=False
        )


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"type": "none", "o": "bind", "device": "/"}, True),
        ({"type": "none", "o": "ro,bind", "device": "/etc/"}, True),
        ({"type": "ext4", "o": "rbind", "device": "//proc"}, True),
        ({"device": "/etc/../root", "o": "bind"}, True),
        ({"type": "overlay", "o": "lowerdir=/,upperdir=/x", "device": "overlay"}, True),
        ({"type": "overlay", "o": "lowerdir=/srv/a:/srv/b", "device": "overlay"}, False),
        ({"type": "proc", "device": "proc"}, True),
        ({"type": "sysfs", "device": "x"}, True),
        ({"type": "nfs", "o": "addr=10.0.0.1", "device": ":/models"}, False),
        ({"type": "nfs", "o": "addr=10.0.0.1", "device": "/export"}, False),
        ({"type": "tmpfs", "device": "tmpfs"}, False),
        ({"type": "ext4", "device": "/dev/sdb1"}, False),
        ({"type": "none", "o": "bind", "device": "/srv/models"}, False),
        ({}, False),
    ],
)
def test_a_volume_counts_as_the_folder_that_its_options_name(engine: Engine, options: dict[str, str], refused: bool) -> None:
    engine.options = options
    assert bool(judge(engine, "models", kind="volume")) is refused


def test_an_allowed_mount_is_judged_by_its_words_or_by_what_it_is(engine: Engine) -> None:
    (engine.folder / "keys").symlink_to("/etc/ssh")
    path = f"{engine.folder}/keys"
    assert judge(engine, path)
    assert judge(engine, path, allow=("/etc/ssh:ro",)) == "" == judge(engine, path, allow=(path,))
    assert judge(engine, path, read_only=False, allow=("/etc/ssh:ro",))


def test_a_bind_mount_of_the_root_is_the_root(engine: Engine) -> None:
    place = engine.folder / "host"
    place.mkdir()
    if subprocess.run(["mount", "--bind", "/", str(place)], check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount")
    try:
        assert "it is /: it is the whole host" in judge(engine, str(place))
        for path, known in (("etc/ssh", "/etc/ssh"), ("etc", "/etc"), ("var", "/var"), ("root", "/root")):
            assert f"it is {known}: " in judge(engine, str(place / path)), path
        assert judge(engine, str(place / "srv")) == ""
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_host_that_is_reached_over_the_network_is_not_judged(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mount_admission, "is_local", lambda _host: False)
    assert judge(engine, "/") == ""


@pytest.mark.parametrize(
    ("model", "source", "target", "refused"),
    [
        ("/models/a.gguf", "none", "/models", True),
        ("/models", "none", "/models", True),
        ("/models/a.gguf", "models/file/below", "/models/", True),
        ("/models/a.gguf", "models", "/models", False),
        ("Qwen/Qwen3-8B", "none", "/root/.cache", False),
        ("/other/a.gguf", "none", "/models", False),
        ("/models/sub/a.gguf", "none", "/models", False),
    ],
)
def test_a_model_in_a_folder_that_does_not_exist_is_refused(
    engine: Engine, model: str, source: str, target: str, refused: bool
) -> None:
    (engine.folder / "models" / "file").touch()
    mounts = [Mount("bind", str(engine.folder / source), target, True), Mount("volume", "weights", "/models/sub", True)]
    service = Service("fast", "fast", "i", mounts=tuple(mounts), labels={LABEL_SERVE: "fast"})
    service.anvil["model"] = model
    directory = str(engine.folder / "anvil" / "anvil-serves")
    found = judge_mounts(engine, [service], directory).get("fast", [])  # type: ignore[arg-type]
    assert [one for one in found if "does not exist" in one.what] == found and bool(found) is refused
    # Of an engine whose folders are not those of this machine, nothing is known.
    (engine.folder / "data-root").rename(engine.folder / "elsewhere")
    assert not judge_mounts(engine, [service], directory)  # type: ignore[arg-type]
