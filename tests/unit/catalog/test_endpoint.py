"""Where a serve answers, and under which names."""

from __future__ import annotations

import shlex

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import read_settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.endpoint import Endpoint, list_lora_names, read_endpoint


@pytest.mark.parametrize(
    ("engine", "line", "environment", "endpoint"),
    [
        ("vllm", "", {}, Endpoint()),
        ("vllm", "--ssl-keyfile /k --ssl-certfile=/c", {}, Endpoint(tls=True)),
        ("vllm", "--ssl-certfile /c", {}, Endpoint()),
        ("vllm", "--root-path /api", {}, Endpoint()),
        ("vllm", "--uds /tmp/vllm.sock", {}, Endpoint(socket="/tmp/vllm.sock")),
        ("sglang", "--ssl-keyfile /k --ssl-certfile /c", {}, Endpoint(tls=True)),
        ("llama_cpp", "--api-prefix qwen/", {}, Endpoint(prefix="/qwen")),
        ("llama_cpp", "", {"LLAMA_ARG_API_PREFIX": "/qwen"}, Endpoint(prefix="/qwen")),
        ("llama_cpp", "", {"LLAMA_ARG_SSL_KEY_FILE": "/k", "LLAMA_ARG_SSL_CERT_FILE": "/c"}, Endpoint(tls=True)),
    ],
)
def test_flags_move_an_endpoint(engine: str, line: str, environment: dict[str, str], endpoint: Endpoint) -> None:
    assert read_endpoint(read_settings(engine, shlex.split(line), environment)) == endpoint


@pytest.mark.parametrize(
    ("engine", "line", "names"),
    [
        ("vllm", "--lora-modules sql=/l/sql code=/l/code", ("sql", "code")),
        ("vllm", """--lora-modules '{"name": "sql", "path": "/l"}' '{"broken'""", ("sql",)),
        ("sglang", "--lora-paths sql=/l/sql", ("heavy:sql",)),
        ("llama_cpp", "--lora /l/sql.gguf", ()),
    ],
)
def test_a_lora_module_is_a_model_of_its_own(engine: str, line: str, names: tuple[str, ...]) -> None:
    assert list_lora_names(read_settings(engine, shlex.split(line)), "heavy") == names
