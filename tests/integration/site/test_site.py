"""site.yml as an operator runs it: a first run, a second run, and runs with mistakes or failures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bed import Bed
from conftest import COLLECTIONS, REPO


class Operator:
    """An operator with inventory/local and a cache folder of their own."""

    def __init__(self, cache: Path, models: Path) -> None:
        self.cache = cache
        (cache / "models").symlink_to(models)
        (cache / "router.token").write_text("a-token-of-the-tests")
        (cache / "router.token").chmod(0o600)

    def play(self, *words: str, inventory: Path = REPO / "inventory/local") -> tuple[int, str]:
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        }
        playbook = str(Path(sys.executable).with_name("ansible-playbook"))
        argv = [playbook, str(REPO / "site.yml"), "-i", str(inventory), "-e", f"cache_dir={self.cache}", *words]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def override(self, **variables: Any) -> list[str]:
        return ["-e", json.dumps(variables)]


@pytest.fixture
def operator(clean_bed: Bed, tmp_path: Path, models: Path) -> Operator:
    tmp_path.chmod(0o755)
    return Operator(tmp_path, models)


def changed(printed: str) -> int:
    (count,) = re.findall(r"changed=(\d+)", printed)
    return int(count)


def serve(name: str, **fields: Any) -> dict[str, Any]:
    port = {"heavy": 30002, "fast": 30003}[name]
    return {"engine": "llama_cpp", "model": f"/models/{name}.gguf", "port": port, **fields}


def test_check_predicts_the_first_run_and_the_second_changes_nothing(clean_bed: Bed, operator: Operator) -> None:
    code, predicted = operator.play("--check")
    assert code == 0, predicted
    assert clean_bed.docker("ps", "--all", "--quiet") == ""
    code, done = operator.play()
    assert code == 0 and changed(done) == changed(predicted) == 3, done
    before = clean_bed.docker("ps", "--no-trunc", "--format", "{{.ID}} {{.Status}}").split()[0]
    code, again = operator.play("-vvv")
    assert code == 0 and changed(again) == 0, again
    assert clean_bed.docker("ps", "--no-trunc", "--format", "{{.ID}} {{.Status}}").split()[0] == before
    assert "a-token-of-the-tests" not in predicted + done + again


def test_the_tier_of_a_serve_that_does_not_run_gets_no_test_request(clean_bed: Bed, operator: Operator) -> None:
    resting = {"heavy": serve("heavy"), "fast": serve("fast", residency="on_demand")}
    code, printed = operator.play(*operator.override(anvil_serves=resting))
    assert code == 0, printed
    assert sorted(clean_bed.docker("ps", "--format", "{{.Names}}").split()) == ["anvil-heavy", "anvil-router"]


def test_a_failed_serve_is_named_and_the_other_keeps_running(clean_bed: Bed, operator: Operator) -> None:
    broken = {"heavy": serve("heavy", args=["--no-such-flag"]), "fast": serve("fast")}
    code, printed = operator.play(*operator.override(anvil_serves=broken), "-e", "engine_check=off")
    assert code != 0 and "serve heavy: not ready: restart_loop" in printed
    assert "invalid argument: --no-such-flag" in printed and "Traceback" not in printed
    assert "anvil-fast" in clean_bed.docker("ps", "--format", "{{.Names}}")
    code, printed = operator.play()
    assert code == 0, printed


def test_a_mistake_stops_its_host_before_it_is_contacted_and_with_strict_every_host(clean_bed: Bed, operator: Operator) -> None:
    folder = operator.cache / "two-hosts"
    folder.mkdir()
    (folder / "hosts.yml").write_text("all: {hosts: {good: {ansible_host: 192.0.2.1}, bad: {ansible_host: 192.0.2.2}}}\n")
    (folder / "host_vars").mkdir()
    (folder / "host_vars" / "good.yml").write_text(json.dumps({"anvil_serves": {"a": {**serve("heavy"), "image": "i:1"}}}))
    (folder / "host_vars" / "bad.yml").write_text(
        json.dumps({"anvil_servs": {}, "anvil_serves": {"a": {"engine": "vlm", "port": 99999}}})
    )
    code, printed = operator.play("-e", "strict=true", inventory=folder)
    assert code != 0
    for words in ("anvil_servs", "vllm", "99999", "model", "image", "no host was contacted"):
        assert words in printed, printed
    assert "Traceback" not in printed and "UNREACHABLE" not in printed
    assert re.search(r"good\s+: ok=1 ", printed), printed
    code, printed = operator.play(inventory=folder)
    assert code != 0 and "[good]: UNREACHABLE" in printed and "[bad]: UNREACHABLE" not in printed
    assert clean_bed.docker("ps", "--all", "--quiet") == ""


def test_a_new_router_image_checks_the_config_with_its_own_loader(clean_bed: Bed, operator: Operator) -> None:
    assert operator.play()[0] == 0
    clean_bed.docker("tag", "anvil.local/router:0.13.2", "anvil.local/router:again")
    router = {"image": "anvil.local/router:again", "token": "router_token"}
    code, printed = operator.play(*operator.override(anvil_router=router))
    assert code == 0, printed
    image = clean_bed.docker("inspect", "--format", "{{.Config.Image}}", "anvil-router")
    assert image == "anvil.local/router:again"
