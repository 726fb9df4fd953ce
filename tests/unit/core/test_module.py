"""What the modules share: the parameters that a result returns."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.module_utils import basic
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module_without_docker, shorten_parameter

OPTIONS = {"name": {"type": "str"}, "project": {"type": "dict"}, "secrets": {"type": "dict", "no_log": True}}
PROJECT = {"name": "anvil", "compose": "x" * 5000, "services": {f"s{n}": {"image": "a" * 100} for n in range(30)}}


def test_a_short_parameter_is_returned_whole() -> None:
    short = {
        "name": "trial",
        "state": "absent",
        "count": 3,
        "on": True,
        "none": None,
        "list": ["a", "b"],
        "gpus": [{"alias": "x"}],
    }
    assert shorten_parameter(short) == short


def test_of_a_project_the_names_and_sizes_are_returned() -> None:
    short = shorten_parameter({"project": PROJECT})
    assert short == {"project": {"name": "anvil", "compose": "(5000 characters)", "services": sorted(PROJECT["services"])}}


@pytest.mark.parametrize("ends", ["well", "with problems", "at once"])
def test_no_result_returns_a_whole_project_or_a_secret(ends: str, monkeypatch: Any, capsys: Any) -> None:
    given = {"name": "trial", "project": PROJECT, "secrets": {"key": "s3cret-value"}}
    monkeypatch.setattr(basic, "_ANSIBLE_ARGS", json.dumps({"ANSIBLE_MODULE_ARGS": given}).encode())
    monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy", raising=False)

    def work(_module: basic.AnsibleModule) -> dict[str, Any]:
        if ends == "at once":
            raise fail("it is broken", where="here", why="of the test")
        return {"changed": False, "problems": list(fail("it is broken").problems) if ends == "with problems" else []}

    with pytest.raises(SystemExit):
        run_module_without_docker(OPTIONS, work)
    printed = capsys.readouterr().out
    answer = json.loads(printed)
    assert len(printed) < 2000 and "s3cret-value" not in printed and answer["invocation"]["module_args"]["name"] == "trial"
    assert bool(answer.get("failed")) == (ends != "well")
