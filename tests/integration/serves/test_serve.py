"""anvil_serve on a real engine with real llama-servers: drift, readiness, faults, and a second run that changes nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import LABEL_SPEC, Mount
from ansible_collections.anvil.serving.plugins.modules import anvil_serve
from bed import Bed, wait_until
from serving import FAST_GPU, HEAVY_GPU, SECRET, UNCHANGED, Field, actions, start_module


def test_check_predicts_apply_converges_and_the_second_run_touches_nothing(field: Field) -> None:
    expected = {"heavy": ("create", ["missing"]), "fast": ("create", ["missing"])}
    assert field.run(check=True)["changed"] and field.bed.started() == {} and not field.root.exists()
    done = field.foresee()
    assert actions(done) == expected and done["changed"]
    assert {n: (s["state"], s["ready"]) for n, s in done["serves"].items()} == dict.fromkeys(expected, ("ready", True))
    asked = {call["NVIDIA_VISIBLE_DEVICES"] for call in field.bed.hook_calls()[-2:]}
    assert asked == {HEAVY_GPU, FAST_GPU}

    before = field.bed.started()
    began = time.time()
    for check in (True, False, False):
        again = field.run(check=check)
        assert actions(again) == {"heavy": UNCHANGED, "fast": UNCHANGED}
        assert (again["changed"], again["commands"], again["files"], again["created"]) == (False, [], [], [])
    assert field.bed.started() == before
    window = ["--since", f"{began:.6f}", "--until", f"{time.time():.6f}"]
    assert field.bed.docker("events", *window, "--filter", "type=container") == ""


Edit = Callable[[Field], object]


def by_hand(*words: str) -> Edit:
    return lambda field: field.bed.docker(*words)


def edit(**fields: Any) -> Edit:
    return lambda field: field.edit("heavy", **fields)


def add(**keys: Any) -> Edit:
    return lambda field: field.add(**keys)


def fall_ill(field: Field) -> None:
    """Make heavy's health check fail from now on. In a new container a failed check would count only after a minute."""
    wait_until("heavy to be well", lambda: "(healthy)" in field.bed.docker("ps", "--format", "{{.Status}}"))
    (field.root.parent / "state" / "well").unlink()
    wait_until("heavy to be ill", lambda: "(unhealthy)" in field.bed.docker("ps", "--format", "{{.Status}}"))


def mount_file(field: Field) -> None:
    (field.root.parent / "chat.jinja").write_text("one")
    field.edit("heavy", mounts=(*field.serves["heavy"].mounts, Mount("bind", f"{field.root.parent}/chat.jinja", "/c", True)))


def watch_health(field: Field) -> None:
    (field.root.parent / "state").mkdir()
    (field.root.parent / "state" / "well").touch()
    field.edit("heavy", mounts=(*field.serves["heavy"].mounts, Mount("bind", f"{field.root.parent}/state", "/state", True)))
    times = {"interval": "1s", "retries": 1, "start_period": "60s"}
    field.add(healthcheck={"test": ["CMD", "test", "-e", "/state/well"], **times})


def create_anew(field: Field) -> None:
    field.bed.docker("rm", "--force", "bed-heavy")
    field.bed.docker("compose", "--project-directory", str(field.root / "anvil-serves"), "create", "heavy")


def test_a_mount_that_leads_to_the_host_is_refused_before_a_container_is_touched(field: Field, tmp_path: Path) -> None:
    own = field.serves["heavy"].mounts
    (tmp_path / "link").symlink_to("/")
    named = ["--opt", "type=none", "--opt", "o=bind", "--opt", "device=/etc/../etc"]
    field.bed.docker("volume", "create", *named, "settings")
    socket_path = field.bed.environment["DOCKER_HOST"].removeprefix("unix://")
    hostile = [
        Mount("bind", f"{tmp_path}/link", "/a", True),
        Mount("volume", "settings", "/b", True),
        Mount("bind", socket_path, "/c"),
    ]
    field.edit("heavy", mounts=(*own, *hostile))
    for check in (True, False):
        refused = field.run(check=check)
        for words in ("link (it is /)", "volume settings (it is /etc)", "who has the engine's socket has the host"):
            assert words in refused["msg"], refused["msg"]
        assert refused["failed"] and field.bed.started() == {}
    field.edit("heavy", mounts=own)
    field.add(**{"x-anvil": {"allow_mounts": ["/etc:ro"]}})
    field.edit("heavy", mounts=(*own, Mount("volume", "settings", "/b", True)))
    assert actions(field.run(check=True))["heavy"] == ("create", ["missing"])


WIRED = {"networks": {"anvil": {}}, "x-anvil": {"subnets": {"anvil": "172.29.7.0/24"}}}
# The change, the expected actions with their reasons, and, where heavy must first be in another state, its preparation.
EDITS: dict[str, tuple[Edit, str, list[str]] | tuple[Edit, str, list[str], Edit]] = {
    "flag": (edit(args=("-c", "2048", "-np", "1", "-t", "1")), "recreate", ["command"]),
    "entrypoint": (edit(entrypoint=("/usr/bin/env", "llama-server")), "recreate", ["entrypoint"]),
    "environment": (edit(environment={"PLAIN": "2"}), "recreate", ["environment"]),
    "secret": (lambda f: f.secrets.update(key="another"), "recreate", ["env_file"]),
    "secret gone": (edit(secrets={}), "recreate", ["environment"]),
    "gpu": (edit(gpu_uuids=(FAST_GPU,)), "recreate", ["gpu"]),
    "mount": (
        lambda f: f.edit("heavy", mounts=(*f.serves["heavy"].mounts, Mount("volume", "extra", "/extra"))),
        "recreate",
        ["mounts"],
    ),
    "mounted file": (
        lambda f: (f.root.parent / "chat.jinja").write_text("two"),
        "recreate",
        ["mounted_file"],
        mount_file,
    ),
    "port": (edit(port=30009), "recreate", ["command", "ports"]),
    "restart": (edit(restart="always"), "recreate", ["restart_policy"]),
    "ipc": (edit(ipc="host"), "recreate", ["ipc"]),
    "shm": (edit(shm_size="256m"), "recreate", ["shm"]),
    "root may be written": (edit(read_only=False, tmpfs=()), "recreate", ["read_only", "tmpfs"]),
    "capabilities": (edit(cap_drop=("NET_RAW",)), "recreate", ["capabilities"]),
    "added capability": (edit(cap_add=("DAC_OVERRIDE",)), "recreate", ["capabilities"]),
    "served name": (edit(served_name="big"), "recreate", ["command", "labels"]),
    "retagged image": (lambda f: retag(f.bed), "recreate", ["image"]),
    "memory limit": (add(mem_limit="1g"), "recreate", ["limits"]),
    "user": (edit(user="0:0"), "recreate", ["user"]),
    "no init": (add(init=False), "recreate", ["init"]),
    "stop signal": (add(stop_signal="SIGINT"), "recreate", ["stop_signal"]),
    "stop grace": (add(stop_grace_period="5s"), "recreate", ["stop_grace"]),
    "working directory": (add(working_dir="/tmp"), "recreate", ["working_dir"]),
    "extra hosts": (add(extra_hosts=["hub.example:127.0.0.1"]), "recreate", ["extra_hosts"]),
    "new privileges": (edit(security_opt=()), "recreate", ["security_opt"]),
    "logging": (add(logging={"options": {"max-size": "5m"}}), "recreate", ["logging"]),
    "health check": (add(healthcheck={"test": ["CMD", "true"]}), "recreate", ["healthcheck"]),
    "fixed address": (add(networks={"anvil": {"ipv4_address": "172.29.7.9"}}), "recreate", ["addresses"], add(**WIRED)),
    "hash only": (add(labels={LABEL_SPEC: "2:of-now"}), "recreate", ["stale_container"], add(labels={LABEL_SPEC: "2:of-old"})),
    "unhealthy": (fall_ill, "recreate", ["unhealthy"], watch_health),
    "stopped by hand": (by_hand("stop", "bed-heavy"), "start", ["stopped"]),
    "created and never started": (create_anew, "start", ["stopped"]),
    "paused by hand": (by_hand("pause", "bed-heavy"), "unpause", ["paused"]),
    "removed by hand": (by_hand("rm", "--force", "bed-heavy"), "create", ["missing"]),
    "restart policy by hand": (by_hand("update", "--restart=no", "bed-heavy"), "recreate", ["restart_policy"]),
    "cpu limit by hand": (by_hand("update", "--cpus=1", "bed-heavy"), "recreate", ["limits"]),
    "renamed by hand": (by_hand("rename", "bed-heavy", "mine"), "recreate", ["name"]),
    "network by hand": (by_hand("network", "disconnect", "anvil", "bed-heavy"), "recreate", ["networks"]),
}
# Reasons that other tests of this folder cause, and two that only a broken engine could cause.
ELSEWHERE = {
    "foreign_project",
    "by_hand",
    "requested",
    "on_demand",
    "evicted",
    "off",
    "gpu_lost",
    "stale_weights",
    "killed",
    "present",
    "running",
    "restarting",
    "restart_loop",  # as a reason: site/test_serve_over_hosts.py
}
BROKEN = {"dead", "removing"}


def test_every_reason_of_the_vocabulary_has_a_test() -> None:
    told = yaml.safe_load(anvil_serve.RETURN)["serves"]["contains"]["reasons"]["description"]
    documented = {word for line in told for word in re.findall(r"V\((\w+)\)", line)}
    seen = {word for _change, _action, reasons, *_before in EDITS.values() for word in reasons}
    assert documented == seen | ELSEWHERE | BROKEN
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_serve*.py"))
    assert [word for word in ELSEWHERE if text.count(f'"{word}"') < 2] == []


OWN_TAG = "anvil.local/llama-server:heavy"


def retag(bed: Bed) -> None:
    """Make heavy's image name point to another image."""
    made = bed.docker("create", OWN_TAG)
    bed.docker("commit", "--change", "LABEL other=1", made, OWN_TAG)
    bed.docker("rm", made)


@pytest.mark.parametrize("kind", EDITS)
def test_every_kind_of_drift_is_predicted_and_acts_on_exactly_that_serve(field: Field, kind: str) -> None:
    change, action, reasons, *before = EDITS[kind]
    field.bed.docker("tag", "anvil.local/llama-server:1", OWN_TAG)
    field.edit("heavy", image=OWN_TAG)
    for make in before:
        make(field)
    assert actions(field.run()) == dict.fromkeys(("heavy", "fast"), ("create", ["missing"]))
    fast = field.bed.started()["bed-fast"]
    change(field)
    expected = ("recreate", ["env_file"]) if kind == "secret" else UNCHANGED
    done = field.foresee()
    assert actions(done) == {"heavy": (action, reasons), "fast": expected}
    assert done["serves"]["heavy"]["ready"] is True
    assert (field.bed.started()["bed-fast"] == fast) is (expected == UNCHANGED)
    assert actions(field.foresee()) == {"heavy": UNCHANGED, "fast": UNCHANGED}


def test_a_server_is_reached_below_its_prefix_and_variables_count_as_flags(field: Field) -> None:
    """The real llama-server reads LLAMA_ARG_* and answers only below its prefix."""
    variables = {"LLAMA_ARG_API_PREFIX": "/qwen", "LLAMA_ARG_CTX_SIZE": "512", "LLAMA_ARG_N_PARALLEL": "1"}
    field.edit("fast", args=("-t", "1"), environment=variables, api_prefix="/qwen")
    done = field.run(serves=["fast"])
    assert actions(done)["fast"][0] == "create" and done["serves"]["fast"]["endpoint"] == "http://127.0.0.1:30003/qwen/v1"
    again = field.run(serves=["fast"])
    assert actions(again)["fast"] == UNCHANGED and not again["changed"]
    field.edit("fast", environment={**variables, "LLAMA_ARG_CTX_SIZE": "100000"})
    capped = field.run(serves=["fast"])
    assert capped["failed"] and "LLAMA_ARG_CTX_SIZE requests 100000, but the server runs with 8192" in capped["msg"]


def test_a_secret_appears_in_the_container_and_nowhere_else(field: Field) -> None:
    printed = [json.dumps(field.run(check=True)), json.dumps(field.run()), json.dumps(field.info())]
    assert not any(SECRET in text for text in printed)
    assert SECRET not in (field.root / "anvil-serves" / "compose.yaml").read_text()
    env_file = field.root / "anvil-serves" / "env" / "heavy.env"
    assert env_file.stat().st_mode & 0o777 == 0o600 and SECRET in env_file.read_text()
    inside = json.loads(field.bed.docker("inspect", "bed-heavy"))[0]["Config"]["Env"]
    assert f"HIDDEN={SECRET}" in inside
    field.edit("heavy", secrets={})
    field.run()
    assert not env_file.exists()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"args": ("--no-such-flag",)}, ["serve heavy", "restart_loop", "--no-such-flag"]),
        ({"model": "/models/missing.gguf"}, ["serve heavy", "missing.gguf"]),
        ({"image": "anvil.local/no-such-image:1"}, ["serve heavy", "no-such-image"]),
        ({"entrypoint": ("/usr/bin/llama-servr",)}, ["serve heavy", "llama-servr"]),
        ({"args": ("--no-such-flag",), "restart": "no"}, ["serve heavy", "exited", "--no-such-flag"]),
    ],
)
def test_one_bad_serve_is_reported_and_the_other_runs(field: Field, fields: dict[str, Any], words: list[str]) -> None:
    field.edit("heavy", **fields)
    failed = field.run(engine_check="off")  # the engine check would refuse the flag before anything starts
    assert failed["failed"] and all(word in failed["msg"] for word in words), failed["msg"]
    assert failed["serves"]["fast"]["ready"] is True and failed["serves"]["heavy"]["ready"] is not True
    fast = field.bed.started()["bed-fast"]
    field.edit("heavy", args=("-c", "512"), model="/models/heavy.gguf", image="anvil.local/llama-server:1")
    field.edit("heavy", entrypoint=(), restart="unless-stopped")
    mended = field.run()
    assert not mended["failed"], mended["msg"]
    assert field.bed.started()["bed-fast"] == fast


def test_a_missing_gpu_is_refused_before_anything_changes(field: Field) -> None:
    field.run()
    before = field.bed.started()
    field.bed.pull_gpu(HEAVY_GPU)
    field.edit("heavy", args=("-c", "512"))
    failed = field.foresee()
    assert failed["failed"] and HEAVY_GPU in failed["msg"] and FAST_GPU in failed["msg"]
    assert field.bed.started() == before and failed["changed"] is False


def test_ports_and_names_in_use_are_refused_with_their_holder(field: Field) -> None:
    command = ["--name", "bed-heavy", "--publish", "127.0.0.1:30003:1", "--entrypoint", "sleep"]
    field.bed.docker("run", "--detach", *command, "anvil.local/router:0.13.2", "600")
    with socket.socket() as outside:
        outside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        outside.bind(("127.0.0.1", 30002))
        outside.listen()
        failed = field.foresee()
    assert failed["failed"]
    mine = "a process outside Docker ({0}, pid {1})".format(Path("/proc/self/comm").read_text().strip(), os.getpid())
    for words in ("name bed-heavy is taken", "port 127.0.0.1:30003 is taken", mine):
        assert words in failed["msg"]
    assert list(field.bed.started()) == ["bed-heavy"]


def test_a_missing_driver_is_reported_before_anything_changes(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"].replace(str(Path(__file__).parents[2] / "testbed" / "gpus") + ":", ""))
    failed = field.foresee()
    assert failed["failed"] and "no NVIDIA driver" in failed["msg"] and field.bed.started() == {}


def test_a_stopped_engine_is_reported_in_one_sentence(field: Field) -> None:
    field.run()
    field.bed.stop_engine()
    failed = field.run()
    assert failed["failed"] and "Docker Engine does not answer" in failed["msg"]
    field.bed.start_engine()
    assert not field.run()["failed"]


def test_down_removes_only_our_containers_and_a_second_run_changes_nothing(field: Field) -> None:
    field.run()
    field.bed.docker("run", "--detach", "--name", "neighbour", "--entrypoint", "sleep", "anvil.local/router:0.13.2", "600")
    assert actions(field.foresee("down", serves=["heavy"])) == {"heavy": ("remove", ["present"])}
    assert sorted(field.bed.started()) == ["bed-fast", "neighbour"]
    assert actions(field.foresee("down", keep_container=True)) == {"heavy": UNCHANGED, "fast": ("stop", ["running"])}
    assert actions(field.run("down", keep_container=True)) == {"heavy": UNCHANGED, "fast": UNCHANGED}
    assert actions(field.run("down")) == {"heavy": UNCHANGED, "fast": ("remove", ["present"])}
    assert list(field.bed.started()) == ["neighbour"]
    assert not field.run("down")["changed"]


def test_a_serve_in_a_crash_loop_can_be_stopped(field: Field) -> None:
    field.edit("heavy", args=("--no-such-flag",))
    assert field.run(serves=["heavy"], engine_check="off")["serves"]["heavy"]["state"] == "restart_loop"
    stopped = field.run("down", keep_container=True, serves=["heavy"])
    # The state of a container in a crash loop is "restarting" or "running".
    assert stopped["serves"]["heavy"]["reasons"][0] in ("restarting", "running") and stopped["changed"]
    assert field.bed.docker("inspect", "--format", "{{.State.Status}}", "bed-heavy") == "exited"


def test_a_container_whose_serve_left_the_inventory_is_reported_and_kept(field: Field) -> None:
    field.run()
    del field.serves["fast"]
    answer = field.run()
    assert "bed-fast" in str(answer["warnings"])
    assert "bed-fast" in field.bed.started()
    assert field.info()["orphans"] == ["bed-fast"]


def test_info_reports_drift_and_readiness_and_changes_nothing(field: Field) -> None:
    absent = field.info()
    assert {n: (s["state"], s["action"]) for n, s in absent["serves"].items()} == {
        "heavy": ("absent", "create"),
        "fast": ("absent", "create"),
    }
    field.run()
    before = field.bed.started()
    field.edit("heavy", args=("-c", "512"))
    looked = field.info()
    assert (looked["serves"]["heavy"]["reasons"], looked["serves"]["heavy"]["ready"]) == (["command"], True)
    assert looked["serves"]["fast"]["reasons"] == [] and field.bed.started() == before and not looked["changed"]


@pytest.mark.parametrize("delay", [0.15, 0.3, 0.45, 0.6, 0.9])
def test_a_run_after_a_kill_at_any_moment_converges(field: Field, delay: float) -> None:
    """delay: seconds from the start of the module. It needs more than a second for two new serves on the reference machine."""
    with start_module(field, 'print("the module runs", flush=True)', start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"the module runs\n"
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode in (-signal.SIGKILL, 0)
    answer = field.run()
    assert not answer["failed"], answer["msg"]
    assert {serve["ready"] for serve in answer["serves"].values()} == {True}
    assert not field.run()["changed"]
