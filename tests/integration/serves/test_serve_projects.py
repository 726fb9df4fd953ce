"""Two projects on one host: the first admitted run reserves its card, port and name until it starts; the other is refused."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import render_experiment
from serving import BUDGETS, FAST_GPU, HEAVY_GPU, Field, answer_of, start_module, wait_for


class Trial(Field):
    """An experiment beside the serves of a field: one serve in a project of its own."""

    def project(self) -> dict[str, Any]:
        plan = HostPlan("bed", str(self.root), "linux", "anvil", {}, tuple(self.serves.values()))
        return render_experiment(plan, "trial", 0).as_dict()


@pytest.fixture
def trial(field: Field) -> Trial:
    """An experiment on the card of heavy, which has no room for both."""
    field.gpus = BUDGETS
    field.edit("heavy", vram_mib=60000)
    serve = replace(field.serves["fast"], name="trial", container="bed-trial", port=30010, vram_mib=60000, restart="no")
    return Trial(field.bed, field.root, {"trial": replace(serve, gpu_uuids=(HEAVY_GPU,))}, field.models, BUDGETS)


def file_of(field: Field) -> Path:
    return Path(field.project()["directory"]) / "compose.yaml"


@pytest.mark.parametrize("round_", range(3))
def test_exactly_one_of_two_runs_at_the_same_time_gets_the_card(field: Field, trial: Trial, round_: int) -> None:
    answers: dict[str, dict[str, Any]] = {}

    def converge(name: str, which: Field) -> None:
        answers[name] = answer_of(start_module(which))

    both = [threading.Thread(target=converge, args=pair) for pair in (("field", field), ("trial", trial))]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert sorted(answer["failed"] for answer in answers.values()) == [False, True], answers
    won, lost = ("field", "trial") if answers["trial"]["failed"] else ("trial", "field")
    holder = {"field": "bed-heavy (project anvil-serves", "trial": "bed-trial (project anvil-experiment-trial"}[won]
    assert "GPU big: 60000 MiB do not fit" in answers[lost]["msg"] and "container " + holder in answers[lost]["msg"]
    assert {serve["ready"] for serve in answers[won]["serves"].values()} == {True}


def contend(field: Field, trial: Trial, how: signal.Signals) -> tuple[dict[str, Any], bool]:
    """Stop (or kill) the experiment's run between its admission and its start, and then run the inventory.

    Returns the answer of the inventory's run, and whether it was still waiting after 1.5 seconds.
    """
    halt = "from ansible_collections.anvil.serving.plugins.module_utils.serves import converge\nimport os\n"
    halt += "real = converge.apply_decisions\n"
    halt += f"converge.apply_decisions = lambda *words: (os.kill(os.getpid(), {int(how)}), real(*words))[1]"
    first = start_module(trial, halt)
    wait_for(lambda: file_of(trial).exists(), first)  # written after admission
    time.sleep(0.3)
    second = start_module(field)
    time.sleep(1.5)
    waited = second.poll() is None
    if how == signal.SIGSTOP:
        os.kill(first.pid, signal.SIGCONT)
        assert not answer_of(first)["failed"]
    first.wait()
    return answer_of(second), waited


@pytest.mark.parametrize("wanted", ["card", "port"])
def test_an_admitted_run_holds_its_card_and_port_until_it_is_started(field: Field, trial: Trial, wanted: str) -> None:
    if wanted == "port":
        trial.edit("trial", port=30002, gpu_uuids=(FAST_GPU,), vram_mib=0)
    refused, waited = contend(field, trial, signal.SIGSTOP)
    assert waited and refused["failed"] and sorted(field.bed.started()) == ["bed-trial"]
    said = {"card": "container bed-trial (project anvil-experiment-trial", "port": "port 127.0.0.1:30002 is taken"}
    assert said[wanted] in refused["msg"] and "bed-trial" in refused["msg"]


def test_a_killed_run_releases_its_card(field: Field, trial: Trial) -> None:
    done, _waited = contend(field, trial, signal.SIGKILL)
    assert not done["failed"] and sorted(field.bed.started()) == ["bed-fast", "bed-heavy"]


def test_a_serve_that_loads_does_not_block_other_runs(field: Field, trial: Trial) -> None:
    """The engine is locked only from admission to start, because a model may take an hour to load."""
    slow = ("/bin/sh", "-c", 'sleep 6; exec llama-server "$@"', "x")
    trial.edit("trial", gpu_uuids=(), entrypoint=slow)
    first = start_module(trial)
    wait_for(lambda: "bed-trial" in field.bed.started(), first)
    began = time.monotonic()
    assert not field.run()["failed"]
    assert time.monotonic() - began < 5 and first.poll() is None
    assert not answer_of(first)["failed"]
