"""Which stacks of images a host uses, and which registries it logs in to."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import ServePlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.image_stacks import list_stacks
from planning import plan, problems


def serve(engine: str, residency: str = "resident") -> ServePlan:
    return ServePlan(engine, engine, engine, "i", "m", "m", 1, residency=residency)


@pytest.mark.parametrize(
    ("serves", "mode", "stacks"),
    [
        ([], "", ()),
        ([serve("vllm"), serve("vllm"), serve("trtllm")], "", ("trt", "vllm")),
        ([serve("vllm"), serve("sglang", "off")], "chat", ("vllm",)),
        ([serve("llama_cpp", "on_demand")], "tool", ("llama_cpp", "tool")),
        ([], "both", ("tool",)),
        ([serve("of_a_later_release")], "", ("llama_cpp", "sglang", "tool", "trt", "vllm")),  # its stack is not known
    ],
)
def test_the_stacks_follow_the_selected_serves_and_the_deploy_mode(
    serves: list[ServePlan], mode: str, stacks: tuple[str, ...]
) -> None:
    assert list_stacks(serves, mode) == stacks


LOGIN = {"username": "ci", "password": "hf_token"}


@pytest.mark.parametrize(
    "name", ["registry.example.com", "localhost:5000", "10.0.0.1:5000", "docker.io", "https://index.docker.io/v1/", "[::1]:5000"]
)
def test_a_registry_with_a_user_and_the_name_of_a_secret_is_accepted(name: str) -> None:
    assert "hf_token" in plan(("anvil_registries", {name: LOGIN})).secret_names


@pytest.mark.parametrize(
    ("value", "where", "words"),
    [
        ([LOGIN], "anvil_registries", "must be"),
        ({"registry.example.com": "ci"}, "anvil_registries['registry.example.com']", "must be"),
        ({"registry.example.com": {"password": "hf_token"}}, "username", "has no username"),
        ({"registry.example.com": {"username": "ci"}}, "password", "has no password"),
        ({"registry.example.com": {**LOGIN, "password": "S3cret!word"}}, "password", "the value is not the name of a secret"),
        ({"registry.example.com": {**LOGIN, "email": "x"}}, "email", "unknown"),
        ({"registry.example.com/team/image": LOGIN}, "anvil_registries", ""),
    ],
)
def test_a_mistake_in_a_registry_is_told_and_no_password_is_shown(value: object, where: str, words: str) -> None:
    found = problems(("anvil_registries", value))
    assert any(where in one.where and words in one.what for one in found), found
    assert "S3cret" not in "".join(one.as_text() for one in found)
