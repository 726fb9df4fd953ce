"""Which replica gets the new token first, when requests would fail, and how a server is left out of the edge's configuration."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_files import rest_servers
from ansible_collections.anvil.serving.plugins.module_utils.router.token_rotation import (
    Rotation,
    TokenState,
    choose_first,
    find_failing,
    find_stale,
)

ROWS: list[tuple[dict[str, str], str, str, list[str]]] = [
    # tokens of the replicas, presented by the edge -> the first, all that are stale
    ({"a": "old", "b": "old"}, "old", "a", ["a", "b"]),
    # "a" was recreated by a run that was killed: the edge is turned to it
    ({"a": "new", "b": "old"}, "old", "", ["b"]),
    ({"a": "old", "b": "new"}, "old", "", ["a"]),
    # the edge has turned, "b" was being recreated
    ({"a": "new", "b": ""}, "new", "", ["b"]),
    ({"a": "new", "b": "new"}, "new", "", []),
    # the run before was killed with another new token: "a" takes no requests
    ({"a": "older", "b": "old"}, "old", "a", ["a", "b"]),
    ({"a": "old", "b": "older"}, "old", "b", ["a", "b"]),
    ({"a": "old", "b": ""}, "old", "b", ["a", "b"]),
]


@pytest.mark.parametrize(("tokens", "presented", "first", "stale"), ROWS)
def test_the_replica_that_takes_no_requests_is_first(
    tokens: dict[str, str], presented: str, first: str, stale: list[str]
) -> None:
    state = TokenState(tokens, presented)
    assert (choose_first(state, "new"), find_stale(state, "new")) == (first, stale)


@pytest.mark.parametrize(
    ("tokens", "presented", "clients", "why"),
    [
        ({"a": "old", "b": "old"}, "old", {"alice": ["alice"]}, ""),
        ({"a": "old"}, "old", {"alice": ["alice"]}, "one replica"),
        ({"a": "old", "b": "old"}, "old", {"secret:token": ["token"]}, "anvil_clients is not written"),
        ({"a": "old", "b": "old"}, "", {"alice": ["alice"]}, "no edge"),
    ],
)
def test_requests_fail_where_clients_hold_the_token_or_nothing_else_answers(
    tokens: dict[str, str], presented: str, clients: dict[str, Any], why: str
) -> None:
    rotation = Rotation(None, {"clients": clients}, "token", {}, 0.0, False)  # type: ignore[arg-type]
    found = find_failing(rotation, TokenState(tokens, presented))
    assert why in found and bool(why) == bool(found)


def test_only_the_named_servers_are_disabled() -> None:
    config = "backend routers\n    server anvil-router-1 10.0.0.1:8000\n    server anvil-router-10 10.0.0.2:8000\n"
    assert rest_servers(config, []) == config
    assert rest_servers(config, ["anvil-router-1"]) == config.replace("10.0.0.1:8000", "10.0.0.1:8000 disabled")
