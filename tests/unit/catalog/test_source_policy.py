"""With anvil_models_allowed set, everything that a serve names is judged, in every spelling of every engine."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin
from ansible_collections.anvil.serving.plugins.module_utils.catalog.source_policy import Judged, judge_sources
from hypothesis import given
from hypothesis import strategies as st

A, B, C = "a" * 40, "b" * 40, "c" * 40
ALLOWED = (Origin("org/model", A), Origin("org/draft", B), Origin("org/coded", C, code=True))


def judge(engine: str, line: str = "", model: str = "/models/m", **given: Any) -> list[str]:
    """What is refused: place and spelling."""
    judged = Judged(engine, model, tuple(shlex.split(line)), **{"targets": ("/models",), "origin": ALLOWED[0], **given})
    return [f"{one.place} {one.spelling}".strip() for one in judge_sources(judged, ALLOWED)]


REFUSED = [
    ("vllm", "--tokenizer other/repo"),
    ("vllm", "--tokenizer=other/repo"),
    ("vllm", "--tokenizer org/model"),  # at no commit
    ("vllm", f"--tokenizer org/model --tokenizer-revision {B}"),
    ("vllm", f"--tokenizer org/model --revision {A} --tokenizer-revision main"),
    ("vllm", "--hf-config-path other/repo"),
    ("vllm", "--hf_config_path other/repo"),
    ("vllm", "--hf-config other/repo"),  # argparse takes the beginning of a flag
    ("vllm", "--generation-config other/repo"),
    ("vllm", """--speculative-config '{"model": "org/draft", "num_speculative_tokens": 3}'"""),
    ("vllm", """--speculative-config '{"model": "org/draft", "revision": "main"}'"""),
    ("vllm", """-sc '{"model": "other/draft"}'"""),
    ("vllm", "--speculative-config.model other/draft"),
    ("vllm", "--speculative-config.model=gpt2"),
    ("vllm", "--spec-model other/draft"),
    ("vllm", "--lora-modules sql=other/lora"),
    ("vllm", "--lora-modules fine=/models/lora sql=other/lora"),
    ("vllm", """--lora-modules '{"name": "sql", "path": "other/lora"}'"""),
    ("vllm", "--lora-modules sql=org/draft"),  # an adapter cannot be pinned
    ("vllm", "--lora-modules sql=/data/lora"),  # in no volume
    ("vllm", "--lora-modules sql=/models/../data/lora"),
    ("vllm", """--default-mm-loras '{"audio": "other/lora"}'"""),
    ("vllm", "--load-format pt"),
    ("vllm", "--load-format=npcache"),
    ("vllm", "--load-format somebodys_plugin"),
    ("vllm", "--chat-template https://example.org/t.jinja"),
    ("vllm", """--model-loader-extra-config '{"tensorizer_uri": "s3://bucket/model.tensors"}'"""),
    ("vllm", """--hf-overrides '{"auto_map": {"AutoModel": "other/repo--modeling.Model"}}'"""),
    ("vllm", """--hf-overrides '{"vision_config": {"_name_or_path": "other/repo"}}'"""),
    ("vllm", "--trust-remote-code"),
    ("vllm", "--trust_remote_code"),
    ("vllm", "--trust-remote"),
    ("vllm", "--no-trust-remote-code --trust-remote-code"),
    ("vllm", "--tool-parser-plugin /models/m/parser.py"),
    ("vllm", "--reasoning-parser-plugin https://example.org/p.py"),
    ("vllm", "--some-new-model other/repo"),
    ("vllm", "--some-new-model gpt2"),
    ("vllm", "--some-new-thing https://example.org/x"),
    ("vllm", "--enable-prefix-caching other/repo"),  # after a switch
    ("vllm", "other/repo"),
    ("vllm", """--additional-config '{"draft": {"model_path": "gpt2"}}'"""),
    ("sglang", "--tokenizer-path other/repo"),
    ("sglang", "--speculative-draft-model-path other/draft"),
    ("sglang", "--speculative-draft-model-path org/draft"),
    ("sglang", "--speculative-draft-model other/draft"),
    ("sglang", "--speculative-token-map other/repo/map.pt"),
    ("sglang", "--lora-paths sql=other/lora"),
    ("sglang", "--lora-paths other/lora"),
    ("sglang", """--lora-paths '{"lora_name": "sql", "lora_path": "other/lora"}'"""),
    ("sglang", "--load-format remote"),
    ("sglang", "--load-format remote_instance"),
    ("sglang", "--speculative-draft-load-format pt"),
    ("sglang", "--trust-remote-code"),
    ("sglang", "--enable-custom-logit-processor"),
    ("trtllm", "--tokenizer other/repo"),
    ("trtllm", "--trust_remote_code"),
    ("trtllm", "--custom_module_dirs /models/m/code"),
    ("llama_cpp", "-hf other/repo"),
    ("llama_cpp", "-hfd other/repo"),
    ("llama_cpp", "--spec-draft-hf org/draft"),
    ("llama_cpp", "-hfv other/repo"),
    ("llama_cpp", "-hff model.gguf"),
    ("llama_cpp", "-mu https://example.org/m.gguf"),
    ("llama_cpp", "--mmproj-url https://example.org/m.gguf"),
    ("llama_cpp", "-mmu example.org/m.gguf"),
    ("llama_cpp", "-dr gemma3"),
    ("llama_cpp", "--gpt-oss-20b-default"),
    ("llama_cpp", "--fim-qwen-7b-spec"),
    ("llama_cpp", "--fim-qwen-1.5b-default"),
    ("llama_cpp", "-md /data/draft.gguf"),
    ("llama_cpp", "--lora /models/a.gguf,/data/b.gguf"),
    ("llama_cpp", "--lora-scaled /data/b.gguf:0.5"),
    ("llama_cpp", "--mmproj mmproj.gguf"),
    ("custom", "--model-path other/repo"),
    ("custom", "--hf-repo other/repo"),
    ("custom", "--weights https://example.org/w"),
]


@pytest.mark.parametrize(("engine", "line"), REFUSED)
def test_a_source_that_is_not_allowed_is_refused_once(engine: str, line: str) -> None:
    assert len(judge(engine, line)) == 1, line
    # Without a policy nothing is judged.
    assert judge_sources(Judged(engine, "/models/m", tuple(shlex.split(line))), None) == []


@pytest.mark.parametrize(
    ("engine", "line"),
    [
        ("vllm", "--max-model-len 8192 --gpu-memory-utilization 0.9 --kv-cache-dtype fp8 --enable-auto-tool-choice"),
        ("vllm", "--served-model-name org/anything --otlp-traces-endpoint http://collector:4317 --allowed-origins '[\"*\"]'"),
        ("vllm", f"--tokenizer org/model --tokenizer-revision {A}"),
        ("vllm", f"--tokenizer org/model --revision {A}"),
        ("vllm", "--tokenizer /models/m --hf-config-path /models/m --generation-config vllm"),
        ("vllm", "--tokenizer /usr/share/tokenizer --generation-config auto"),
        ("vllm", f'--speculative-config \'{{"model": "org/draft", "revision": "{B}", "num_speculative_tokens": 3}}\''),
        ("vllm", """--speculative-config '{"method": "ngram", "model": "ngram", "prompt_lookup_max": 4}'"""),
        ("vllm", """--speculative-config '{"model": "/models/draft"}'"""),
        ("vllm", f"--speculative-config.model org/draft --speculative-config.revision {B}"),
        ("vllm", "--lora-modules sql=/models/sql chat=/models/chat --max-loras 2 --lora-dtype auto --enable-lora"),
        ("vllm", """--lora-modules '{"name": "sql", "path": "/models/sql", "base_model_name": "org/model"}'"""),
        ("vllm", "--chat-template /vllm-workspace/examples/tool_chat_template.jinja"),
        ("vllm", "--chat-template examples/template.jinja"),
        ("vllm", "--chat-template '{{ messages }} and/or'"),
        ("vllm", "--load-format safetensors --tokenizer-mode mistral --config-format mistral --model-impl transformers"),
        ("vllm", "--no-trust-remote-code"),
        ("vllm", "--trust-remote-code --no-trust-remote-code"),
        ("vllm", "--tool-parser-plugin /plugins/parser.py"),
        ("vllm", """--hf-overrides '{"rope_parameters": {"rope_type": "yarn", "factor": 4.0}, "architectures": ["X"]}'"""),
        ("vllm", """--limit-mm-per-prompt '{"image": 2}' --compilation-config 3"""),
        ("vllm", '--kv-transfer-config \'{"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}\''),
        ("sglang", f"--speculative-draft-model-path org/draft --speculative-draft-model-revision {B}"),
        ("sglang", "--speculative-algorithm EAGLE --speculative-num-steps 3 --tool-call-parser qwen3_coder --enable-metrics"),
        ("sglang", "--dist-init-addr 10.0.0.1:5000 --attention-backend fa3 --chat-template llama-2"),
        ("sglang", "--lora-paths sql=/models/sql --lora-backend triton --max-loras-per-batch 4"),
        ("trtllm", "--max_batch_size 16 --backend pytorch --reasoning_parser qwen3 --tool_parser qwen3"),
        ("llama_cpp", "-c 8192 -ngl 99 -ctk q8_0 -fa on -ts 3,1 --jinja --alias org/name"),
        ("llama_cpp", "-md /models/draft.gguf -ngld 99 --device-draft CUDA0 --spec-draft-n-max 8 -mm /models/mmproj.gguf"),
        ("llama_cpp", "--lora-scaled /models/a.gguf:0.5,/models/b.gguf:1.0 --chat-template chatml --rpc 10.0.0.2:50052"),
        ("custom", "--model-path /models/m --port 8000 --name mine"),
    ],
)
def test_what_names_no_foreign_source_is_accepted(engine: str, line: str) -> None:
    assert judge(engine, line) == []


@pytest.mark.parametrize(
    ("engine", "name", "value", "refused"),
    [
        ("vllm", "HF_ENDPOINT", "https://mirror.example.org", True),
        ("vllm", "HF_ENDPOINT", "https://huggingface.co", False),
        ("llama_cpp", "MODEL_ENDPOINT", "https://mirror.example.org", True),
        ("vllm", "VLLM_USE_MODELSCOPE", "True", True),
        ("vllm", "VLLM_USE_MODELSCOPE", "0", False),
        ("sglang", "SGLANG_USE_MODELSCOPE", "1", True),
        ("vllm", "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1", True),
        ("vllm", "VLLM_ALLOW_INSECURE_SERIALIZATION", "1", True),
        ("vllm", "VLLM_LORA_RESOLVER_HF_REPO_LIST", "other/repo", True),
        ("vllm", "VLLM_MODEL_REDIRECT_PATH", "/models/redirect", True),
        ("llama_cpp", "LLAMA_ARG_HF_REPO", "other/repo", True),
        ("llama_cpp", "LLAMA_ARG_SPEC_DRAFT_HF_REPO", "other/repo", True),
        ("llama_cpp", "LLAMA_ARG_MMPROJ_URL", "https://example.org/m.gguf", True),
        ("llama_cpp", "LLAMA_ARG_SPEC_DRAFT_MODEL", "/data/m.gguf", True),
        ("llama_cpp", "LLAMA_ARG_SPEC_DRAFT_MODEL", "/models/m.gguf", False),
        ("custom", "MODEL_ID", "other/repo", True),
        ("custom", "MODEL_ID", "/models/m", False),
        ("custom", "WHERE", "s3://bucket/model", True),
        ("vllm", "TZ", "Europe/Berlin", False),
        ("vllm", "HTTPS_PROXY", "http://proxy:3128", False),
        ("vllm", "OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317", False),
        ("vllm", "TIKTOKEN_ENCODINGS_BASE", "/etc/encodings", False),
        ("vllm", "TIKTOKEN_ENCODINGS_BASE", "https://example.org/encodings", True),
        ("vllm", "VLLM_LOGGING_LEVEL", "INFO", False),
        ("vllm", "HF_HUB_OFFLINE", "1", False),
    ],
)
def test_variables_are_judged_like_arguments(engine: str, name: str, value: str, refused: bool) -> None:
    assert judge(engine, environment={name: value}) == [f"environment {name}"] * refused


def test_a_source_in_a_secret_cannot_be_judged() -> None:
    assert judge("llama_cpp", secrets=("LLAMA_ARG_MODEL_URL", "HF_TOKEN")) == ["secrets LLAMA_ARG_MODEL_URL"]


def test_the_words_of_an_entrypoint_are_arguments_too() -> None:
    assert judge("vllm", entrypoint=("vllm",)) == []
    assert judge("vllm", entrypoint=("env", "vllm", "serve", "--tokenizer", "other/repo")) == ["args --tokenizer"]
    assert judge("vllm", entrypoint=("sh", "-c", "exec vllm serve other/repo --trust-remote-code"))
    assert judge("vllm", entrypoint=("sh", "-c", 'exec vllm serve "$@"', "--")) == []


@pytest.mark.parametrize(
    ("engine", "model", "line", "accepted"),
    [
        ("vllm", "org/coded", f"--revision {C} --code-revision {C} --trust-remote-code", True),
        ("vllm", "org/coded", f"--revision {C} --trust-remote-code", False),
        ("vllm", "org/coded", f"--revision {C} --code-revision main --trust-remote-code", False),
        ("vllm", "org/model", f"--revision {A} --code-revision {A} --trust-remote-code", False),
        ("sglang", "org/coded", f"--revision {C} --trust-remote-code", True),
        ("sglang", "org/model", f"--revision {A} --trust-remote-code", False),
        # The code of a draft runs too.
        (
            "vllm",
            "org/coded",
            f'--revision {C} --code-revision {C} --trust-remote-code -sc \'{{"model": "org/draft", "revision": "{B}"}}\'',
            False,
        ),
    ],
)
def test_code_of_a_repository_runs_only_where_its_entry_says_so(engine: str, model: str, line: str, accepted: bool) -> None:
    assert (judge(engine, line, model) == []) == accepted


def test_code_of_weights_on_the_host_is_judged_by_their_manifest() -> None:
    for origin, accepted in ((Origin("org/coded", C), True), (Origin("org/model", A), False)):
        assert (judge("vllm", "--trust-remote-code", origin=origin, read_files=True) == []) == accepted
        assert (judge("vllm", "--tool-parser-plugin /models/m/p.py", origin=origin, read_files=True) == []) == accepted


def test_a_configuration_file_is_judged_where_it_can_be_read() -> None:
    line = "--config /models/serve.yaml"
    assert judge("vllm", line) == []  # the plan reads no file of the host
    assert judge("vllm", line, read_files=True) == ["args --config"]
    assert judge("vllm", line, read_files=True, config={"max-model-len": 8192, "served-model-name": ["org/x"]}) == []
    found = judge("vllm", line, read_files=True, config={"tokenizer": "other/repo", "lora_modules": ["sql=other/lora"]})
    assert found == ["args --tokenizer in /models/serve.yaml", "args --lora-modules in /models/serve.yaml"]
    deep = {"speculative_config": {"decoding_type": "Eagle", "speculative_model_dir": "other/draft"}, "tokenizer": "/models/m"}
    assert len(judge("trtllm", "--extra_llm_api_options /models/x.yaml", read_files=True, config=deep)) == 1
    adapters = {"lora_config": {"lora_dir": ["other/lora", "/models/lora"], "max_lora_rank": 8}}
    assert len(judge("trtllm", "--config /models/x.yaml", read_files=True, config=adapters)) == 1


@given(st.lists(st.text(max_size=30), max_size=8), st.sampled_from(["vllm", "sglang", "trtllm", "llama_cpp", "custom"]))
def test_no_command_line_breaks_the_judgement(words: list[str], engine: str) -> None:
    judge_sources(Judged(engine, "/models/m", tuple(words)), ALLOWED)
