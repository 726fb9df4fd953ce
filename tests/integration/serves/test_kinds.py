"""Serves of other kinds than chat: their warm-up, and their routes in a router.

Embeddings and reranking are real models on a real llama-server. ``make vllm`` has both, scores and transcription on a real vLLM.
No machine of the tests has a server for transcription or scores without it, or one for speech: these servers are stand-ins.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import render_host
from bed import REPO, Bed
from harness import run_module
from planning import TOPOLOGY, TOPOLOGY_FACTS
from rerankmodel import write_model
from serving import LLAMA, UNCHANGED, Field, actions

TOKEN = "t0ken"
ROUTER = "anvil.local/router:2.0.2"
STAND_INS = "anvil.local/engine-standins:1"
KINDS = {"embed": "embeddings", "rank": "rerank"}


def test_the_warm_up_request_matches_the_kind_and_a_wrong_kind_fails_at_once(field: Field) -> None:
    del field.serves["fast"]
    embeds = (*field.serves["heavy"].args, "--embeddings", "--pooling", "mean")
    field.edit("heavy", args=embeds, kind="embeddings", warmup=True)
    assert field.run()["serves"]["heavy"]["ready"]
    assert field.run()["changed"] is False
    field.edit("heavy", kind="rerank")
    failed = field.run()
    assert failed["failed"] and "not ready: no_completion" in failed["msg"] and "501" in failed["msg"], failed["msg"]
    assert "set kind of the serve" in failed["msg"] and failed["serves"]["heavy"]["seconds"] < 5, failed


def test_a_reranker_is_ready_after_a_real_ranking(field: Field, models: Path) -> None:
    del field.serves["fast"]
    write_model(models / "rank.gguf")
    field.edit("heavy", model="/models/rank.gguf", args=("-c", "512", "--reranking"), kind="rerank", warmup=True)
    assert field.run()["serves"]["heavy"]["ready"]
    assert field.run()["changed"] is False
    field.edit("heavy", kind="embeddings")
    assert field.run()["serves"]["heavy"]["ready"], "a reranker answers such a request with its scores"


@pytest.mark.parametrize(("kind", "other"), [("transcription", "chat"), ("score", "transcription"), ("speech", "")])
def test_the_warm_up_of_a_stand_in_for_each_other_kind(field: Field, bed: Bed, kind: str, other: str) -> None:
    bed.docker("build", "--quiet", "--tag", STAND_INS, str(REPO / "tests/testbed/images/engine-standins"))
    del field.serves["fast"]
    words = ("python3", "/opt/engine-standins/standin.py", kind)
    stand_in: dict[str, Any] = {
        "engine": "custom",
        "image": STAND_INS,
        "entrypoint": words,
        "args": ("heavy", "8080"),
        "model": "",
    }
    own: dict[str, Any] = {"cap_drop": (), "environment": {}, "mounts": (), "container_port": 8080, "served_name": "heavy"}
    field.edit("heavy", **stand_in, **own, kind=kind, warmup=True, ready_path="/health", vram_mib=9000)
    assert field.run()["serves"]["heavy"]["ready"]
    assert actions(field.run()) == {"heavy": UNCHANGED}
    if other:
        field.edit("heavy", kind=other)
        failed = field.run()
        assert "not ready: no_completion" in failed["msg"] and "set kind of the serve" in failed["msg"], failed["msg"]


def test_a_gateway_router_routes_embeddings_and_its_verification_requests_them(
    clean_bed: Bed, models: Path, tmp_path: Path
) -> None:
    write_model(models / "rank.gguf")
    serve: dict[str, Any] = {"engine": "llama_cpp", "image": LLAMA, "volumes": [f"{models}:/models:ro"]}
    variables = {
        "anvil_root": str(tmp_path / "anvil"),
        "anvil_secrets": {"router_token": None},
        "anvil_serves": {
            "heavy": {**serve, "model": "/models/heavy.gguf", "port": 30002, "args": ["-c", "1024"]},
            "embed": {
                **serve,
                "model": "/models/fast.gguf",
                "port": 30003,
                "args": ["-c", "512", "--embeddings", "--pooling", "mean"],
            },
            "rank": {**serve, "model": "/models/rank.gguf", "port": 30004, "args": ["-c", "512", "--reranking"], "warmup": True},
        },
        "anvil_router": {"image": ROUTER, "publish": "127.0.0.1:8000"},
    }
    plan = build_plan("bed", variables, {"router_token": "file"})
    rendered = render_host(plan)
    assert not run_module("anvil_serve", project=rendered["serves"], secrets={})["failed"]
    details = run_module("anvil_serve_info", project=rendered["serves"], secrets={}, overview=True)["details"]
    assert details["heavy"]["kv_cache"].startswith("KV cache: 1,024 tokens"), details
    judged = run_module("anvil_compatibility", plan=plan.as_dict(), enforce=False)["serves"]
    assert judged["heavy"]["reported"] == details["heavy"]["kv_cache"], judged
    asked = {"container": "anvil-router", "image": ROUTER}
    promoted = run_module("anvil_router_promote", **asked, config=rendered["router_files"]["config"])
    assert not promoted["failed"], promoted
    assert not run_module("anvil_serve", project=rendered["router"], secrets={"router_token": TOKEN})["failed"]
    info = run_module("anvil_router_info", **asked, token=TOKEN, ask=["heavy", "embed", "rank"], kinds=KINDS)
    assert not info["failed"], info["msg"]
    assert info["answers"]["embed"]["text"].startswith("a vector of"), info["answers"]
    assert info["answers"]["rank"]["text"] == "2 scores", info["answers"]
    wrong = run_module("anvil_router_info", **asked, token=TOKEN, ask=["embed"])
    assert wrong["failed"] and "the router returned no answer" in wrong["msg"], wrong


# Stands in for a server that transcribes (make vllm has a real one) and one that speaks: their requests and answers, no model.
AUDIO = """
import http.server, json
class Audio(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/audio/transcriptions" and b'name="file"' in body and b"RIFF" in body and b"whisper" in body:
            self.answer("application/json", json.dumps({"text": "it was silent"}).encode())
        elif self.path == "/v1/audio/speech" and json.loads(body)["response_format"] == "pcm":
            self.answer("audio/pcm", bytes(4800))
        else:
            self.send_error(400)
    def answer(self, kind, body):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("0.0.0.0", 9100), Audio).serve_forever()
"""


def test_a_gateway_router_routes_audio_to_a_server_at_a_private_address(clean_bed: Bed, models: Path, tmp_path: Path) -> None:
    clean_bed.docker("network", "create", "anvil")
    stand_in = ("run", "--detach", "--name", "audio", "--network", "anvil", "--entrypoint", "python3")
    clean_bed.docker(*stand_in, "anvil.local/base:1", "-c", AUDIO)
    address = clean_bed.docker("inspect", "--format", "{{.NetworkSettings.Networks.anvil.IPAddress}}", "audio")
    server = {"host": address, "port": 9100}
    serve = {"engine": "llama_cpp", "image": LLAMA, "volumes": [f"{models}:/models:ro"], "port": 30002}
    variables = {
        "anvil_root": str(tmp_path / "anvil"),
        "anvil_secrets": {"router_token": None},
        "anvil_serves": {"heavy": {**serve, "model": "/models/heavy.gguf", "args": ["-c", "1024"]}},
        "anvil_external": {
            "ear": {**server, "kind": "transcription", "served_name": "whisper"},
            "mouth": {**server, "kind": "speech", "served_name": "kokoro"},
        },
        "anvil_router": {
            "image": ROUTER,
            "publish": "127.0.0.1:8000",
            "tiers": [{"serve": "heavy"}, {"serve": "ear"}, {"serve": "mouth", "sample_rate": 24000}],
        },
    }
    rendered = render_host(build_plan("bed", variables, {"router_token": "file"}))
    asked = {"container": "anvil-router", "image": ROUTER}
    promoted = run_module("anvil_router_promote", **asked, config=rendered["router_files"]["config"])
    assert not promoted["failed"], promoted
    assert not run_module("anvil_serve", project=rendered["router"], secrets={"router_token": TOKEN})["failed"]
    kinds = {"ear": "transcription", "mouth": "speech"}
    info = run_module("anvil_router_info", **asked, token=TOKEN, ask=["ear", "mouth"], kinds=kinds)
    assert not info["failed"], info["msg"]
    assert {name: one["text"] for name, one in info["answers"].items()} == {"ear": "a transcription", "mouth": "speech"}
    wrong = run_module("anvil_router_info", **asked, token=TOKEN, ask=["ear"], kinds={"ear": "speech"})
    assert wrong["failed"] and "audio route is not configured" in wrong["msg"], wrong["msg"]


def test_the_loader_of_the_router_accepts_a_topology_with_every_kind_of_serve(clean_bed: Bed) -> None:
    config = render_host(build_plan("topology", TOPOLOGY, TOPOLOGY_FACTS))["router_files"]["config"]
    asked = {"container": "anvil-router", "image": ROUTER, "config": config, "validate_only": True}
    validated = run_module("anvil_router_promote", **asked)
    assert not validated["failed"], validated["msg"]
    wrong = run_module("anvil_router_promote", **{**asked, "config": config.replace("172.17.0.1", "anvil-hear")})
    assert wrong["failed"] and "private" in wrong["msg"], wrong["msg"]


def test_a_custom_engine_starts_by_its_own_command_on_its_own_port(field: Field) -> None:
    del field.serves["fast"]
    heavy = field.serves["heavy"]
    own = ("--model", heavy.model, "--alias", "own", "--host", "0.0.0.0", "--port", "8080", *heavy.args)
    field.edit(
        "heavy",
        engine="custom",
        entrypoint=("llama-server",),
        args=own,
        model="",
        served_name="own",
        container_port=8080,
        ready_path="/health",
        warmup=True,
        vram_mib=9000,
    )
    done = field.foresee()
    assert actions(done) == {"heavy": ("create", ["missing"])} and done["serves"]["heavy"]["ready"]
    before = field.bed.started()
    assert actions(field.foresee()) == {"heavy": UNCHANGED} and field.bed.started() == before
    field.edit("heavy", container_port=8081, args=tuple("8081" if word == "8080" else word for word in own))
    assert actions(field.foresee())["heavy"][0] == "recreate"
