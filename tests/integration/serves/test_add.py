"""add.yml: from a model on the host, without any hub, to a serve that site.yml brings up and the router answers from."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import yaml
from bed import RTX_5090, RTX_PRO_6000, Bed
from drive import play, succeed
from hfmodel import write_model
from hub import Hub
from serving import LLAMA


def test_a_model_on_the_host_is_proposed_written_and_brought_up(clean_bed: Bed, models: Path, tmp_path: Path) -> None:
    clean_bed.write_gpus([replace(RTX_5090, memory_used=32400), RTX_PRO_6000])
    weights = tmp_path / "weights"
    weights.mkdir()
    tmp_path.chmod(0o755)
    shutil.copy(models / "fast.gguf", weights / "hello.gguf")
    inventory = tmp_path / "inventory"
    (inventory / "host_vars/box").mkdir(parents=True)
    box = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "anvil_root": str(tmp_path / "anvil")}
    hosts = inventory / "hosts.yml"
    hosts.write_text(json.dumps({"all": {"hosts": {"box": box}}}))
    main = {
        "anvil_gpus": {"small": {"uuid": RTX_5090.uuid}, "big": {"uuid": RTX_PRO_6000.uuid, "reserve_mib": 2000}},
        "anvil_engines": {"llama_cpp": {"image": LLAMA, "args": ["-t", "1"]}},
    }
    written = inventory / "host_vars/box/main.yml"
    written.write_text(json.dumps(main))
    added = inventory / "host_vars/box/added-hello.yml"
    asked = ("-e", f"model={weights}/hello.gguf", "-e", "context=512")

    calm = {"ANSIBLE_STDOUT_CALLBACK": "anvil.serving.calm"}
    nobody = succeed("add", hosts, *asked)
    assert "serve hello: f32 by llama_cpp, 1 card, 512 tokens, on big of box" in nobody  # the other card is full
    assert "big: serve hello" in nobody and "MiB stay free, the driver reports" in nobody
    assert "Nothing was written. To write it, type the same command with -e yes=true" in nobody and not added.exists()
    done = succeed("add", hosts, *asked, "-e", "yes=true", **calm)
    assert "Next:" in done and "site" in done.rpartition("Next:")[2]
    (serve,) = yaml.safe_load(added.read_text())["anvil_serves__hello"].values()
    assert (serve["gpus"], serve["port"], serve["volumes"]) == (["big"], 30001, [f"{weights}:/models:ro"])
    assert written.read_text() == json.dumps(main)

    succeed("site", hosts)
    assert clean_bed.docker("inspect", "--format", "{{.State.Status}}", "anvil-hello") == "running"
    again = succeed("add", hosts, *asked, "-e", "yes=true", **calm)
    assert "box has the serve hello already" in again

    absent = play("add", hosts, "-e", f"model={weights}/absent.gguf")
    assert absent.returncode and "no host has readable weights at this path" in absent.stdout + absent.stderr
    hub = Hub()
    write_model(tmp_path / "hub", "a model on the hub answers")
    commit = hub.add("org/tiny", {path.name: path.read_bytes() for path in (tmp_path / "hub").iterdir()})
    on_hub = ("-e", "model=org/tiny", "-e", f"models_endpoint={hub.endpoint}", "-e", f"models_client={sys.prefix}")
    found = succeed("add", hosts, *on_hub, "-e", "yes=true", **calm)
    hub.close()
    assert f"- {commit}" in found and "by vllm, 1 card, 2,048 tokens, on big of box" in found
    keys = yaml.safe_load((inventory / "host_vars/box/added-tiny.yml").read_text())["anvil_serves__tiny"]["tiny"]
    assert (keys["port"], keys["engine"], keys["args"][:2]) == (30002, "vllm", ["--max-model-len", "2048"])
