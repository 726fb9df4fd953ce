"""anvil_model downloads with the real hub client from a small hub with faults into real volumes and file systems."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bed import Bed, Gpu
from harness import run_module
from hub import Hub
from pulling import Puller

TOKEN = "hf_secretTokenThatMustNotLeak"
HUGE = random.Random(2).randbytes(24_000_000)  # the client writes in pieces of 10 MiB
PIECE = 10 * 1024 * 1024
LARGE = random.Random(1).randbytes(3_000_000)
FILES = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "model-00001.safetensors": LARGE,
    "model-00002.safetensors": LARGE[::-1],
    "original/consolidated.bin": LARGE[:5000],
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def puller(bed: Bed, hub: Hub, folder: Path) -> Puller:
    return Puller(hub, folder)


def wait_for(predicate: Any, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def fill(path: Path, leave: int) -> None:
    """Take all of a file system with this file except for ``leave`` bytes, without a moment in which it is full."""
    seen = os.statvfs(path.parent)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, seen.f_bavail * seen.f_frsize - leave)


def test_a_repository_is_fetched_once_and_pinned_to_its_commit(puller: Puller, hub: Hub) -> None:
    commit = hub.add("org/name", FILES)
    told = puller.run(check=True, ignore=["original/"])
    assert told["changed"] and not puller.folder.exists()
    assert told["fetch"]["bytes"] == sum(len(FILES[name]) for name in told["fetch"]["files"]) == 6_000_039
    assert told["commit"] == commit

    first = puller.run(ignore=["original/"])
    assert first.get("changed") and first["commit"] == commit and first["reasons"] == ["missing"], first
    assert {p.name for p in puller.target.rglob("*")} == {
        "config.json",
        "model-00001.safetensors",
        "model-00002.safetensors",
        ".anvil-model.json",
    }
    manifest = json.loads((puller.target / ".anvil-model.json").read_text())
    assert manifest["commit"] == commit and manifest["source"]["revision"] == "main"
    assert manifest["files"]["model-00001.safetensors"]["sha256"] == hashlib.sha256(LARGE).hexdigest()
    assert first["seconds"]["mib_per_second"] > 0
    assert oct((puller.target / "config.json").stat().st_mode & 0o777) == "0o644"

    hub.add("org/name", {**FILES, "config.json": b"{}"})  # the branch gets a new commit
    hub.requests.clear()
    again = puller.run(ignore=["original/"])
    assert not again["changed"] and again["commit"] == commit and hub.requests == []
    assert not puller.run(check=True, ignore=["original/"])["changed"]
    assert puller.run(state="verified", verify="full")["commit"] == commit
    assert not puller.run(revision=commit, ignore=["original/"])["changed"] and hub.requests == []

    followed = puller.run(ignore=["original/"], refresh=True)
    assert followed["changed"] and followed["commit"] != commit
    assert followed["fetch"]["files"] == ["config.json"]  # unchanged files are kept


def test_a_damaged_file_is_fetched_again_and_nothing_else(puller: Puller, hub: Hub) -> None:
    hub.add("org/name", FILES)
    assert puller.run()["changed"]
    untouched = (puller.target / "model-00002.safetensors").stat().st_ino
    path = puller.target / "model-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refused = puller.run(state="verified")
    assert refused["failed"] and "model-00001.safetensors: its size is 2999999, and was 3000000" in refused["msg"]
    mended = puller.run()
    assert (mended["reasons"], mended["fetch"]["files"]) == (["damaged"], ["model-00001.safetensors"])
    assert (puller.target / "model-00002.safetensors").stat().st_ino == untouched
    assert not puller.run()["changed"]

    seen = path.stat()
    path.write_bytes(b"?" + path.read_bytes()[1:])
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert not puller.run()["changed"]  # same size and time: only verify: full reads the content
    assert "its content changed" in puller.run(state="verified", verify="full")["msg"]
    assert puller.run(verify="full")["fetch"]["files"] == ["model-00001.safetensors"]
    path.touch()
    assert not puller.run()["changed"]  # a file with only a new time is hashed and found unchanged


def test_a_killed_download_is_resumed(puller: Puller, hub: Hub) -> None:
    hub.add("org/name", {"model.safetensors": HUGE})
    hub.faults.stall = threading.Event()
    process = puller.start()
    wait_for(lambda: puller.half_fetched() >= PIECE)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not puller.target.exists()
    time.sleep(1.0)  # the client notices that its parent has died
    hub.faults.stall.set()
    hub.faults.stall = None
    hub.requests.clear()
    assert puller.run()["changed"]
    assert [wanted.startswith("bytes=") for wanted in hub.fetched("model.safetensors")] == [True]
    assert puller.run(state="verified", verify="full")["bytes"] == len(HUGE)


def test_a_download_retries_after_rate_limits_and_cut_connections(puller: Puller, hub: Hub) -> None:
    hub.add("org/name", {"model.safetensors": HUGE})
    hub.faults.cuts, hub.faults.cut_after = 2, PIECE + 1000
    result = puller.run()
    assert result["changed"], result
    assert hub.fetched("model.safetensors") == ["", f"bytes={PIECE}-", f"bytes={2 * PIECE}-"]

    hub.add("org/other", {"model.safetensors": LARGE})
    hub.faults.too_many = 1
    result = puller.run(repo="org/other")
    assert result["changed"], result


@pytest.mark.parametrize("file", ["model-00001.safetensors", "config.json"])
def test_a_file_with_a_wrong_checksum_is_never_put_in_place(puller: Puller, hub: Hub, file: str) -> None:
    hub.add("org/name", FILES)
    hub.faults.altered.add(file)
    refused = puller.run()
    assert refused["failed"] and "does not have the checksum that the hub announces" in refused["msg"]
    assert file in refused["msg"] and not puller.target.exists()
    hub.faults.altered.clear()
    hub.requests.clear()
    assert puller.run()["changed"]
    assert hub.fetched("model-00002.safetensors") == []  # the undamaged file is not fetched again


def test_each_refusal_has_a_message_of_its_own_without_the_token(puller: Puller, hub: Hub) -> None:
    hub.add("org/name", FILES)
    hub.add("org/gated", FILES, gated=TOKEN)
    seen = {
        "gated": puller.run(repo="org/gated", token="hf_" + "wrong"),
        "missing": puller.run(repo="org/absent"),
        "revision": puller.run(revision="v9"),
        "offline": puller.run(endpoint="http://127.0.0.1:9"),
        "client": puller.run(client="/usr/bin/false-python"),
        "pattern": puller.run(allow=["*.gguf"]),
        "disk": puller.run(reserve_mib=10**9),
    }
    words = {
        "gated": "the repository is gated",
        "missing": "there is no such repository",
        "revision": "there is no such revision",
        "offline": "the hub cannot be reached",
        "client": "the Hugging Face client is missing",
        "pattern": "no file of the repository matches",
        "disk": "there is not enough room for the weights",
    }
    for kind, answer in seen.items():
        assert answer["failed"] and words[kind] in answer["msg"], (kind, answer)
        assert TOKEN not in json.dumps(answer)
        assert answer["problems"][0]["hint"], kind
    assert "to keep free" in seen["disk"]["msg"] and "short" in seen["disk"]["msg"]
    assert not puller.target.exists()

    assert puller.run(repo="org/gated", token=TOKEN)["changed"]
    kept = "".join(path.read_text(errors="replace") for path in puller.folder.rglob("*") if path.is_file())
    assert TOKEN not in kept


def test_a_full_disk_is_refused_and_the_next_run_converges(puller: Puller, hub: Hub, tmp_path: Path) -> None:
    hub.add("org/name", {"model.safetensors": LARGE})
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], check=True)
    try:
        told = puller.run(check=True, folder=str(small))
        assert told["failed"] and "2.9 MiB to fetch" in told["msg"]
        refused = puller.run(folder=str(small))
        assert refused["failed"] and "there is not enough room" in refused["msg"]
        assert hub.fetched("model.safetensors") == []
        subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
        assert puller.run(folder=str(small))["changed"]
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_disk_that_fills_up_during_a_download_keeps_the_partial_file(puller: Puller, hub: Hub, tmp_path: Path) -> None:
    hub.add("org/name", {"model.safetensors": HUGE})
    hub.faults.stall = threading.Event()
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(small)], check=True)
    process = puller.start(folder=str(small))
    try:
        wait_for(lambda: any(path.stat().st_size >= PIECE for path in small.rglob("parts/*")))
        fill(small / "other", leave=1 << 20)
        refused = json.loads(process.communicate(timeout=60)[0])  # it is told while the hub still stalls: no byte was refused
        hub.faults.stall.set()
        assert refused["failed"] and "the disk is about to be full" in refused["msg"], refused
        assert "are here, " in refused["msg"] and " are still to come, " in refused["msg"] and " short" in refused["msg"]
        assert "what was fetched is kept" in refused["msg"] and not (small / "org" / "name").exists()
        (small / "other").unlink()
        hub.faults.stall = None
        hub.requests.clear()
        assert puller.run(folder=str(small))["changed"]
        assert all(wanted.startswith("bytes=") for wanted in hub.fetched("model.safetensors"))
    finally:
        process.kill()
        process.wait()
        subprocess.run(["umount", str(small)], check=True)


def test_a_hub_that_becomes_unreachable_is_reported_and_the_partial_file_is_kept(puller: Puller, hub: Hub) -> None:
    hub.add("org/name", {"model.safetensors": HUGE})
    hub.faults.cuts, hub.faults.cut_after = 1, PIECE + 1000
    hub.faults.gone_after_cuts = True
    gone = puller.run()
    assert gone["failed"] and ("cannot be reached" in gone["msg"] or "cut short" in gone["msg"]), gone["msg"]
    assert not puller.target.exists() and puller.half_fetched() >= PIECE
    hub.faults.gone_after_cuts = False
    hub.requests.clear()
    assert puller.run()["changed"]
    assert hub.fetched("model.safetensors") == [f"bytes={PIECE}-"]


def test_two_runs_at_the_same_time_fetch_a_repository_once(puller: Puller, hub: Hub) -> None:
    hub.add("org/name", {"model.safetensors": HUGE})
    hub.faults.stall = threading.Event()
    both = [puller.start() for _run in range(2)]
    wait_for(lambda: puller.half_fetched() > 0)
    time.sleep(0.5)
    hub.faults.stall.set()
    answers = [json.loads(process.communicate(timeout=30)[0]) for process in both]
    assert sorted(answer["changed"] for answer in answers) == [False, True], answers
    assert len(hub.fetched("model.safetensors")) == 1


def test_a_foreign_folder_is_adopted_only_if_it_holds_this_model(puller: Puller, hub: Hub) -> None:
    hub.add("org/name", FILES)
    puller.target.mkdir(parents=True)
    (puller.target / "model-00001.safetensors").write_bytes(LARGE)
    (puller.target / "thesis.doc").write_text("mine")
    refused = puller.run()
    assert refused["failed"] and "thesis.doc" in refused["msg"]
    assert puller.run(state="absent")["failed"]
    (puller.target / "thesis.doc").unlink()
    adopted = puller.run()
    assert adopted["reasons"] == ["foreign"]
    assert "model-00001.safetensors" not in adopted["fetch"]["files"]


def test_a_volume_is_created_filled_used_by_a_container_and_emptied(
    puller: Puller, hub: Hub, clean_bed: Bed, models: Path
) -> None:
    phrase = models / "heavy.gguf"
    hub.add("org/name", {"heavy.gguf": phrase.read_bytes()})
    where = {"folder": None, "volume": "anvil-models"}
    told = puller.run(check=True, **where)
    assert told["changed"] and clean_bed.docker("volume", "ls", "--quiet") == ""
    assert puller.run(**where)["changed"]
    assert not puller.run(**where)["changed"]
    info = run_module("anvil_model_info", volume="anvil-models", path="org/name", context=1024, concurrency=2)
    assert info["models"][0]["architecture"] == "llama" and info["models"][0]["vram"]["total_mib"] > 512
    found = run_module("anvil_model_info", volume="anvil-models", path=".", discover=True)
    assert [model["name"] for model in found["models"]] == ["heavy"]
    assert puller.run(state="absent", check=True, **where)["changed"]
    assert puller.run(state="absent", **where)["changed"]
    assert not puller.run(state="absent", **where)["changed"]
    assert puller.run(state="verified", **where)["failed"]


def test_a_url_is_resumed_checked_and_not_requested_again(puller: Puller, hub: Hub) -> None:
    commit = hub.add("org/name", {"m.gguf": LARGE})
    url = f"{hub.endpoint}/org/name/resolve/{commit}/m.gguf?download=true"
    good = {"repo": None, "name": "single", "url": url, "sha256": hashlib.sha256(LARGE).hexdigest()}
    assert puller.run(check=True, **good)["fetch"] == {"files": ["m.gguf"], "bytes": len(LARGE)}
    assert "does not have the checksum" in puller.run(**{**good, "sha256": "0" * 64})["msg"]
    assert "needs the sha256" in puller.run(**{**good, "sha256": ""})["msg"]
    hub.faults.cuts, hub.faults.cut_after, hub.faults.too_many = 1, 1_000_000, 1
    hub.requests.clear()
    assert puller.run(**good)["changed"]
    assert "bytes=1000000-" in hub.fetched("m.gguf")
    hub.requests.clear()
    assert not puller.run(**good)["changed"] and hub.requests == []
    assert "the server has no such file" in puller.run(**{**good, "name": "x", "url": url.replace("m.gguf", "n.gguf")})["msg"]


def test_weights_placed_by_hand_need_no_network(puller: Puller, hub: Hub, tmp_path: Path) -> None:
    brought = tmp_path / "disk"
    (brought / "sub").mkdir(parents=True)
    (brought / "config.json").write_text("{}")
    (brought / "sub" / "w.safetensors").write_bytes(LARGE)
    by_hand = {"repo": None, "name": "org/name", "copy_from": str(brought)}
    assert puller.run(check=True, **by_hand)["fetch"]["bytes"] == len(LARGE) + 2
    assert puller.run(**by_hand)["changed"]
    assert not puller.run(**by_hand)["changed"]
    (brought / "config.json").write_text('{"new": 1}')
    assert puller.run(**by_hand)["reasons"] == ["source"]
    assert (puller.target / "config.json").read_text() == '{"new": 1}'

    archive = tmp_path / "m.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(brought, ".")
    packed = {**by_hand, "name": "packed", "copy_from": str(archive)}
    assert "does not have the checksum" in puller.run(**packed, sha256="0" * 64)["msg"]
    assert puller.run(**packed, sha256=hashlib.sha256(archive.read_bytes()).hexdigest())["bytes"] == len(LARGE) + 10
    archive.write_bytes(archive.read_bytes()[:2000])
    assert "the archive cannot be read" in puller.run(**{**packed, "name": "cut"})["msg"]

    evil = tmp_path / "evil.tar"
    with tarfile.open(evil, "w") as tar:
        tar.add(archive, "../../outside")
    assert "tries to write elsewhere" in puller.run(**{**packed, "name": "evil", "copy_from": str(evil)})["msg"]
    assert hub.requests == []


def test_the_weights_of_a_plan_are_found_and_checked_against_the_cards(
    puller: Puller, hub: Hub, clean_bed: Bed, models: Path, tmp_path: Path
) -> None:
    header = json.dumps({"a.weight": {"dtype": "U8", "shape": [64, 32], "data_offsets": [0, 2048]}}).encode()
    snapshot = tmp_path / "cache" / "hub" / "models--org--nvfp4" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}')
    (snapshot / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"x" * 2048)
    ada = Gpu("GPU-11111111-1111-1111-1111-111111111111", "NVIDIA L40S", 46068, compute_cap="8.9")
    clean_bed.write_gpus((ada,))

    def serve(name: str, engine: str, model: str, source: Path, target: str) -> dict[str, Any]:
        mount = {"kind": "bind", "source": str(source), "target": target, "read_only": True}
        return {"name": name, "engine": engine, "model": model, "mounts": [mount], "gpu_uuids": [ada.uuid], "args": []}

    fast = serve("fast", "sglang", "org/nvfp4", tmp_path / "cache", "/root/.cache/huggingface")
    tool = serve("tool", "llama_cpp", "/models/heavy.gguf", models, "/models")
    assert not run_module("anvil_compatibility", plan={"serves": [fast, tool]})["failed"]
    judged = run_module("anvil_compatibility", plan={"serves": [fast, tool]}, strict=True)
    assert judged["failed"] and not judged["fits"]
    found = [(p["verdict"], p["what"], p["where"]) for p in judged["findings"]]
    assert found == [("doubtful", "nvfp4 weights may not run on this card", "serve fast")]
    assert [judged["serves"][name]["verdict"] for name in ("fast", "tool")] == ["doubtful", "fits"]
    assert judged["serves"]["tool"]["format"] == "gguf"
    assert "L40S, sm_89" in judged["msg"]
    supplied = [{"uuid": ada.uuid, "name": "NVIDIA B200", "compute_capability": "10.0", "vram_total_mib": 183359}]
    assert run_module("anvil_compatibility", plan={"serves": [fast, tool]}, gpus=supplied)["fits"]
    policy = [{"repo": "org/x", "revision": "0" * 40}]
    refused = run_module("anvil_compatibility", plan={"serves": [tool]}, models_allowed=policy, enforce=False)
    assert not refused["failed"] and "origin of the weights is unknown" in refused["findings"][0]["what"]
