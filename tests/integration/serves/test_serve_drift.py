"""Changes by engines, images and other users: an engine with every default set, ``docker update``, a GPU that is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bed import Bed, BedError, wait_until
from serving import FAST_GPU, HEAVY_GPU, LLAMA, UNCHANGED, Field, actions

# Every default that an engine of this version can fill in. The containerd image store removes an image that no name
# points to.
DEFAULTS: dict[str, Any] = {
    "default-shm-size": "256M",
    "log-driver": "json-file",
    "log-opts": {"max-size": "1m", "tag": "{{.Name}}"},
    "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 4096, "Soft": 4096}},
    "default-runtime": "another",
    "runtimes": {"another": {"path": "runc"}},
    "init": True,
    "no-new-privileges": True,
    "default-ipc-mode": "shareable",
    "default-cgroupns-mode": "private",
    "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1400"}},
    "default-address-pools": [{"base": "10.201.0.0/16", "size": 24}],
    "userland-proxy": False,
    "dns-opts": ["timeout:1"],
    "shutdown-timeout": 5,
    "live-restore": True,
    "ip": "127.0.0.1",
    "features": {"containerd-snapshotter": True},
    "userns-remap": "default",
    "seccomp-profile": "unconfined",
    "selinux-enabled": True,
}
IMAGE = "anvil.local/llama-server:defaults"
# Every setting that an image can contain, with a health check that always fails.
CHANGES = (
    'HEALTHCHECK --interval=1s --retries=1 --start-period=0s CMD ["/no/such/program"]', "STOPSIGNAL SIGINT", "VOLUME /scratch/",
    "LABEL anvil.serving.content=x other=y", "ENV FROM_IMAGE=1", "WORKDIR /", "EXPOSE 9/tcp", "USER 10002",
)  # fmt: skip


@pytest.fixture
def opinionated(clean_bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bed]:
    """The bed's engine with every default set, the image in its store, and proxies in the configuration of Docker's CLI."""
    archive = tmp_path / "image.tar"
    clean_bed.docker("save", "--output", str(archive), LLAMA)
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text(
        json.dumps({"proxies": {"default": {"httpProxy": "http://proxy.example:1"}}})
    )
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    users = Path("/etc/passwd").read_text()
    clean_bed.restart_engine(config=DEFAULTS)
    try:
        clean_bed.docker("load", "--quiet", "--input", str(archive))
        yield clean_bed
        clean_bed.clear()
    finally:
        clean_bed.restart_engine()
        for remapped in clean_bed.data.glob("[0-9]*.[0-9]*"):
            shutil.rmtree(remapped)
        if "dockremap" not in users:  # the user that userns-remap creates
            subprocess.run(["userdel", "dockremap"], check=True)


def commit(bed: Bed, *changes: str) -> None:
    """Build IMAGE with these changes."""
    made = bed.docker("create", LLAMA)
    bed.docker("commit", *(word for change in changes for word in ("--change", change)), made, IMAGE)
    bed.docker("rm", made)


def forget(bed: Bed, digest: str) -> None:
    """Remove every name of an image from the containerd image store."""
    root = ["ctr", "--address", str(bed.run_dir / "exec/containerd/containerd.sock")]
    spaces = subprocess.run([*root, "namespaces", "ls", "--quiet"], capture_output=True, text=True, check=True).stdout.split()
    # With userns-remap the Docker Engine has a namespace of its own.
    ctr = [*root, "--namespace", max(space for space in spaces if space.startswith("moby")), "images"]
    listed = subprocess.run([*ctr, "ls"], capture_output=True, text=True, check=True).stdout
    names = [line.split()[0] for line in listed.splitlines() if digest in line]
    subprocess.run([*ctr, "rm", *names], capture_output=True, check=True)


def test_defaults_from_an_engine_or_an_image_are_not_drift(opinionated: Bed, field: Field) -> None:
    commit(opinionated, *CHANGES)
    field.edit("heavy", image=IMAGE)
    field.add(healthcheck=None, logging=None)  # the compose file sets neither
    assert actions(field.foresee()) == dict.fromkeys(("heavy", "fast"), ("create", ["missing"]))
    raw = opinionated.get("/containers/bed-heavy/json")
    assert raw["HostConfig"]["ShmSize"] == 256 << 20 and raw["HostConfig"]["LogConfig"]["Type"] == "json-file"
    assert "HTTP_PROXY=http://proxy.example:1" in raw["Config"]["Env"] and raw["HostConfig"]["Runtime"] == "another"
    wait_until(
        "an unhealthy heavy", lambda: opinionated.get("/containers/bed-heavy/json")["State"]["Health"]["Status"] == "unhealthy"
    )
    before = opinionated.started()
    for check in (True, False, False):
        again = field.run(check=check)
        assert actions(again) == {"heavy": UNCHANGED, "fast": UNCHANGED} and not again["changed"]
    assert opinionated.started() == before
    # The tag is moved, and no name points to the image of the container any more.
    commit(opinionated, "ENV FROM_IMAGE=2", "WORKDIR /tmp", "STOPSIGNAL SIGTERM")
    forget(opinionated, raw["Image"])
    with pytest.raises(BedError, match=": 404 "):
        opinionated.get(f"/images/{raw['Image']}/json")
    predicted = field.run(check=True)
    assert actions(predicted) == {"heavy": ("recreate", ["image"]), "fast": UNCHANGED}
    assert list(predicted["serves"]["heavy"]["changes"]) == ["image"]


def test_changes_by_docker_update_and_network_connect_are_detected_and_corrected(field: Field) -> None:
    field.run()
    limits = ["--cpu-shares=512", "--cpuset-cpus=0", "--memory=1g", "--memory-swap=3g", "--memory-reservation=512m"]
    field.bed.docker("update", *limits, "--pids-limit=-1", "--restart=on-failure:3", "bed-heavy")
    field.bed.docker("network", "disconnect", "anvil", "bed-heavy")
    field.bed.docker("network", "connect", "--alias", "other", "anvil", "bed-heavy")
    done = field.foresee()
    assert actions(done) == {"heavy": ("recreate", ["limits", "networks", "restart_policy"]), "fast": UNCHANGED}
    changes = done["serves"]["heavy"]["changes"]
    assert {"cpu_shares", "cpuset", "memory", "memory_swap", "memory_reservation"} <= set(changes["limits"]["before"])
    assert changes["networks"]["before"] == ["anvil (alias other, without its alias heavy)"]
    assert changes["restart_policy"]["before"] == "on-failure:3"
    assert actions(field.foresee()) == {"heavy": UNCHANGED, "fast": UNCHANGED}


def test_logs_memory_and_processes_of_a_container_are_limited(field: Field) -> None:
    field.edit("heavy", mem_limit="2g", pids_limit=500)
    field.run(serves=["heavy"])
    host = field.bed.get("/containers/bed-heavy/json")["HostConfig"]
    assert host["LogConfig"] == {"Type": "local", "Config": {"max-file": "5", "max-size": "20m"}}
    assert host["Memory"] == 2 << 30 and host["PidsLimit"] in (500, None)  # None: the kernel does not support the limit
    assert not field.run(serves=["heavy"])["changed"]
    assert field.info()["serves"]["heavy"]["health"] == "disabled"


def take_gpu_away(bed: Bed, name: str) -> None:
    """Leave a container as ``systemctl daemon-reload`` does: the device node exists, and the cgroup denies access to it."""
    pid = bed.docker("inspect", "--format", "{{.State.Pid}}", name)
    subprocess.run(["mknod", "--mode=666", f"/proc/{pid}/root/dev/nvidiactl", "c", "195", "255"], check=True)


def test_a_serve_that_lost_its_gpu_is_reported_and_recreated_without_systemd_too(field: Field) -> None:
    field.run()
    before = field.bed.started()
    assert actions(field.info()) == {"heavy": UNCHANGED, "fast": UNCHANGED}
    take_gpu_away(field.bed, "bed-heavy")
    told = field.info()["serves"]
    assert (told["heavy"]["reasons"], told["heavy"]["ready"], told["fast"]["reasons"]) == (["gpu_lost"], True, [])
    assert "Operation not permitted" in told["heavy"]["changes"]["gpu_lost"]["before"]
    assert field.bed.started() == before
    done = field.foresee()
    assert actions(done) == {"heavy": ("recreate", ["gpu_lost"]), "fast": UNCHANGED}
    assert field.bed.hook_calls()[-1]["NVIDIA_VISIBLE_DEVICES"] == HEAVY_GPU
    assert actions(field.foresee()) == {"heavy": UNCHANGED, "fast": UNCHANGED}


@pytest.fixture
def describing(clean_bed: Bed, tmp_path: Path) -> Iterator[Bed]:
    """The bed's engine with CDI on, and a description of both GPUs that sets a variable in the container of each."""
    devices = [{"name": uuid, "containerEdits": {"env": [f"GIVEN={uuid}"]}} for uuid in (HEAVY_GPU, FAST_GPU)]
    spec = {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": devices, "containerEdits": {"env": ["BY=cdi"]}}
    (tmp_path / "cdi").mkdir()
    (tmp_path / "cdi" / "nvidia.json").write_text(json.dumps(spec))
    clean_bed.restart_engine(config={"features": {"cdi": True}, "cdi-spec-dirs": [str(tmp_path / "cdi")]})
    try:
        yield clean_bed
        clean_bed.clear()
    finally:
        clean_bed.restart_engine()


def test_a_serve_gets_its_gpu_as_a_device_of_cdi(describing: Bed, field: Field) -> None:
    field.gpu_driver = "cdi"
    asked = len(describing.hook_calls())
    assert actions(field.foresee()) == dict.fromkeys(("heavy", "fast"), ("create", ["missing"]))
    inside = describing.docker("exec", "bed-heavy", "cat", "/proc/1/environ").split("\0")
    assert {f"GIVEN={HEAVY_GPU}", "BY=cdi"} <= set(inside) and len(describing.hook_calls()) == asked
    assert actions(field.foresee()) == {"heavy": UNCHANGED, "fast": UNCHANGED}
    assert field.info()["serves"]["heavy"]["gpu_uuids"] == [HEAVY_GPU]
    field.gpu_driver = "nvidia"
    done = field.foresee()
    assert actions(done) == dict.fromkeys(("heavy", "fast"), ("recreate", ["gpu"]))
    assert done["serves"]["heavy"]["changes"]["gpu"] == {"before": [f"{HEAVY_GPU} (cdi)"], "after": [f"{HEAVY_GPU} (nvidia)"]}
    assert {call["NVIDIA_VISIBLE_DEVICES"] for call in describing.hook_calls()[asked:]} == {HEAVY_GPU, FAST_GPU}
