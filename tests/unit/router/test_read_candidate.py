# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program that reads a candidate with the image's own loader, on stand-ins for the loaders of both generations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.program_source import read_source
from ansible_collections.anvil.serving.plugins.module_utils.router.candidate_checks import parse_facts
from ansible_collections.anvil.serving.plugins.module_utils.router.programs import read_candidate

LOADER = """
import json
from types import SimpleNamespace


def load(path):
    print("a loader that prints")
    read = json.load(open(path, encoding="utf-8"))
    tiers = [SimpleNamespace(**tier) for tier in read["tiers"]]
    return SimpleNamespace(tiers=tiers, presets=read.get("presets", {}), model_routes=read.get("routes", {}), profile_path="p")


def load_server_config(path):
    if json.load(open(path, encoding="utf-8")).get("exit"):
        raise SystemExit("no server")
    return SimpleNamespace(auth_env="TOKEN")
"""
PROFILE_ROUTER = {
    "classify": "WORK_CLASSES = ['chat', 'planning']",
    "profile_store": "DECISIONS = ['allow', 'deny']\n\n\ndef default_profile():\n    return {'denied': []}\n",
    "profile_bootstrap": "def store_from_profile(document):\n    return {'denied': document['denied']}\n",
    "intent": "def resolve(request, router):\n    return request.model\n",
    "internal": "class InternalRequest:\n    def __init__(self, model, **_rest):\n        self.model = model\n",
    "policy": (
        "from types import SimpleNamespace\n\n\ndef route(intent, router, store):\n"
        "    if intent == 'raises':\n        raise RuntimeError('no decision')\n"
        "    return SimpleNamespace(tiers=[] if intent in store['denied'] else ['heavy'])\n"
    ),
}
GATEWAY_ROUTER = {"model_metadata": "def build_router_status(router, started_at):\n    return {'config_sha256': 'abc'}\n"}
CONFIG = {
    "tiers": [
        {"id": "heavy", "base_url": "http://h:1/v1", "privacy": "local"},
        {"id": "cloud", "privacy": "cloud", "health_path": "/health"},
    ],
    "presets": {"planning": ["heavy"]},
    "routes": {"llm.primary": "heavy"},
}


def read(folder: Path, rooms: dict[str, str] | None, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    """Run the program as the side container does, in a folder with a stand-in for anvil_serving; return its answers."""
    if rooms is not None:
        package = folder / "anvil_serving" / "router"
        package.mkdir(parents=True)
        for init in (package.parent, package):
            (init / "__init__.py").write_text("")
        for name, text in {"config": LOADER, **rooms}.items():
            (package / f"{name}.py").write_text(text)
    paths = {"config_path": str(folder / "config.toml"), "profile_path": str(folder / "profile.json")}
    lines = "".join(json.dumps({"config": None, "profile": None, **paths, **each}) + "\n" for each in requests)
    done = subprocess.run(
        [sys.executable, "-c", read_source(read_candidate)],
        input=lines.encode(),
        capture_output=True,
        check=True,
        timeout=30,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    answers: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(requests)
    for answer in answers:
        parse_facts(answer)
    return answers


def test_an_image_without_a_router_has_no_generation(tmp_path: Path) -> None:
    (facts,) = read(tmp_path, None, {"config": "x"})
    assert facts["generation"] is None and facts["errors"][0]["where"] == "image"


def test_a_profile_router_decides_every_route_with_the_candidates_files(tmp_path: Path) -> None:
    config = json.dumps(CONFIG)
    given = [{"config": config, "profile": json.dumps({"denied": denied})} for denied in ([], ["planning", "cloud"])]
    allowed, denied, bare = read(tmp_path, PROFILE_ROUTER, *given, {"config": config})
    assert (allowed["generation"], allowed["work_classes"], allowed["decisions"]) == (
        "profile",
        ["chat", "planning"],
        ["allow", "deny"],
    )
    assert allowed["tiers"] == [
        {"id": "heavy", "base_url": "http://h:1/v1", "steady": True},
        {"id": "cloud", "base_url": "", "steady": False},
    ]
    assert allowed["token_variable"] == "TOKEN" and allowed["profile_path"] == "p" and not allowed["errors"]
    assert allowed["routes"] == bare["routes"] == [[name, ["heavy"]] for name in ("planning", "heavy", "cloud")]
    assert denied["routes"] == [["planning", []], ["heavy", ["heavy"]], ["cloud", []]]
    assert (tmp_path / "config.toml").read_text() == config


def test_a_gateway_router_reports_its_routes_and_the_hash_of_its_config(tmp_path: Path) -> None:
    (facts,) = read(tmp_path, GATEWAY_ROUTER, {"config": json.dumps(CONFIG), "profile": "not read at all"})
    assert facts["generation"] == "gateway" and not facts["errors"]
    assert facts["routes"] == [["llm.primary", ["heavy"]]] and facts["config_sha256"] == "abc"


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"config": "{"}, ["config.toml"]),
        ({"config": json.dumps({**CONFIG, "exit": True})}, ["config.toml"]),
        ({"config": json.dumps(CONFIG), "profile": "{"}, ["profile.json"]),
        ({"config": "{", "profile": "{}"}, ["config.toml", "profile.json"]),
    ],
)
def test_an_error_of_the_loader_is_reported_once_with_its_file(tmp_path: Path, given: dict[str, str], where: list[str]) -> None:
    facts, good = read(tmp_path, PROFILE_ROUTER, given, {"config": json.dumps(CONFIG)})
    assert [error["where"] for error in facts["errors"]] == where
    assert not good["errors"], "the next candidate starts with no errors"


def test_a_route_that_cannot_be_decided_is_not_an_error(tmp_path: Path) -> None:
    config = {**CONFIG, "presets": {"raises": ["heavy"]}}
    (facts,) = read(tmp_path, PROFILE_ROUTER, {"config": json.dumps(config)})
    assert not facts["errors"] and facts["routes"] == []
