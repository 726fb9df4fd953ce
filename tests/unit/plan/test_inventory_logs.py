"""Limits of what containers may use up: ``anvil_logs``, ``mem_limit`` and ``pids_limit``; and ``anvil_gpu_driver``."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import Limits
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import render_router, render_serves

SERVE = {"engine": "llama_cpp", "image": "i:1", "model": "/m.gguf", "port": 30002}


def plan(serve: dict[str, Any] | None = None, **variables: Any) -> Any:
    return build_plan("h", {"anvil_serves": {"a": {**SERVE, **(serve or {})}}, **variables}, {})


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        (None, Limits()),
        ({}, Limits()),
        ({"max_size": "5m"}, Limits("local", "5m", 5)),
        ({"driver": "local", "max_files": 2}, Limits("local", "20m", 2)),
        ({"driver": "engine"}, Limits("", "", 0)),
    ],
)
def test_the_logs_of_a_host(value: Any, limits: Limits) -> None:
    made = plan(anvil_logs=value)
    assert made.limits == limits
    service = render_serves(made).services["a"]
    assert service.log_driver == limits.log_driver and (service.pids_limit, service.memory_bytes) == (32768, 0)
    assert service.log_options.get("max-size", "") == limits.log_max_size


def test_a_serve_overrides_its_engine() -> None:
    engines = {"llama_cpp": {"mem_limit": "4g", "pids_limit": 100}}
    service = render_serves(plan({"pids_limit": 200}, anvil_engines=engines)).services["a"]
    assert (service.pids_limit, service.memory_bytes) == (200, 4 << 30)


def test_a_router_has_the_limits_of_the_inventory_and_its_edge_has_its_own() -> None:
    router: dict[str, Any] = {
        "image": "anvil.local/router:2.0.2",
        "mem_limit": "2g",
        "token": None,
        "tiers": [{"id": "a", "serve": "a", "context_limit": 1024}],
    }
    made = plan(anvil_router=router)
    service = render_router(made, made.router).services["router"]
    assert (service.memory_bytes, service.pids_limit) == (2 << 30, 4096)
    edge = {"mem_limit": "1g", "pids_limit": 200}
    made = plan(anvil_router={**router, "pids_limit": 300, "replicas": 2}, anvil_edge=edge)
    found = {name: (one.memory_bytes, one.pids_limit) for name, one in render_router(made, made.router).services.items()}
    assert found == {"router-1": (2 << 30, 300), "router-2": (2 << 30, 300), "edge": (1 << 30, 200)}


@pytest.mark.parametrize(
    ("serve", "variables", "words"),
    [
        ({"mem_limit": "5m"}, {}, ["anvil_serves.a.mem_limit", "less than 6m"]),
        ({"mem_limit": "80%"}, {}, ["mem_limit", "is not a size"]),
        ({"pids_limit": 1}, {}, ["pids_limit", "out of range"]),
        ({}, {"anvil_logs": {"driver": "journald"}}, ["anvil_logs.driver", "journald"]),
        ({}, {"anvil_logs": {"driver": "engine", "max_size": "5m"}}, ["anvil_logs.max_size", "no effect"]),
        ({}, {"anvil_logs": {"size": "5m"}}, ["anvil_logs.size", "max_size"]),
        ({}, {"anvil_logs": "5m"}, ["anvil_logs"]),
    ],
)
def test_a_mistake_is_named_with_its_key(serve: dict[str, Any], variables: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(AnvilError) as refused:
        plan(serve, **variables)
    assert all(word in str(refused.value) for word in words), str(refused.value)
