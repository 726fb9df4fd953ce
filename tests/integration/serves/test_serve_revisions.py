"""A change of a serve that fails goes back by itself, on a real engine; and an operator rolls a serve back."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Mount
from bed import Bed
from drive import play, succeed, write_inventory
from serving import LLAMA, SECRET, UNCHANGED, Field, actions, scripted

GOES_BACK = {"on_failure": "roll_back", "settle": 0.3}


def change(**environment: str) -> dict[str, Any]:
    return {**scripted(SERVES="heavy", **environment), "restart": "no"}


@pytest.fixture
def served(field: Field) -> Field:
    """Heavy is a scripted server that is ready; fast is another one."""
    field.edit("heavy", mounts=(), ready_timeout=20, **change())
    field.edit("fast", mounts=(), secrets={}, **scripted(SERVES="fast"))
    assert not field.run(**GOES_BACK)["failed"]
    return field


def run(field: Field, state: str = "up", **params: Any) -> dict[str, Any]:
    return field.run(state, **{**GOES_BACK, **params})


def environment(field: Field, name: str = "bed-heavy") -> dict[str, str]:
    words = json.loads(field.bed.docker("inspect", "--format", "{{json .Config.Env}}", name))
    return dict(word.split("=", 1) for word in words)


def assert_stays(field: Field) -> None:
    """Every further run fails with the old reason and touches nothing, in check mode too."""
    before = field.bed.started()
    for check in (True, False):
        again = run(field, check=check)
        assert again["failed"] and "that was my life" not in again["msg"], again["msg"]
        assert "failed on" in again["msg"] and "is not tried again" in again["msg"] and "-e again=true" in again["msg"]
        assert {name: (one["action"], one["reasons"]) for name, one in again["serves"].items()} == dict.fromkeys(
            ("heavy", "fast"), UNCHANGED
        )
        assert not again["changed"] and again["commands"] == [] and again["files"] == []
    assert field.bed.started() == before


def test_a_change_that_dies_goes_back_and_is_not_tried_again_until_it_differs(served: Field) -> None:
    fast = served.bed.started()["bed-fast"]
    served.edit("heavy", **change(LIVES="0"))
    failed = run(served)
    assert failed["failed"]
    for words in ("serve heavy: not ready: exited", "that was my life", "rolled back; revision ", "runs again", "environment"):
        assert words in failed["msg"], failed["msg"]
    assert (failed["serves"]["heavy"]["action"], failed["serves"]["heavy"]["ready"]) == ("recreate", True)
    assert "LIVES" not in environment(served) and environment(served)["HIDDEN"] == SECRET
    assert_stays(served)
    assert any("is live since" in line for line in served.info()["rolled_back"])

    # The old definition also comes back when its container is gone, and the other serve can change meanwhile.
    served.bed.docker("rm", "--force", "bed-heavy")
    served.edit("fast", **scripted(SERVES="fast", MORE="1"))
    back = run(served)
    assert back["failed"] and back["serves"]["heavy"]["ready"] is True and back["serves"]["fast"]["action"] == "recreate"
    assert "LIVES" not in environment(served) and served.bed.started()["bed-fast"] != fast

    tried = run(served, again=True)
    assert tried["failed"] and "that was my life" in tried["msg"] and "LIVES" not in environment(served)
    served.edit("heavy", **change(BETTER="1"))
    done = served.foresee(**GOES_BACK)
    assert actions(done)["heavy"] == ("recreate", ["environment"]) and environment(served)["BETTER"] == "1"
    assert actions(run(served)) == dict.fromkeys(("heavy", "fast"), UNCHANGED)
    assert served.info()["rolled_back"] == [] and [one["live"] for one in served.info()["revisions"]["heavy"]] == [True, False]
    kept = (
        [path for path in (served.root / ".revisions").rglob("*") if path.is_file()]
        if False
        else list(served.root.rglob(".revisions/*"))
    )
    assert kept and all(path.stat().st_mode & 0o777 == 0o600 and SECRET not in path.read_text() for path in kept)
    assert all(path.parent.stat().st_mode & 0o777 == 0o700 for path in kept)


def test_an_operator_rolls_back_and_it_stays_until_the_inventory_changes(served: Field) -> None:
    served.edit("heavy", **change(SECOND="1"))
    assert not run(served)["failed"]
    served.edit("heavy", **change(THIRD="1"))
    assert not run(served)["failed"]
    third, second, _first = (one["revision"] for one in served.info()["revisions"]["heavy"])
    back = served.foresee("rolled_back", **GOES_BACK, serves=["heavy"], revision="previous", by="ada")
    assert (back["revision"], back["changed"], actions(back)["heavy"][0]) == (second, True, "recreate"), back
    assert environment(served)["SECOND"] == "1"
    again = served.foresee(**GOES_BACK)
    assert actions(again) == dict.fromkeys(("heavy", "fast"), UNCHANGED) and not again["changed"]
    assert "ada rolled back to it" in str(again["warnings"])
    assert not served.foresee("rolled_back", **GOES_BACK, serves=["heavy"], revision=second[:9])["changed"]
    # A second roll back leads further back, and a name leads forward again.
    run(served, "rolled_back", serves=["heavy"])
    assert not {"SECOND", "THIRD"}.intersection(environment(served))
    assert served.foresee("rolled_back", **GOES_BACK, serves=["heavy"], revision=third[:12])["changed"]
    assert environment(served)["THIRD"] == "1" and served.info()["rolled_back"] == []
    wrong = run(served, "rolled_back", serves=["heavy"], revision="ffff")
    assert wrong["failed"] and "begins with 'ffff'" in wrong["msg"] and third[:12] in wrong["msg"]
    assert "a roll back is for one serve" in run(served, "rolled_back")["msg"]


def test_keep_and_a_first_start_leave_what_failed(field: Field) -> None:
    del field.serves["fast"]
    field.edit("heavy", mounts=(), **change(LIVES="0"))
    failed = run(field)  # there is nothing to go back to
    assert failed["failed"] and "rolled back" not in failed["msg"] and environment(field)["LIVES"] == "0"
    field.edit("heavy", **change())
    assert not run(field)["failed"]
    field.edit("heavy", on_failure="keep", **change(LIVES="0"))
    failed = run(field, on_failure=None)
    assert failed["failed"] and "rolled back;" not in failed["msg"] and environment(field)["LIVES"] == "0"
    assert "on_failure is keep" in str(failed["warnings"])
    # The option of the run counts more; the container of the failed change is there already.
    failed = run(field, on_failure="roll_back")
    assert failed["failed"] and "rolled back; revision" in failed["msg"] and "LIVES" not in environment(field)


def test_what_dies_while_it_settles_goes_back(served: Field) -> None:
    served.edit("heavy", **change(LIVES="1.5"))
    failed = run(served, settle=3)
    assert failed["failed"] and "then failed within 3 s" in failed["msg"] and "rolled back; revision" in failed["msg"]
    assert "LIVES" not in environment(served) and failed["serves"]["heavy"]["ready"] is True


def test_two_serves_that_exchanged_their_ports_and_both_fail_go_back_together(served: Field) -> None:
    heavy, fast = served.serves["heavy"].port, served.serves["fast"].port
    served.edit("heavy", port=fast, **change(LIVES="0"))
    served.edit("fast", port=heavy, restart="no", **scripted(SERVES="fast", LIVES="0"))
    failed = run(served)
    assert failed["msg"].count("rolled back; revision") == 2, failed["msg"]
    assert "LIVES" not in {**environment(served), **environment(served, "bed-fast")}
    assert {serve["ready"] for serve in failed["serves"].values()} == {True}


def test_a_port_that_another_serve_took_prevents_the_way_back(served: Field) -> None:
    """Two serves exchange their ports. One of them fails: its old port is taken by the other, which is ready."""
    heavy, fast = served.serves["heavy"].port, served.serves["fast"].port
    served.edit("heavy", port=fast, **change(LIVES="0"))
    served.edit("fast", port=heavy)
    failed = run(served)
    assert failed["failed"] and "could not be brought back either" in failed["msg"] and "taken" in failed["msg"], failed["msg"]
    assert failed["serves"]["fast"]["ready"] is True and environment(served)["LIVES"] == "0"


def test_a_serve_whose_weights_were_exchanged_is_recreated_and_a_touched_file_is_not_an_exchange(
    field: Field, tmp_path: Path
) -> None:
    models = tmp_path / "own"
    models.mkdir()
    file = models / "heavy.gguf"
    shutil.copy(field.models / "heavy.gguf", file)
    del field.serves["fast"]
    field.edit("heavy", mounts=(Mount("bind", str(models), "/models", True),))
    time.sleep(0.05)
    assert not run(field)["failed"]
    os.utime(file)
    assert actions(run(field)) == {"heavy": UNCHANGED}
    new = models / "new"
    new.write_bytes(file.read_bytes() + bytes(32))
    new.rename(file)
    assert field.info()["serves"]["heavy"]["reasons"] == ["stale_weights"]
    assert actions(field.foresee(**GOES_BACK)) == {"heavy": ("recreate", ["stale_weights"])}
    assert actions(run(field)) == {"heavy": UNCHANGED}


def test_the_playbooks_go_back_list_and_roll_back(clean_bed: Bed, models: Path, tmp_path: Path) -> None:
    heavy: dict[str, Any] = {"model": "/models/heavy.gguf", "port": 30002}

    def inventory(**keys: Any) -> Path:
        engine = {"image": LLAMA, "volumes": [f"{models}:/models:ro"], "args": ["-np", "1", "-t", "1"], "ready_timeout": 30}
        serve = {"engine": "llama_cpp", **heavy, **keys}
        return write_inventory(
            tmp_path, anvil_root=str(tmp_path / "anvil"), anvil_engines={"llama_cpp": engine}, anvil_serves={"heavy": serve}
        )

    succeed("site", inventory())
    succeed("site", inventory(args=["-c", "512"]))
    bad = inventory(entrypoint=["/bin/sh", "-c", "echo no such library >&2; exit 3"], restart="no")
    failed = play("site", bad)
    assert failed.returncode and "no such library" in failed.stdout and "rolled back; revision " in failed.stdout
    listed = succeed("serve_history", bad)
    assert listed.count('"revision": ') == 2 and "the definition in the inventory failed: not ready: exited" in listed
    assert "changed=1" in succeed("serve_rollback", bad, "-e", "serve=heavy", "-e", "revision=previous")
    kept = play("site", bad)
    assert kept.returncode == 0 and "changed=0" in kept.stdout and "rolled back to it" in kept.stdout + kept.stderr
