"""What is hidden in command lines, logs and results, and what is not."""

from __future__ import annotations

import html
import json
import shlex
import time
from urllib.parse import quote

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import (
    HIDDEN,
    collect_values,
    hide_secrets,
    is_secret_entry,
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
        ["-m", "x", "AIzas3cretaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"],
        ["-m", "x", "gsk_s3cretaaaaaaaaaaaaaaaaaaaaaa"],
        ["--apikey", "s3cret"],
        ["--apiKey", "s3cret"],
        ["--hfToken=s3cret"],
        ["--api-keys", "s3cret,other"],
        ["--api-tokens=s3cret"],
        ["--ngrok-authtoken", "s3cret"],
        ["--secret-key-base", "s3cret"],
        ["--pwd", "s3cret"],
        ["--jwt", "s3cret"],
        ["--api-ke", "s3cret"],  # argparse takes the beginning of a flag
        ["--hf-to=s3cret"],
        ["--ssl-keyfile-pass", "s3cret"],
        ["--gradio-auth", "me:s3cret"],
        ["curl", "-u", "me:s3cret", "http://x"],
        ["--api-key", "-s3cretAB_x"],  # a key may begin with a dash
        ["--otlp-headers", "authorization=s3cret"],
        ["--cookie", "session=s3cret"],
        ["https://store.example/m.gguf?sv=1&sig=s3cret%3D"],
        ["https://store.example/m.gguf?X-Amz-Signature=s3cret&x=1"],
        ["sh", "-c", "vllm serve m --api-key $(echo s3cret)"],
        ["sh", "-c", "vllm serve m --api-key \\\n  s3cret \\\n  --port 1"],
        ["python", "-c", "import os; os.environ['HF_TOKEN']='s3cret'"],
        ["--password", "1234 s3cret"],
        ["sh", "-c", "vllm serve m --api-key ${KEY:-s3cret}"],
        ["sh", "-c", "echo ${API_KEY:-s3cret}"],
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
        ["--eos-token", "2", "--bos-token", "<s>", "--pad-token", "[PAD]", "--stop-token", "<|im_end|>"],
        ["--think-end-token", "x", "--image-token", "y", "--max-total-tokens", "8"],
        ["--sort-key", "name", "--cache-key", "x", "--monkey", "x", "--num-passes", "3"],
        ["--chat-template-kwargs", '{"bos_token": "x", "num_key_value_heads": 8}'],
        ["-ot", "token_embd.weight=CPU"],
        ["sh", "-c", "vllm serve m --eos-token x --port 1"],
        # what stands for a key, or for none
        ["--api-key", "EMPTY"],
        ["--api-key", "$VLLM_API_KEY"],
        ["sh", "-c", 'exec vllm serve m --api-key "${VLLM_API_KEY:-}"'],
        ["sh", "-c", "vllm serve m --api-key $(cat /run/secrets/key) --port 1"],
        ["sh", "-c", 'HF_TOKEN="$(cat /run/secrets/hf)" vllm serve m'],
        ["--user", "1000:1000", "-u", "root", "--api-key", "dummy"],
    ],
)
def test_the_rest_of_a_command_line_is_shown_as_it_is(words: list[str]) -> None:
    assert hide_secrets(words) == words


@pytest.mark.parametrize(
    ("names", "value", "secret"),
    [
        ("HF_TOKEN HFTOKEN apiKey PGPASSWORD MYSQL_PWD DB_PASS ADMIN_PW GITHUB_PAT API_KEYS AUTHTOKEN", "s3cret-value", True),
        ("SECRET_ID AWS_SECRET_ACCESS_KEY SSH_PRIVATE_KEY JWT LITELLM_MASTER_KEY OPENAI_API_KEY_2", "s3cret-value", True),
        ("GRADIO_AUTH BASIC_AUTH", "me:s3cret", True),
        ("DATABASE_URL SENTRY_DSN", "postgres://me:s3cret@db/x", True),
        ("WEBUI_AUTH BASIC_AUTH", "oauth", False),
        ("EOS_TOKEN SORT_KEY GPG_KEY CACHE_KEY_PREFIX SECRET_MANAGER KEY_TYPE KEY_FILE TOKENIZER MONKEY PWD", "x", False),
        ("MAX_TOKENS TOKENS HF_HUB_DISABLE_IMPLICIT_TOKEN VLLM_TOKEN_BUDGET", "4096", False),
        ("OPENAI_API_KEY", "not-needed", False),
        ("OPENAI_API_KEY", "sk-no-key-required", False),
        ("OPENAI_API_KEY", "${KEY}", False),
        ("OPENAI_API_KEY DB_PASS", "12345", True),
    ],
)
def test_which_variables_hold_a_secret(names: str, value: str, secret: bool) -> None:
    assert [name for name in names.split() if is_secret_entry(name, value) is not secret] == []


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


@pytest.mark.parametrize("part", ["key", "pat.pat", "AIza", "a.key-", "http://", "api_key:" + " " * 50, "--key ", 'key="'])
def test_what_a_container_prints_cannot_hold_up_a_run(part: str) -> None:
    began = time.monotonic()
    mask_text(part * 20_000)
    assert time.monotonic() - began < 10  # tens of seconds and more with a pattern that looks back


def test_known_values_are_hidden_wherever_they_stand_also_escaped() -> None:
    assert mask_known('say "p\\"w\\\\d" and p"w\\d', ['p"w\\d']) == 'say "<hidden>" and <hidden>'
    secret = "a\"b\\c'd/e<f\nä"
    inner = json.dumps({"k": secret})
    texts = [json.dumps(secret), json.dumps(secret, ensure_ascii=False), json.dumps(inner), html.escape(secret)]
    texts += [
        repr(secret),
        repr([secret]),
        repr(secret.encode())[1:],
        repr(repr(secret)),
        shlex.quote(secret),
        quote(secret, safe=""),
    ]
    for text in texts:
        masked = mask_known(text, [secret])
        assert HIDDEN in masked and "b" not in masked, text
    key = "-----BEGIN KEY-----\nc2VjcmV0c2VjcmV0\n-----END KEY-----\n"
    assert mask_known("line 2: c2VjcmV0c2VjcmV0", [key]) == "line 2: <hidden>"
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
