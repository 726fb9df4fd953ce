"""Command lines are read as the engines read them: every spelling of a flag and of its value."""

from __future__ import annotations

import shlex

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.catalog import engine_options as options
from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import (
    Settings,
    flag_of,
    parse_tokens,
    read_settings,
)
from hypothesis import given
from hypothesis import strategies as st


def read(engine: str, line: str, **environment: str) -> Settings:
    return read_settings(engine, shlex.split(line), environment)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("32768", 32768),
        ("32k", 32000),
        ("32K", 32768),
        ("25.6k", 25600),
        ("1m", 1000000),
        ("1M", 1048576),
        ("0.5m", 500000),
        ("1_000", 1000),
        (" 8192 ", 8192),
        ("auto", None),
        ("-1", None),
        ("25.6K", None),
        ("1.5", None),
        ("999999t", None),
        ("", None),
        ("1e5", None),
        ("32Ki", None),
        ("i", None),
        ("5i", None),
    ],
)
def test_a_length_is_read_as_vllm_reads_it(text: str, tokens: int | None) -> None:
    assert parse_tokens(text) == tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("131072", 131072),
        ("32k", 32000),
        ("25.6k", 25600),
        ("1M", 1000000),
        ("1.5M", 1500000),
        ("128Ki", 131072),
        ("1Mi", 1048576),
        ("32K", None),
        ("1m", None),
        ("25.6Ki", None),
        ("1.5", None),
        ("128ki", None),
        ("-1", None),
    ],
)
def test_a_length_is_read_as_sglang_reads_it(text: str, tokens: int | None) -> None:
    """``human_readable_int`` of SGLang 0.5.23 has other units than that of vLLM."""
    assert parse_tokens(text, "sglang") == tokens
    assert read_settings("sglang", ["--context-length", text], {}).tokens("context") == tokens


@pytest.mark.parametrize(
    ("engine", "line", "name", "tokens"),
    [
        ("vllm", "--max-model-len 32k", options.CONTEXT, 32000),
        ("vllm", "--max_model_len=32K", options.CONTEXT, 32768),
        ("vllm", "--max-model-len=4096 --max-model-len auto", options.CONTEXT, None),
        ("vllm", "--max-model-len -1", options.CONTEXT, None),
        ("vllm", "--max-model 4096", options.CONTEXT, 4096),  # argparse takes the beginning of a flag
        ("vllm", "--max-num-batched-tokens 8K", options.BATCH, 8192),
        ("vllm", "--kv-cache-memory-bytes 10G", options.KV_BYTES, 10 * 1024**3),
        ("sglang", "--context-length 128k", options.CONTEXT, 128000),
        ("sglang", "--context-len 4096", options.CONTEXT, 4096),
        ("trtllm", "--max_seq_len 8192", options.CONTEXT, 8192),
        ("llama_cpp", "-c 4096 --ctx-size 8192", options.CONTEXT, 8192),
        ("llama_cpp", "-c 0", options.CONTEXT, None),
        ("llama_cpp", "-c 32k", options.CONTEXT, 32),  # stoi stops at the k
    ],
)
def test_a_setting_is_found_in_every_spelling(engine: str, line: str, name: str, tokens: int | None) -> None:
    assert read(engine, line).tokens(name) == tokens


@pytest.mark.parametrize(
    ("engine", "line", "counts"),
    [
        ("vllm", "-tp 2 -pp=3 --data-parallel-size 4", (2, 3, 4)),
        ("sglang", "--tp 2 --pp-size 3 --data-parallel-size=4", (2, 3, 4)),
        ("sglang", "--tensor-parallel-size 2 --pipeline_parallel_size 3 --dp-size 4", (2, 3, 4)),
        ("trtllm", "--tp_size 2 --pipeline_parallel_size 3", (2, 3, None)),
        ("vllm", "--tensor-parallel-size=2 --tensor-parallel-size=1 -tp x", (None, None, None)),
    ],
)
def test_parallel_sizes_have_short_and_long_flags(engine: str, line: str, counts: tuple[int | None, ...]) -> None:
    settings = read(engine, line)
    assert tuple(settings.count(name) for name in (options.TENSOR, options.PIPELINE, options.DATA)) == counts


def test_a_flag_without_its_value_changes_nothing() -> None:
    assert read("vllm", "--dtype half --dtype").text(options.DTYPE) == "half"
    assert not read("vllm", "--dtype --enforce-eager").has(options.DTYPE)


@pytest.mark.parametrize(
    ("engine", "line", "environment", "name", "on"),
    [
        ("vllm", "--enable-sleep-mode", {}, options.SLEEP, True),
        ("vllm", "--enable-sleep-mode --no-enable-sleep-mode", {}, options.SLEEP, False),
        ("vllm", "-ep", {}, options.EXPERT, True),
        ("llama_cpp", "-fit on", {}, options.FIT, True),
        ("llama_cpp", "--fit off", {}, options.FIT, False),
        ("llama_cpp", "--fit -c 4096", {}, options.FIT, True),
        ("llama_cpp", "", {"LLAMA_ARG_FIT": "off"}, options.FIT, False),
        ("llama_cpp", "-nkvo", {}, options.KV_OFFLOAD, False),
        ("llama_cpp", "-nkvo --kv-offload", {}, options.KV_OFFLOAD, True),
        ("llama_cpp", "", {"LLAMA_ARG_NO_KV_OFFLOAD": "1"}, options.KV_OFFLOAD, False),
        ("llama_cpp", "", {"LLAMA_ARG_KV_OFFLOAD": "false"}, options.KV_OFFLOAD, False),
        ("vllm", "", {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}, options.LONG_CONTEXT, True),
        ("vllm", "", {"VLLM_USE_MODELSCOPE": "True"}, options.MODELSCOPE, True),
        ("sglang", "", {"SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN": "0"}, options.LONG_CONTEXT, False),
        ("llama_cpp", "", {"GGML_CUDA_ENABLE_UNIFIED_MEMORY": "1"}, options.UNIFIED_MEMORY, True),
    ],
)
def test_a_switch_is_on_off_or_not_given(engine: str, line: str, environment: dict[str, str], name: str, on: bool) -> None:
    settings = read(engine, line, **environment)
    assert (settings.is_on(name), settings.is_off(name)) == (on, not on)
    assert not read(engine, "").has(name)


def test_a_flag_counts_before_a_variable_and_a_note_says_so() -> None:
    settings = read("llama_cpp", "-c 4096", LLAMA_ARG_CTX_SIZE="16384", LLAMA_ARG_N_GPU_LAYERS="all", LLAMA_ARG_N_PARALLEL="")
    assert settings.tokens(options.CONTEXT) == 4096 and settings.text(options.LAYERS) == "all"
    assert settings.notes == ("LLAMA_ARG_CTX_SIZE has no effect, because -c is in the arguments",)
    assert not settings.has(options.SLOTS) and settings.spelling(options.LAYERS) == "LLAMA_ARG_N_GPU_LAYERS"


@pytest.mark.parametrize(
    "line",
    [
        """--hf-overrides '{"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}'""",
        """--hf-overrides='{"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}'""",
        "--hf-overrides.rope_parameters.rope_type yarn --hf_overrides.rope_parameters.factor=4.0",
        """--hf-overrides '{"rope_parameters": {"factor": 4.0}}' --hf-overrides.rope_parameters.rope_type yarn""",
    ],
)
def test_a_table_comes_whole_or_in_parts(line: str) -> None:
    assert read("vllm", line).table(options.OVERRIDES) == {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}


@pytest.mark.parametrize("text", ["{", "[1]", "5", "[" * 30000, "NaN", '{"a": ' * 9000])
def test_a_table_that_is_none_is_a_note(text: str) -> None:
    settings = read_settings("vllm", ["--hf-overrides", text])
    assert settings.table(options.OVERRIDES) == {} and "not a JSON object" in settings.notes[0]


def test_a_list_ends_at_the_next_flag() -> None:
    settings = read("vllm", """--lora-modules sql=/loras/sql '{"name": "code", "path": "/c"}' --served-model-name a b -tp 2""")
    assert settings.words(options.LORAS) == ("sql=/loras/sql", '{"name": "code", "path": "/c"}')
    assert settings.words(options.NAMES) == ("a", "b") and settings.count(options.TENSOR) == 2


def test_a_configuration_file_counts_below_the_arguments() -> None:
    args = ["--config", "/cfg/vllm.yaml", "--max-model-len", "8192"]
    config = {"max-model-len": 4096, "tensor_parallel_size": 2, "enable-sleep-mode": True, "hf-overrides": {"a": 1}}
    settings = read_settings("vllm", args, config=config)
    assert settings.tokens(options.CONTEXT) == 8192 and settings.count(options.TENSOR) == 2 and settings.is_on(options.SLEEP)
    assert settings.table(options.OVERRIDES) == {"a": 1}
    assert settings.spelling(options.TENSOR) == "--tensor-parallel-size in /cfg/vllm.yaml"
    replaced = read_settings("trtllm", ["--config", "/c", "--tp_size", "4"], config={"tensor_parallel_size": 2})
    assert replaced.count(options.TENSOR) == 2


def test_the_file_of_tensorrt_llm_has_its_cache_type_in_a_table() -> None:
    config = {"kv_cache_config": {"dtype": "fp8", "free_gpu_memory_fraction": 0.9}, "enable_attention_dp": True}
    settings = read_settings("trtllm", ["--extra_llm_api_options", "/c"], config=config)
    assert settings.text(options.KV_TYPE) == "fp8" and settings.is_on(options.DATA_ATTENTION)


def test_a_configuration_file_that_is_not_known_is_a_note() -> None:
    assert read("vllm", "--config /cfg/vllm.yaml").notes == ("--config /cfg/vllm.yaml: the settings in this file were not read",)


def test_an_argument_with_leading_dashes_is_a_flag() -> None:
    words = ("--max_model_len=5", "-c", "-1", "model", "", "--hf_overrides.rope_parameters.factor=4")
    assert [flag_of(word) for word in words] == ["--max-model-len", "-c", "", "", "", "--hf-overrides.rope_parameters.factor"]


@given(
    st.sampled_from(["vllm", "sglang", "trtllm", "llama_cpp", "other"]),
    st.lists(
        st.one_of(
            st.text(max_size=12),
            st.sampled_from([flag for table in options.OPTIONS.values() for option in table.values() for flag in option.flags]),
            st.builds("{}={}".format, st.sampled_from(["--hf-overrides", "--hf-overrides.a.b", "-tp"]), st.text(max_size=8)),
        ),
        max_size=8,
    ),
)
def test_no_command_line_is_an_error(engine: str, args: list[str]) -> None:
    settings = read_settings(engine, args, {"LLAMA_ARG_CTX_SIZE": "x"})
    for name in settings.given:
        settings.tokens(name), settings.count(name), settings.number(name), settings.table(name)
