"""The verbs of a serve on a real engine: restarted, recreated, adopted, absent, down, groups, the ledger, settings."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Mount
from bed import Bed, BedError
from serving import BUDGETS, FAST_GPU, HEAVY_GPU, LLAMA, PYTHON_IMAGE, UNCHANGED, Field, actions, scripted, void

# ------------------------------------------------------------------------------------------------ restarted, recreated


def test_restarted_starts_a_new_process_in_the_same_container_and_keeps_the_other_serve(field: Field) -> None:
    field.run()
    before = field.bed.started()
    done = field.foresee("restarted", serves=["heavy"])
    assert actions(done) == {"heavy": ("restart", ["requested"])} and done["serves"]["heavy"]["ready"] is True
    after = field.bed.started()
    assert after["bed-fast"] == before["bed-fast"]
    assert after["bed-heavy"].split()[0] == before["bed-heavy"].split()[0] and after["bed-heavy"] != before["bed-heavy"]
    assert actions(field.run()) == {"heavy": UNCHANGED, "fast": UNCHANGED}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda f: f.edit("heavy", args=("-c", "512", "-np", "1")), ("recreate", ["command"])),
        (lambda f: void(f.bed.docker("stop", "bed-heavy")), ("start", ["stopped"])),
        (lambda f: void(f.bed.docker("rm", "--force", "bed-heavy")), ("create", ["missing"])),
    ],
)
def test_a_restart_never_replays_an_old_configuration(
    field: Field, change: Callable[[Field], None], expected: tuple[str, list[str]]
) -> None:
    field.run()
    change(field)
    assert actions(field.foresee("restarted", serves=["heavy"])) == {"heavy": expected}


def test_restarted_fails_for_a_serve_that_becomes_ready_and_then_exits(field: Field) -> None:
    field.edit("heavy", **scripted(LIVES="1.2"))
    field.run(serves=["heavy"])
    failed = field.run("restarted", serves=["heavy"], settle=2.5)
    assert failed["failed"] and failed["serves"]["heavy"]["ready"] is False
    assert "was ready, then failed within 2.5 s" in failed["msg"] and "that was my life" in failed["msg"]


def test_recreated_replaces_the_container_whether_it_differs_or_not(field: Field) -> None:
    field.run()
    before = field.bed.started()
    assert actions(field.foresee("recreated", serves=["heavy"])) == {"heavy": ("recreate", ["requested"])}
    after = field.bed.started()
    assert after["bed-fast"] == before["bed-fast"]
    assert after["bed-heavy"].split()[0] != before["bed-heavy"].split()[0]
    field.edit("heavy", environment={})
    assert actions(field.run("recreated", serves=["heavy"])) == {"heavy": ("recreate", ["environment", "requested"])}


# -------------------------------------------------------------------------------------------------------------- adopted


def start_by_hand(bed: Bed, models: Path, *options: str, name: str = "bed-heavy") -> str:
    """Start heavy's server by hand on heavy's port, as an operator did before the collection."""
    server = ["-m", "/m/heavy.gguf", "--alias", "heavy", "--host", "0.0.0.0", "--port", "30002", "--api-key", "by-hand"]
    command = ["--publish", "127.0.0.1:30002:30002", "--volume", f"{models}:/m:ro", "--env", "OLD=1", *options]
    return bed.docker("run", "--detach", "--init", "--name", name, "--restart", "unless-stopped", *command, LLAMA, *server)


FOREIGN = ("--label", "com.docker.compose.project=theirs", "--label", "com.docker.compose.service=llm")


@pytest.mark.parametrize(("options", "word"), [((), "by_hand"), (FOREIGN, "foreign_project")])
def test_adopted_shows_the_old_container_and_replaces_it(field: Field, models: Path, options: tuple[str, ...], word: str) -> None:
    start_by_hand(field.bed, models, *options)
    refused = field.run(serves=["heavy"])
    assert refused["failed"] and "name bed-heavy is taken" in refused["msg"]
    done = field.foresee("adopted")
    heavy = done["serves"]["heavy"]
    assert heavy["action"] == "adopt" and {word, "command", "environment", "mounts"} <= set(heavy["reasons"])
    assert heavy["ready"] is True and done["serves"]["fast"]["action"] == "create"
    shown = next(part for part in done["diff"] if part["before_header"].startswith("serve heavy"))
    assert "mounts: " + str(models) in shown["before"] and "environment: OLD: set" in shown["before"]
    assert "by-hand" not in json.dumps(done)
    assert sorted(field.bed.started()) == ["bed-fast", "bed-heavy"]
    assert actions(field.run("adopted")) == {"heavy": UNCHANGED, "fast": UNCHANGED}


def test_adopted_accepts_the_current_name_of_the_container(field: Field, models: Path) -> None:
    start_by_hand(field.bed, models, name="llm-of-old")
    done = field.foresee("adopted", serves=["heavy"], containers=["llm-of-old"])
    assert done["serves"]["heavy"]["action"] == "adopt" and list(field.bed.started()) == ["bed-heavy"]
    assert field.run("adopted", containers=["a", "b"])["msg"].startswith("containers: it is not clear which container")
    field.run("down", serves=["heavy"])
    assert "no container llm-of-old" in field.run("adopted", serves=["heavy"], containers=["llm-of-old"])["msg"]


def test_a_failed_adoption_restores_the_old_container(field: Field, models: Path) -> None:
    old = start_by_hand(field.bed, models)
    field.edit("heavy", args=("--no-such-flag",))
    failed = field.run("adopted", serves=["heavy"], engine_check="off")
    assert failed["failed"] and "the old container runs again" in failed["msg"] and "--no-such-flag" in failed["msg"]
    assert [line.split()[0] for line in field.bed.started().values()] == [old]
    field.edit("heavy", args=("-c", "512"))
    assert not field.run("adopted", serves=["heavy"])["failed"]
    assert list(field.bed.started()) == ["bed-heavy"] and field.bed.started()["bed-heavy"].split()[0] != old


# ---------------------------------------------------------------------------------------------------------- absent, down


def sleeper(bed: Bed, name: str, *options: str) -> None:
    bed.docker("run", "--detach", "--init", "--name", name, "--entrypoint", "sleep", *options, PYTHON_IMAGE, "600")


def test_absent_removes_our_containers_by_name_and_others_only_on_confirmation(field: Field) -> None:
    field.run()
    sleeper(field.bed, "squatter")
    refused = field.run("absent", containers=["squatter", "bed-fast"])
    assert (
        refused["failed"] and "squatter does not belong to this project" in refused["msg"] and "confirm: true" in refused["msg"]
    )
    assert sorted(field.bed.started()) == ["bed-fast", "bed-heavy", "squatter"]
    done = field.foresee("absent", containers=["squatter", "fast", "never-was"], confirm=True)
    told = {name: (row["action"], row["state"]) for name, row in done["containers"].items()}
    assert told == {"squatter": ("remove", "absent"), "fast": ("remove", "absent"), "never-was": ("none", "absent")}
    assert "bed-fast is a serve of the inventory" in str(done["warnings"])
    assert list(field.bed.started()) == ["bed-heavy"]
    assert not field.run("absent", containers=["squatter", "fast"])["changed"]


def test_absent_refuses_a_name_shared_by_a_serve_and_another_container(field: Field) -> None:
    sleeper(field.bed, "heavy")
    for _round in range(2):
        refused = field.run("absent", containers=["heavy"], confirm=True)
        assert refused["failed"] and "heavy is the name of a serve and of another container" in refused["msg"]
        assert "heavy" in field.bed.started()
        field.run(serves=["heavy"])
    assert field.run("absent")["msg"].startswith("containers: state absent needs names")


def test_down_reports_a_container_that_something_starts_again(field: Field) -> None:
    field.run()

    def supervise() -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                sleeper(field.bed, "bed-heavy")
            except BedError:
                time.sleep(0.02)
            else:
                return

    supervisor = threading.Thread(target=supervise)
    supervisor.start()
    failed = field.run("down", serves=["heavy"], settle=5)
    supervisor.join()
    assert failed["failed"] and "serve heavy: the container came back after it was taken down: running" in failed["msg"]
    assert failed["serves"]["heavy"]["state"] == "running"


def test_a_stopped_serve_with_restart_policy_always_gets_a_warning(field: Field) -> None:
    field.edit("heavy", restart="always")
    field.run()
    stopped = field.foresee("down", keep_container=True)
    assert "serve heavy is stopped, but its restart policy is always" in str(stopped["warnings"])
    assert "serve fast is stopped" not in str(stopped["warnings"])


def test_a_group_is_selected_by_its_tag(field: Field) -> None:
    field.edit("heavy", tags=("night", "big"))
    field.edit("fast", tags=("night",))
    assert list(field.run(serves=["big"])["serves"]) == ["heavy"]
    assert actions(field.foresee(serves=["night"])) == {"heavy": UNCHANGED, "fast": ("create", ["missing"])}
    assert list(actions(field.foresee("down", serves=["night"]))) == ["heavy", "fast"] and field.bed.started() == {}
    refused = field.run(serves=["nihgt"])
    assert "is named nihgt" in refused["msg"] and "big, fast, heavy, night" in refused["msg"]


# --------------------------------------------------------------------------------------------------- mounted files, diff


def test_an_edited_mounted_file_recreates_its_serve_and_a_touched_one_does_not(field: Field, tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("one")
    field.edit("heavy", mounts=(*field.serves["heavy"].mounts, Mount("bind", str(template), "/chat.jinja", True)))
    field.run()
    template.touch()
    assert actions(field.run()) == {"heavy": UNCHANGED, "fast": UNCHANGED}
    template.write_text("two")
    done = field.foresee()
    assert actions(done) == {"heavy": ("recreate", ["mounted_file"]), "fast": UNCHANGED}
    assert list(done["serves"]["heavy"]["changes"]["mounted_file"]["before"]) == [str(template)]
    assert actions(field.run()) == {"heavy": UNCHANGED, "fast": UNCHANGED}
    (field.root / "anvil-serves" / ".mounted.json").unlink()
    assert actions(field.run()) == {"heavy": UNCHANGED, "fast": UNCHANGED}


def test_the_diff_shows_each_serve_and_environment_by_name_only(field: Field) -> None:
    field.run()
    field.edit("heavy", args=("-c", "512", "-np", "1", "-t", "1"), environment={"PLAIN": "other-value"})
    parts = {part["before_header"]: part for part in field.run(check=True)["diff"]}
    shown = parts["serve heavy (recreate: command, environment)"]
    assert "command: 1024\n" in shown["before"] and "command: 512\n" in shown["after"]
    assert "environment: PLAIN: set\n" in shown["before"] and "environment: PLAIN: changed\n" in shown["after"]
    assert "other-value" not in json.dumps(shown) and len(parts) == 2


# ------------------------------------------------------------------------------------------------------------ the ledger


def test_the_ledger_refuses_with_its_arithmetic_before_anything_changes(field: Field) -> None:
    field.gpus = BUDGETS
    field.edit("heavy", vram_mib=80000)
    field.edit("fast", vram_mib=20000)
    sleeper(field.bed, "trial", "--gpus", f"device={HEAVY_GPU}", "--label", "anvil.serving.vram_mib=30000")
    field.bed.docker("pause", "trial")
    refused = field.foresee()
    assert refused["failed"] and list(field.bed.started()) == ["trial"]
    for words in (
        "serve heavy: GPU big: 80000 MiB do not fit",
        "container trial (paused) 30000 + serve heavy 80000 = 110000 MiB",
        "97887 - 2048 reserve = 95839 MiB: 14161 MiB too much",
    ):
        assert words in refused["msg"]
    field.edit("heavy", vram_mib=60000)
    assert not field.run()["failed"]
    field.edit("heavy", vram_mib=65000, args=("-c", "512"))  # its own old 60000 are not counted beside the new 65000
    assert not field.run()["failed"]


def test_a_serve_on_two_cards_is_charged_on_both_and_the_batch_is_summed(field: Field) -> None:
    field.gpus = BUDGETS
    field.edit("heavy", vram_mib=20000, gpu_uuids=(HEAVY_GPU, FAST_GPU))
    field.edit("fast", vram_mib=12000)
    refused = field.run()
    assert refused["failed"] and "serve heavy 20000 + serve fast 12000 = 32000 MiB" in refused["msg"]
    assert "GPU small" in refused["msg"] and "GPU big" not in refused["msg"]


def test_a_container_with_an_unknown_claim_on_the_card_is_reported(field: Field) -> None:
    field.gpus = BUDGETS
    field.edit("heavy", vram_mib=80000)
    sleeper(field.bed, "silent", "--gpus", "all")
    admitted = field.run(serves=["heavy"])
    assert not admitted["failed"] and "container silent (running) holds an unknown amount of memory" in str(admitted["warnings"])
    table = field.bed.gpu_table.read_text()
    field.bed.gpu_table.write_text(table.replace("97887, 4,", "97887, 50000,"))
    field.edit("heavy", args=("-c", "512"), vram_mib=90000)
    field.run("down", serves=["heavy"])
    refused = field.run(serves=["heavy"])
    assert refused["failed"] and "the driver reports only 47887 MiB free of the 90000 MiB needed" in refused["msg"]
    field.bed.gpu_table.write_text(table.replace("97887, 4,", "97887, [N/A],"))
    admitted = field.run(serves=["heavy"])
    assert not admitted["failed"] and "container silent (running) unknown + serve heavy 90000" in str(admitted["warnings"])


def add_night(field: Field, **heavy: Any) -> None:
    """Heavy and fast share the big card; night is on demand, and fits there only without heavy."""
    field.gpus = BUDGETS
    field.edit("heavy", vram_mib=60000, residency="evictable", **heavy)
    field.edit("fast", vram_mib=20000, gpu_uuids=(HEAVY_GPU,))
    night: dict[str, Any] = {"container": "bed-night", "port": 30004, "model": "/models/fast.gguf", "served_name": "night"}
    night.update(vram_mib=70000, residency="on_demand")
    field.serves["night"] = replace(field.serves["fast"], name="night", **night)


def test_a_serve_on_demand_evicts_evictable_serves_and_never_resident_ones(field: Field) -> None:
    add_night(field)
    first = field.foresee()
    assert actions(first)["night"] == ("none", ["on_demand"]) and "bed-night" not in field.bed.started()
    fast = field.bed.started()["bed-fast"]
    done = field.foresee(serves=["night"])
    assert actions(done) == {"night": ("create", ["missing"]), "heavy": ("evict", ["evicted"])}
    assert done["evictions"] == [{"serve": "heavy", "container": "bed-heavy", "for": "night", "gpu_uuids": [HEAVY_GPU]}]
    assert sorted(field.bed.started()) == ["bed-fast", "bed-night"] and field.bed.started()["bed-fast"] == fast
    rests = field.foresee()
    assert actions(rests)["heavy"] == ("none", ["evicted"]) and not rests["changed"]
    field.run("down", serves=["night"])
    assert actions(field.foresee())["heavy"] == ("create", ["missing"])
    field.edit("heavy", residency="resident")
    refused = field.foresee(serves=["night"])
    assert refused["failed"] and "serve heavy 60000" in refused["msg"] and "bed-heavy" in field.bed.started()


class Stream(threading.Thread):
    """A client that streams one completion of heavy; ``text`` is what it has read, ``ended`` whether it completed."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.text, self.ended, self.begun = "", False, threading.Event()
        self.body = {"prompt": "tell", "n_predict": tokens, "stream": True, "ignore_eos": True}

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", 30002, timeout=60)
        connection.request("POST", "/completion", json.dumps(self.body), {"Content-Type": "application/json"})
        try:
            for line in connection.getresponse():
                self.text += line.decode()
                self.begun.set()
        except (OSError, http.client.HTTPException):
            self.ended = False
        self.ended = '"stop":true' in self.text


def evict_while_streaming(field: Field, **params: Any) -> tuple[dict[str, Any], Stream]:
    stream = Stream(2000)
    stream.start()
    assert stream.begun.wait(30)
    done = field.run(serves=["night"], **params)
    stream.join(30)
    assert actions(done)["heavy"] == ("evict", ["evicted"]) and "bed-heavy" not in field.bed.started()
    assert done["serves"]["night"]["ready"] is True
    return done, stream


def test_an_evicted_llama_server_completes_its_requests_in_flight_before_it_is_stopped(field: Field) -> None:
    add_night(field, args=("-c", "8192", "-np", "1", "-t", "1"))
    field.run()
    field.bed.docker("update", "--cpus=0.2", "bed-heavy")
    done, stream = evict_while_streaming(field)
    assert stream.ended and stream.text.count("data: ") > 1000
    assert "evicted" not in str(done.get("warnings"))


@pytest.mark.parametrize(
    ("tells", "said"),
    [({"SLOTS": "1"}, "evicted with 1 requests in flight: they did not end within 1 s"), ({}, "its engine does not report them")],
)
def test_an_incomplete_drain_is_reported(field: Field, tells: dict[str, str], said: str) -> None:
    add_night(field, **scripted(STREAMS="20", **tells))
    field.run()
    done, stream = evict_while_streaming(field, drain_timeout=1)
    assert said in str(done["warnings"]) and not stream.ended


# The server stopped before the request, during it, or before its answer began.
GONE = ("ConnectionRefusedError", "BrokenPipeError", "ConnectionResetError", "RemoteDisconnected")


class Asker(threading.Thread):
    """A client that requests short completions of heavy, one after the other, until one fails. answers: the texts."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[str] = []
        self.refused = ""

    def run(self) -> None:
        body = json.dumps({"prompt": "tell", "n_predict": 4, "ignore_eos": True})
        while not self.refused:
            connection = http.client.HTTPConnection("127.0.0.1", 30002, timeout=60)
            try:
                connection.request("POST", "/completion", body, {"Content-Type": "application/json"})
                self.answers.append(connection.getresponse().read().decode())
            except (OSError, http.client.HTTPException) as exc:
                self.refused = type(exc).__name__
            time.sleep(0.05)


def test_requests_to_a_draining_serve_get_complete_answers_until_it_is_stopped(field: Field) -> None:
    add_night(field, args=("-c", "8192", "-np", "2", "-t", "1"))
    field.run()
    field.bed.docker("update", "--cpus=0.3", "bed-heavy")
    asker = Asker()
    asker.start()
    _done, stream = evict_while_streaming(field)
    asker.join(30)
    assert stream.ended and asker.refused in GONE
    assert len(asker.answers) > 1 and all('"stop":true' in answer for answer in asker.answers)


def test_a_serve_that_is_off_is_removed_and_stays_absent(field: Field) -> None:
    field.run()
    field.edit("fast", residency="off")
    assert actions(field.foresee()) == {"heavy": UNCHANGED, "fast": ("evict", ["off"])}
    again = field.run()
    assert actions(again) == {"heavy": UNCHANGED, "fast": ("none", ["off"])} and not again["changed"]


# -------------------------------------------------------------------------------------------------- effective settings


def test_a_context_that_the_server_silently_cuts_is_an_error_with_both_values(field: Field) -> None:
    field.edit("heavy", args=("-c", "100000", "-np", "1", "-t", "1"))
    failed = field.run()
    assert failed["failed"] and "-c requests 100000, but the server runs with 8192" in failed["msg"]
    assert failed["serves"]["heavy"]["state"] == "setting_ignored" and failed["serves"]["fast"]["ready"] is True
    field.edit("heavy", args=("-c", "1000", "-np", "3", "-t", "1"))  # the server pads the context to 512 for each slot
    assert not field.run()["failed"]


@pytest.mark.parametrize(("told", "fails"), [("4096", True), ("8192", False), ("0", False)])
def test_a_vllm_that_runs_with_another_max_model_len_is_an_error(field: Field, told: str, fails: bool) -> None:
    field.edit("heavy", **scripted(LEN=told), engine="vllm", args=("--max-model-len", "8192"))
    answer = field.run(serves=["heavy"], compatibility="off")  # the stand-in for vLLM uses the weights of llama.cpp
    assert answer["failed"] is fails
    assert not fails or "--max-model-len requests 8192, but the server runs with 4096" in answer["msg"]
