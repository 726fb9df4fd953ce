# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An inventory with two cards and two serves, and its plan after changes."""

from __future__ import annotations

import copy

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan

BIG = "GPU-d0f446cf-1771-414c-e116-a39138798a8c"
SMALL = "GPU-04d3b6e7-5691-3e86-1d34-c37999440cf1"
FACTS = {"router_token": "file", "hf_token": "vault"}
HF = "hf_abcdefghijklmnopqrstuvwxyz012345"

BASE = {
    "anvil_secrets": {"router_token": None, "hf_token": None},
    "anvil_gpus": {
        "big": {"uuid": BIG, "vram_mib": 97887, "reserve_mib": 2048, "index": 1},
        "small": {"uuid": SMALL, "vram_mib": 32607},
    },
    "anvil_serves": {
        "heavy": {
            "engine": "vllm",
            "image": "vllm/vllm-openai:v1",
            "model": "openai/gpt-oss-120b",
            "gpus": ["big"],
            "port": 30002,
            "vram_mib": 60000,
            "args": ["--max-model-len", "131072", "--enable-auto-tool-choice"],
        },
        "fast": {
            "engine": "llama_cpp",
            "image": "anvil.local/llama-server:1",
            "model": "/models/fast.gguf",
            "volumes": ["models:/models:ro"],
            "gpus": ["small"],
            "port": 30003,
            "vram_mib": 20000,
            "args": ["-c", "4096", "-np", "2"],
        },
    },
    "anvil_router": {"image": "anvil.local/router:0.13.2"},
}

DROP = object()

# Prefixes of key paths.
HEAVY, FAST, ROUTER = "anvil_serves.heavy.", "anvil_serves.fast.", "anvil_router."
# A change: two replicas behind an edge. A row of the measured profile.
TWO_REPLICAS = (ROUTER + "replicas", 2)
PROFILE_ROW = {"tier": "heavy", "work_class": "planning", "decision": "allow", "quality_score": 0.9, "sample_n": 4}

# A gateway router in front of every kind of serve that it routes: two engines of their own image, ports that differ, audio at a
# private address, a claim for each card.
TOPOLOGY = {
    "anvil_secrets": {"router_token": None, "audio_key": None},
    "anvil_gpus": {
        "big": {"uuid": BIG, "vram_mib": 97887, "reserve_mib": 2048},
        "small": {"uuid": SMALL, "vram_mib": 32607},
    },
    "anvil_serves": {
        "heavy": {
            "engine": "vllm",
            "image": "vllm/vllm-openai:v0.19.1",
            "model": "openai/gpt-oss-120b",
            "gpus": ["big", "small"],
            "vram_mib": {"big": 60000, "small": 20000},
            "port": 30002,
            "container_port": 8000,
            "args": ["--max-model-len", "32768"],
        },
        "embed": {
            "engine": "custom",
            "image": "ghcr.io/example/text-embeddings:1.9",
            "entrypoint": ["text-embeddings-router"],
            "args": ["--model-id", "Qwen/Qwen3-Embedding-8B", "--port", "80"],
            "kind": "embeddings",
            "served_name": "qwen3-embed",
            "gpus": ["big"],
            "vram_mib": 18000,
            "port": 30010,
            "container_port": 80,
            "ready_path": "/health",
        },
        "rank": {
            "engine": "vllm",
            "image": "vllm/vllm-openai:v0.19.1",
            "model": "BAAI/bge-reranker-v2-m3",
            "kind": "rerank",
            "gpus": ["small"],
            "gpu_memory_utilization": 0.2,
            "port": 30011,
        },
        "hear": {
            "engine": "custom",
            "image": "ghcr.io/example/whisper:1",
            "kind": "transcription",
            "publish": "172.17.0.1",
            "insecure": True,
            "port": 30012,
            "api_key": "audio_key",
            "key_env": "API_KEY",
        },
    },
    "anvil_external": {"mac": {"port": 8081, "kind": "speech", "served_name": "kokoro"}},
    "anvil_router": {
        "image": "anvil.local/router:2.0.2",
        "tiers": [
            {"serve": "heavy", "max_concurrency": 16},
            {"serve": "embed"},
            {"serve": "rank"},
            {"serve": "hear"},
            {"serve": "mac", "sample_rate": 24000},
        ],
        "routes": {"llm.primary": "heavy"},
    },
}
TOPOLOGY_FACTS = {"router_token": "file", "audio_key": "file"}


def changed(*changes):
    """Return BASE with changes, each a (dotted path, value); DROP removes the key."""
    tree = copy.deepcopy(BASE)
    for path, value in changes:
        *parents, last = path.split(".")
        node = tree
        for key in parents:
            node = node[key]
        if value is DROP:
            del node[last]
        else:
            node[last] = value
    return tree


def plan(*changes, facts=None, **options):
    return build_plan("h", changed(*changes), FACTS if facts is None else facts, **options)


def problems(*changes, facts=None, **options):
    with pytest.raises(AnvilError) as caught:
        plan(*changes, facts=facts, **options)
    return caught.value.problems


def deploy_mode(mode, key=True):
    """Changes for a deploy mode with a chat and a tool serve, and the facts of the secrets."""
    secrets = {"router_token": None, "hf_token": None, **({"text_api_key": None} if key else {})}
    changes = [
        ("anvil_secrets", secrets),
        (HEAVY + "part", "chat"),
        (FAST + "part", "tool"),
        ("anvil_deploy_mode", mode),
    ]
    return changes, {**FACTS, "text_api_key": "vault"}
