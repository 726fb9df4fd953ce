"""The module is killed (SIGKILL) after each of its changes, for each verb; the same command then converges.

The process counts its changes - requests to the engine that change something, docker compose commands, files written
and removed - and kills itself after the n-th. Everything is real; the test only chooses the moment of the kill.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.docker import compose_cli, docker_engine
from bed import Bed
from harness import run_module
from serving import BUDGETS, HEAVY_GPU, LLAMA, PYTHON_IMAGE, SERVER, Field, scripted

MOST_STEPS = 30
# Calls that change something. Requests that only read use Connection._get, except those that are named here.
COUNTED: tuple[tuple[Any, str, set[str]], ...] = (
    (docker_engine.DockerEngine, "_call_sdk", {"logs", "inspect_distribution", "get"}),
    (compose_cli.Compose, "_run", set()),
    (files, "write_file", set()),
    (files, "remove_file", set()),
)


def die_after(step: int) -> None:
    left = [step]
    importlib.import_module("ansible_collections.anvil.serving.plugins.modules.anvil_serve")
    rooms = [room for name, room in sys.modules.items() if name.startswith("ansible_collections.anvil.serving.")]

    def count(owner: Any, name: str, reads: set[str]) -> None:
        real = getattr(owner, name)

        def call(*words: Any, **more: Any) -> Any:
            done = real(*words, **more)
            if not reads.intersection(word for word in words if isinstance(word, str)):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return done

        for holder in [owner, *rooms]:  # a module that imported the function has a reference of its own
            if getattr(holder, name, None) == real:
                setattr(holder, name, call)

    for owner, name, reads in COUNTED:
        count(owner, name, reads)


def kill_at(field: Field, step: int, **params: Any) -> dict[str, Any] | None:
    """Run the module in a process that is killed after this step. Returns None, or the answer if the module ended before."""
    answer = field.root.parent / "answer"
    child = os.fork()  # a fork already has the module's imports; a new interpreter would take most of a step's time
    if child == 0:
        try:
            signal.alarm(60)
            die_after(step)
            answer.write_text(json.dumps(run_module("anvil_serve", **field.params(**params))))
        finally:
            os._exit(0)
    _child, status = os.waitpid(child, 0)
    if status == signal.SIGKILL:
        return None
    assert status == 0 and answer.exists(), (step, status)
    found: dict[str, Any] = json.loads(answer.read_text())
    answer.unlink()
    return found


def put_everything_up(field: Field) -> None:
    assert not field.run()["failed"]


def make_room_needed(field: Field) -> None:
    """Night needs the card of heavy, which is evictable."""
    field.gpus = BUDGETS
    field.edit("heavy", vram_mib=60000, residency="evictable")
    night: dict[str, Any] = {"container": "bed-night", "port": 30004, "model": "/models/fast.gguf", "served_name": "night"}
    night.update(vram_mib=70000, residency="on_demand", gpu_uuids=(HEAVY_GPU,))
    field.serves["night"] = replace(field.serves["fast"], name="night", **night)
    put_everything_up(field)


def put_squatter_beside(field: Field) -> None:
    put_everything_up(field)
    sleeper(field.bed, "squatter")


def sleeper(bed: Bed, name: str) -> None:
    bed.docker("run", "--detach", "--init", "--name", name, "--entrypoint", "sleep", PYTHON_IMAGE, "600")


def drift_heavy(field: Field) -> None:
    put_everything_up(field)
    field.edit("heavy", args=("-c", "512", "-np", "1", "-t", "1"), secrets={})


def start_heavy_by_hand(field: Field) -> None:
    field.run(serves=["fast"])
    server = ["-m", "/m/heavy.gguf", "--alias", "heavy", "--host", "0.0.0.0", "--port", "30002"]
    options = ["--publish", "127.0.0.1:30002:30002", "--volume", f"{field.models}:/m:ro"]
    field.bed.docker("run", "--detach", "--init", "--name", "bed-heavy", *options, LLAMA, *server)


Verb = tuple[Callable[[Field], None], dict[str, Any], set[str]]
BOTH = {"bed-fast", "bed-heavy"}
# For each verb: the preparation, the parameters, and the containers that exist afterwards.
VERBS: dict[str, Verb] = {
    "up": (lambda field: None, {}, BOTH),
    "drift": (drift_heavy, {}, BOTH),
    "eviction": (make_room_needed, {"serves": ["night"]}, {"bed-fast", "bed-night"}),
    "absent": (put_squatter_beside, {"state": "absent", "containers": ["squatter", "heavy"], "confirm": True}, {"bed-fast"}),
    "down": (put_everything_up, {"state": "down", "serves": ["heavy"]}, {"bed-fast"}),
    "restarted": (put_everything_up, {"state": "restarted", "serves": ["heavy"]}, BOTH),
    "recreated": (put_everything_up, {"state": "recreated", "serves": ["heavy"]}, BOTH),
    "adopted": (start_heavy_by_hand, {"state": "adopted", "serves": ["heavy"]}, BOTH),
}


@pytest.mark.parametrize("verb", VERBS)
def test_the_same_command_after_a_kill_at_each_step_converges(field: Field, verb: str) -> None:
    prepare, params, there = VERBS[verb]
    params = {"settle": 0.1, **params}
    serves = dict(field.serves)
    killed = 0
    for step in range(1, MOST_STEPS):
        field.bed.clear()
        shutil.rmtree(field.root, ignore_errors=True)
        field.serves = dict(serves)
        prepare(field)
        fast = field.bed.started().get("bed-fast")
        answer = kill_at(field, step, **params)
        if answer is not None:
            assert not answer["failed"]
            break
        killed += 1
        again = field.run(**{"state": "up", **params})
        assert not again["failed"], (step, again["msg"])
        states = dict(line.split() for line in field.bed.docker("ps", "--all", "--format", "{{.Names}} {{.State}}").splitlines())
        # A serve that was evicted and not yet removed at the kill stays stopped; the next up of this serve starts it.
        left = {"bed-heavy"} if verb == "eviction" and states.get("bed-heavy") == "exited" else set()
        assert set(states) == there | left and {states[name] for name in there} == {"running"}, step
        assert fast is None or field.bed.started()["bed-fast"] == fast, step
        if verb not in ("restarted", "recreated"):
            assert not field.run(**{"state": "up", **params})["changed"], step
    assert 1 <= killed < MOST_STEPS - 1


# --------------------------------------------------------------------------------------------------------- repeated adoptions

OLD = "llm-of-old"
ADOPT: dict[str, Any] = {"state": "adopted", "serves": ["heavy"], "containers": [OLD], "settle": 0.1}


def start_old(field: Field) -> str:
    """Start a server by hand, with a name of its own and a restart policy that its state does not show."""
    server = ["--entrypoint", "python3", PYTHON_IMAGE, "-c", SERVER, "--port", "30002"]
    options = ["--publish", "127.0.0.1:30002:30002", "--env", "SERVES=old", "--restart", "on-failure:3"]
    return field.bed.docker("run", "--detach", "--init", "--name", OLD, *options, *server)


def is_as_it_was(field: Field, old: str) -> bool:
    (seen,) = json.loads(field.bed.docker("inspect", old))
    policy = seen["HostConfig"]["RestartPolicy"]
    found = (seen["Name"], seen["State"]["Status"], policy["Name"], policy["MaximumRetryCount"])
    return found == ("/" + OLD, "running", "on-failure", 3)


def containers(field: Field) -> set[str]:
    return set(field.bed.docker("ps", "--all", "--format", "{{.Names}}").split())


@pytest.fixture
def one_serve(field: Field) -> Field:
    del field.serves["fast"]
    field.edit("heavy", secrets={}, mounts=(), **scripted(SERVES="heavy"))
    return field


def make_bad(field: Field) -> None:
    field.edit("heavy", restart="no", **scripted(SERVES="heavy", LIVES="0"))


def test_a_failing_adoption_killed_at_each_step_and_repeated_ends_with_the_old_container(one_serve: Field) -> None:
    make_bad(one_serve)
    old = start_old(one_serve)
    for step in range(1, 2 * MOST_STEPS):
        ended = kill_at(one_serve, step, **ADOPT)
        failed = ended or one_serve.run(**ADOPT)
        assert failed["failed"] and "the old container runs again" in failed["msg"], (step, failed["msg"])
        assert is_as_it_was(one_serve, old) and containers(one_serve) == {OLD}, step
        assert not list(one_serve.root.rglob(".adoption-*")), step
        if ended:
            break
    assert 10 < step < 2 * MOST_STEPS - 1


def test_up_after_an_adoption_killed_at_each_step_ends_with_the_new_container_or_the_old_one(one_serve: Field) -> None:
    up: dict[str, Any] = {"state": "up", "settle": 0.1}
    ends, shown = set(), {}
    for step in range(1, MOST_STEPS):
        old = start_old(one_serve)
        if kill_at(one_serve, step, **ADOPT):
            break
        if (found := frozenset(containers(one_serve))) not in shown:  # what status.yml shows of each state that a kill leaves
            shown[found] = (bool(list(one_serve.root.rglob(".adoption-*"))), one_serve.info()["adoptions"])
        done = one_serve.run(**up)
        assert not list(one_serve.root.rglob(".adoption-*")), step
        if done["failed"]:
            assert "port 127.0.0.1:30002 is taken" in done["msg"] and is_as_it_was(one_serve, old), (step, done["msg"])
            assert containers(one_serve) == {OLD}, step
        else:
            assert containers(one_serve) == {"bed-heavy"} and done["serves"]["heavy"]["ready"], step
            assert not one_serve.run(**up)["changed"]
        ends.add(bool(done["failed"]))
        one_serve.bed.clear()
    assert ends == {True, False} and one_serve.info()["adoptions"] == []
    assert all(bool(lines) == noted for noted, lines in shown.values()), shown
    (line,) = shown[frozenset({"bed-heavy-before-adoption"})][1]
    assert line.startswith(
        "serve heavy: its adoption was interrupted; llm-of-old is stopped and kept as bed-heavy-before-adoption"
    )
    assert line.endswith("ansible-playbook playbooks/adopt.yml -e serves=heavy")


# ------------------------------------------------------------------------------------------------------- changes that go back


def test_a_failing_change_killed_at_each_step_ends_with_the_revision_that_was_ready(one_serve: Field) -> None:
    goes_back: dict[str, Any] = {"state": "up", "settle": 0.1, "on_failure": "roll_back"}
    one_serve.edit("heavy", restart="no")
    assert not one_serve.run(**goes_back)["failed"]
    for step in range(1, 2 * MOST_STEPS):
        # Another definition for each step: the one of the step before is not tried again.
        one_serve.edit("heavy", **scripted(SERVES="heavy", LIVES="0", STEP=str(step)))
        ended = kill_at(one_serve, step, **goes_back)
        failed = ended or one_serve.run(**goes_back)
        assert failed["failed"] and failed["serves"]["heavy"]["ready"] is True, (step, failed["msg"])
        words = one_serve.bed.docker("inspect", "--format", "{{json .Config.Env}}", "bed-heavy")
        assert "LIVES" not in words and containers(one_serve) == {"bed-heavy"}, (step, words)
        before = one_serve.bed.started()
        again = one_serve.run(**goes_back)
        assert again["failed"] and "is not tried again" in again["msg"] and not again["changed"], (step, again["msg"])
        assert one_serve.bed.started() == before, step
        if ended:
            break
    assert 4 < step < 2 * MOST_STEPS - 1
