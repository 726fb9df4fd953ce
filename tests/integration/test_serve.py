"""anvil_serve on a real engine with real llama-servers: drift, readiness, faults, and a second run that does nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.spec import Mount
from bed import Bed
from conftest import COLLECTIONS
from harness import run_module
from serving import FAST_GPU, HEAVY_GPU, SECRET, UNCHANGED, Field, actions, void


def test_check_predicts_apply_converges_and_the_second_run_touches_nothing(field: Field) -> None:
    expected = {"heavy": ("create", ["missing"]), "fast": ("create", ["missing"])}
    predicted = field.run(check=True)
    assert actions(predicted) == expected and predicted["changed"]
    assert field.ids() == {} and not field.root.exists()

    done = field.run()
    assert actions(done) == expected and done["changed"]
    assert {n: (s["state"], s["ready"]) for n, s in done["serves"].items()} == dict.fromkeys(expected, ("ready", True))
    assert (predicted["created"], predicted["files"]) == (done["created"], done["files"])
    asked = {call["NVIDIA_VISIBLE_DEVICES"] for call in field.bed.hook_calls()[-2:]}
    assert asked == {HEAVY_GPU, FAST_GPU}

    before = field.ids()
    began = time.time()
    for check in (True, False, False):
        again = field.run(check=check)
        assert actions(again) == {"heavy": UNCHANGED, "fast": UNCHANGED}
        assert (again["changed"], again["commands"], again["files"], again["created"]) == (False, [], [], [])
    assert field.ids() == before
    window = ["--since", f"{began:.6f}", "--until", f"{time.time():.6f}"]
    assert field.bed.docker("events", *window, "--filter", "type=container") == ""


EDITS: dict[str, tuple[Callable[[Field], None], str, list[str]]] = {
    "flag": (lambda f: f.edit("heavy", args=("-c", "2048", "-np", "1", "-t", "1")), "recreate", ["command"]),
    "environment": (lambda f: f.edit("heavy", environment={"PLAIN": "2"}), "recreate", ["environment"]),
    "gpu": (lambda f: f.edit("heavy", gpu_uuids=(FAST_GPU,)), "recreate", ["gpu"]),
    "mount": (
        lambda f: f.edit("heavy", mounts=(*f.serves["heavy"].mounts, Mount("volume", "extra", "/extra"))),
        "recreate",
        ["mounts"],
    ),
    "port": (lambda f: f.edit("heavy", port=30009), "recreate", ["command", "ports"]),
    "restart": (lambda f: f.edit("heavy", restart="always"), "recreate", ["restart_policy"]),
    "ipc": (lambda f: f.edit("heavy", ipc="host"), "recreate", ["ipc"]),
    "shm": (lambda f: f.edit("heavy", shm_size="256m"), "recreate", ["shm"]),
    "secret gone": (lambda f: f.edit("heavy", secrets={}), "recreate", ["environment"]),
    "retagged image": (lambda f: retag(f.bed), "recreate", ["image"]),
    "served name": (lambda f: f.edit("heavy", served_name="big"), "recreate", ["command", "labels"]),
    "stopped by hand": (lambda f: void(f.bed.docker("stop", "bed-heavy")), "start", ["stopped"]),
    "paused by hand": (lambda f: void(f.bed.docker("pause", "bed-heavy")), "unpause", ["paused"]),
    "removed by hand": (lambda f: void(f.bed.docker("rm", "--force", "bed-heavy")), "create", ["missing"]),
    "restart policy by hand": (
        lambda f: void(f.bed.docker("update", "--restart=no", "bed-heavy")),
        "recreate",
        ["restart_policy"],
    ),
    "cpu limit by hand": (lambda f: void(f.bed.docker("update", "--cpus=1", "bed-heavy")), "recreate", ["limits"]),
    "renamed by hand": (lambda f: void(f.bed.docker("rename", "bed-heavy", "mine")), "recreate", ["name"]),
    "network by hand": (
        lambda f: void(f.bed.docker("network", "disconnect", "anvil", "bed-heavy")),
        "recreate",
        ["networks"],
    ),
}


OWN_TAG = "anvil.local/llama-server:heavy"


def retag(bed: Bed) -> None:
    """Let heavy's image name mean another image."""
    made = bed.docker("create", OWN_TAG)
    bed.docker("commit", "--change", "LABEL other=1", made, OWN_TAG)
    bed.docker("rm", made)


@pytest.mark.parametrize("edit", EDITS)
def test_every_kind_of_drift_acts_on_exactly_that_serve(field: Field, edit: str) -> None:
    change, action, reasons = EDITS[edit]
    field.bed.docker("tag", "anvil.local/llama-server:1", OWN_TAG)
    field.edit("heavy", image=OWN_TAG)
    assert not field.run()["failed"]
    fast = field.ids()["bed-fast"]
    change(field)
    predicted = field.run(check=True)
    done = field.run()
    assert actions(predicted) == actions(done) == {"heavy": (action, reasons), "fast": UNCHANGED}
    assert done["serves"]["heavy"]["ready"] is True
    assert field.ids()["bed-fast"] == fast
    assert actions(field.run()) == {"heavy": UNCHANGED, "fast": UNCHANGED}


def test_a_secret_reaches_the_container_and_nothing_else(field: Field) -> None:
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


def test_an_edited_secret_recreates_its_serves_by_reason_env_file(field: Field) -> None:
    field.run()
    changed = run_module("anvil_serve", project=field.project(), secrets={"key": "another"})
    assert actions(changed) == dict.fromkeys(("heavy", "fast"), ("recreate", ["env_file"]))


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
def test_one_bad_serve_is_named_and_the_other_runs(field: Field, fields: dict[str, Any], words: list[str]) -> None:
    field.edit("heavy", **fields)
    failed = field.run()
    assert failed["failed"] and all(word in failed["msg"] for word in words), failed["msg"]
    assert failed["serves"]["fast"]["ready"] is True and failed["serves"]["heavy"]["ready"] is not True
    fast = field.ids()["bed-fast"]
    field.edit("heavy", args=("-c", "512"), model="/models/heavy.gguf", image="anvil.local/llama-server:1")
    field.edit("heavy", entrypoint=(), restart="unless-stopped")
    mended = field.run()
    assert not mended["failed"], mended["msg"]
    assert field.ids()["bed-fast"] == fast


def test_a_gpu_that_is_gone_is_refused_before_anything_is_touched(field: Field) -> None:
    field.run()
    before = field.ids()
    field.bed.pull_gpu(HEAVY_GPU)
    field.edit("heavy", args=("-c", "512"))
    failed = field.run()
    assert failed["failed"] and HEAVY_GPU in failed["msg"] and FAST_GPU in failed["msg"]
    assert field.ids() == before and failed["changed"] is False


def test_ports_and_names_that_others_hold_are_refused_with_who_holds_them(field: Field) -> None:
    command = ["--name", "bed-heavy", "--publish", "127.0.0.1:30003:1", "--entrypoint", "sleep"]
    field.bed.docker("run", "--detach", *command, "anvil.local/router:0.13.2", "600")
    with socket.socket() as outside:
        outside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        outside.bind(("127.0.0.1", 30002))
        outside.listen()
        failed = field.run()
    assert failed["failed"]
    for words in ("name bed-heavy is taken", "port 127.0.0.1:30003 is taken", "a process outside Docker"):
        assert words in failed["msg"]
    assert list(field.ids()) == ["bed-heavy"]


def test_no_driver_is_said_before_anything_is_touched(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"].replace(str(Path(__file__).parents[1] / "testbed" / "gpus") + ":", ""))
    failed = field.run()
    assert failed["failed"] and "no NVIDIA driver" in failed["msg"] and field.ids() == {}


def test_an_engine_that_is_gone_is_said_in_one_sentence(field: Field) -> None:
    field.run()
    field.bed.stop_engine()
    failed = field.run()
    assert failed["failed"] and "Docker Engine does not answer" in failed["msg"]
    field.bed.start_engine()
    assert not field.run()["failed"]


def test_down_removes_only_ours_and_twice_is_once(field: Field) -> None:
    field.run()
    field.bed.docker("run", "--detach", "--name", "neighbour", "--entrypoint", "sleep", "anvil.local/router:0.13.2", "600")
    assert actions(field.run("down", check=True, serves=["heavy"])) == {"heavy": ("remove", ["present"])}
    assert actions(field.run("down", serves=["heavy"])) == {"heavy": ("remove", ["present"])}
    assert sorted(field.ids()) == ["bed-fast", "neighbour"]
    assert actions(field.run("down", keep_container=True)) == {"heavy": UNCHANGED, "fast": ("stop", ["running"])}
    assert actions(field.run("down", keep_container=True)) == {"heavy": UNCHANGED, "fast": UNCHANGED}
    assert actions(field.run("down")) == {"heavy": UNCHANGED, "fast": ("remove", ["present"])}
    assert list(field.ids()) == ["neighbour"]
    assert not field.run("down")["changed"]


def test_a_serve_that_left_the_inventory_is_told_and_left_alone(field: Field) -> None:
    field.run()
    del field.serves["fast"]
    answer = field.run()
    assert "bed-fast" in str(answer["warnings"])
    assert "bed-fast" in field.ids()
    assert field.info()["orphans"] == ["bed-fast"]


def test_info_tells_drift_squatters_and_readiness_and_changes_nothing(field: Field) -> None:
    absent = field.info()
    assert {n: (s["state"], s["action"]) for n, s in absent["serves"].items()} == {
        "heavy": ("absent", "create"),
        "fast": ("absent", "create"),
    }
    field.run()
    before = field.ids()
    field.edit("heavy", args=("-c", "512"))
    looked = field.info()
    assert (looked["serves"]["heavy"]["reasons"], looked["serves"]["heavy"]["ready"]) == (["command"], True)
    assert looked["serves"]["fast"]["reasons"] == [] and field.ids() == before and not looked["changed"]


KILLED = """
import json, sys
sys.path.insert(0, {collections!r})
sys.path.insert(0, {tests!r})
from harness import run_module
run_module("anvil_serve", **json.load(sys.stdin))
"""


@pytest.mark.parametrize("delay", [0.15, 0.3, 0.45, 0.6, 0.9])
def test_killed_at_any_moment_the_next_run_converges(field: Field, delay: float) -> None:
    params = json.dumps({"project": field.project(), "secrets": {"key": SECRET}}).encode()
    code = KILLED.format(collections=str(COLLECTIONS), tests=str(Path(__file__).parents[1]))
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdin is not None
        process.stdin.write(params)
        process.stdin.close()
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
    answer = field.run()
    assert not answer["failed"], answer["msg"]
    assert {serve["ready"] for serve in answer["serves"].values()} == {True}
    assert not field.run()["changed"]
