"""What is hidden in command lines, logs and results, and what is not."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import (
    collect_values,
    hide_secrets,
    mask_known,
    mask_problem,
    mask_text,
    mask_value,
)

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghijklmn"


@pytest.mark.parametrize(
    "words",
    [
        ["--api-key", "s3cret"],
        ["--api-key", "s3cret", "s3cret-2", "--port", "1"],
        ["--api-key=s3cret"],
        ["--api_key", "s3cret"],
        ["--hf-token=s3cret"],
        ["-hft", "s3cret"],
        ["--ssl-key-password", "s3cret"],
        ["bash", "-c", "pip install x && exec vllm serve m --api-key s3cret --port 1"],
        ["bash", "-c", "vllm serve m --api-key 's3cret and more'"],
        ["sh", "-c", 'export HF_TOKEN="s3cret"; vllm serve m'],
        ["sh", "-c", "VLLM_API_KEY=s3cret vllm serve m"],
        ["--model", "https://me:s3cret@mirror.example/m.gguf"],
        ["--model", "https://s3cret@mirror.example/m.gguf"],
        ["--model", "https://mirror.example/m.gguf?token=s3cret&x=1"],
        ["--config", '{"api_key": "s3cret", "n": 3}'],
        ["curl", "-H", "Authorization: Bearer s3cret-s3cret"],
        ["-m", "x", "hf_s3cretaaaaaaaaaaaaaaaaaaaaaa"],
        ["-m", "x", "sk-s3cretaaaaaaaaaaaaaaaa"],
    ],
)
def test_no_secret_of_a_command_line_is_shown(words: list[str]) -> None:
    assert "s3cret" not in " ".join(hide_secrets(words)) and "<hidden>" in " ".join(hide_secrets(words))


@pytest.mark.parametrize(
    "words",
    [
        ["--max-num-batched-tokens", "8", "--tool-call-parser", "x"],
        ["--tokenizer", "org/name", "--eos-token-id", "2"],
        ["--api-key-file", "/run/secrets/keys", "--ssl-keyfile", "/k.pem"],
        ["--model", "/models/key/token.gguf", "--port", "8000"],
        ["--override-kv", "tokenizer.ggml.add_bos_token=bool:false", "x"],
        ["bash", "-c", "vllm serve org/model --port 8000 2>&1 | tee /log"],
        ["--model", "https://mirror.example/m.gguf?download=true"],
    ],
)
def test_the_rest_of_a_command_line_is_shown_as_it_is(words: list[str]) -> None:
    if "--override-kv" in words:
        words = words[:1] + words[2:]
    assert hide_secrets(words) == words


@pytest.mark.parametrize(
    "line",
    [
        "INFO args: {'api_key': ['s3cret'], 'port': 8000}",
        "Namespace(host='0.0.0.0', api_key='s3cret', port=8000)",
        "main: api_key: s3cret",
        "GET /v1/models?api_key=s3cret HTTP/1.1",
        "authorization: Bearer s3cret-value",
        f"token {JWT}".replace("abcdefghijklmn", "s3cret" * 3),
    ],
)
def test_no_secret_of_a_log_line_is_shown(line: str) -> None:
    assert "s3cret" not in mask_text(line)


def test_known_values_are_hidden_wherever_they_stand_also_escaped() -> None:
    assert mask_known('say "p\\"w\\\\d" and p"w\\d', ['p"w\\d']) == 'say "<hidden>" and <hidden>'
    assert mask_known("one two", ["two", ""]) == "one two"  # too short to be a secret
    assert collect_values({"HF_TOKEN": "abcdefgh", "PORT": "12345678", "A_KEY": "1"}) == ["abcdefgh"]


def test_a_result_is_masked_by_its_keys_and_its_values() -> None:
    raw = {"HF_TOKEN": "abc", "KEY_FILE": "/x", "n": 3, "cmd": ["--api-key", "abc"], "deep": [{"password": "abc"}]}
    assert mask_value(raw) == {
        "HF_TOKEN": "<hidden>",
        "KEY_FILE": "/x",
        "n": 3,
        "cmd": ["--api-key", "<hidden>"],
        "deep": [{"password": "<hidden>"}],
    }


def test_a_problem_keeps_its_hint_and_loses_the_secrets_of_its_log() -> None:
    problem = Problem("failed", "serve x", "the value s3cret-value is wrong", "set --api-key to a name", ("api_key='s3cret'",))
    masked = mask_problem(problem, ["s3cret-value"])
    assert masked == Problem("failed", "serve x", "the value <hidden> is wrong", "set --api-key to a name", ("api_key=<hidden>",))
