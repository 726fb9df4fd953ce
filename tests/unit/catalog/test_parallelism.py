"""How many cards an engine uses with its parallel sizes."""

from __future__ import annotations

import shlex

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import read_settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.parallelism import read_parallelism, states_parallelism


@pytest.mark.parametrize(
    ("engine", "line", "cards"),
    [
        ("vllm", "", 1),
        ("vllm", "-tp 4", 4),
        ("vllm", "-tp 2 -pp 2 -dp 2", 8),
        ("vllm", "-tp 2 --prefill-context-parallel-size 2", 4),
        ("vllm", "-tp 4 --decode-context-parallel-size 2", 4),
        ("vllm", "-tp 2 -dp 8 -dpl 2", 4),
        ("vllm", "-tp 2 -dp 8 --data-parallel-rank 3", 2),
        ("vllm", "-dp 8 --data-parallel-size-local 0", None),
        ("vllm", "-tp 16 --nnodes 2", None),
        ("vllm", "-tp 16 --distributed-executor-backend ray", None),
        ("vllm", "-tp 2 --enable-expert-parallel", 2),
        ("vllm", "-tp 2 -dp 4 --data-parallel-backend ray", None),
        ("sglang", "--tp 8 --dp 8 --enable-dp-attention", 8),
        ("sglang", "--tp 2 --dp 2", 4),
        ("sglang", "--tp 8 --attn-dp-size 8", 8),
        ("sglang", "--tp 4 --attn-dp-size 2 --attn-cp-size 2 --moe-dp-size 2", 4),
        ("sglang", "--tp 2 --ep 2", 2),
        ("sglang", "--tp 2 --base-gpu-id 2", 4),
        ("sglang", "--tp 2 --gpu-id-step 2", 3),
        ("trtllm", "--tp_size 2 --pp_size 2 --cp_size 2 --ep_size 2", 8),
    ],
)
def test_the_sizes_of_an_engine_make_a_number_of_cards(engine: str, line: str, cards: int | None) -> None:
    assert read_parallelism(read_settings(engine, shlex.split(line))).cards == cards


@pytest.mark.parametrize(
    ("engine", "line", "experts", "whole", "attention_data"),
    [
        ("vllm", "-tp 8", 8, 1, 1),
        ("vllm", "-tp 2 -dp 4", 8, 1, 1),  # without expert parallelism each expert is cut into eight slices
        ("vllm", "-tp 2 -dp 4 -ep", 8, 8, 1),
        ("vllm", "-dp 16 -dpl 8 -ep", 16, 16, 1),  # eight of them on another host
        ("vllm", "-dp 16 --data-parallel-rank 3 -ep", 16, 16, 1),
        ("sglang", "--tp 8 --ep 4", 0, 4, 1),
        ("sglang", "--tp 8 --dp 4 --enable-dp-attention", 0, 1, 4),
        ("sglang", "--tp 8 --attn-dp-size 4", 0, 1, 4),
        ("sglang", "--tp 8 --attention-data-parallel-size 4 --enable-dp-attention", 0, 1, 4),
        ("trtllm", "--tp_size 8 --ep_size 8", 0, 1, 1),
        ("trtllm", "--tp_size 8 --enable_attention_dp", 0, 1, 8),
    ],
)
def test_ranks_that_divide_experts_and_copy_attention(
    engine: str, line: str, experts: int, whole: int, attention_data: int
) -> None:
    found = read_parallelism(read_settings(engine, shlex.split(line)))
    assert (found.experts, found.whole, found.attention_data) == (experts, whole, attention_data)


@pytest.mark.parametrize(
    ("engine", "line", "problem"),
    [
        ("vllm", "-tp 0", "-tp is 0; it must be at least 1"),
        ("vllm", "-tp 4 -dcp 3", "-dcp 3 does not divide -tp 4"),
        ("vllm", "-tp 4 -dcp 2", ""),
        ("sglang", "--tp 8 --dp 3 --enable-dp-attention", "must divide"),
        ("sglang", "--tp 8 --dp 3", ""),
        ("sglang", "--tp 8 --attn-dp-size 3", "--attn-dp-size 3 does not divide --tp 8"),
        ("sglang", "--tp 8 --attn-dp-size 4 --attn-cp-size 4", "--attn-dp-size 4 x --attn-cp-size 4 does not divide --tp 8"),
        ("sglang", "--tp 8 --attn-dp-size 4 --attn-cp-size 2", ""),
        ("sglang", "--tp 8 --attn-dp-size 2 --dp 2", "exclude each other"),
        ("sglang", "--tp 8 --moe-dp-size 3", "--moe-dp-size 3 does not divide --tp 8"),
        ("sglang", "--tp 8 --ep 4 --moe-dp-size 2", ""),
    ],
)
def test_sizes_that_an_engine_refuses_are_named(engine: str, line: str, problem: str) -> None:
    found = read_parallelism(read_settings(engine, shlex.split(line))).problem
    assert problem in found if problem else not found


@pytest.mark.parametrize(
    ("line", "states"),
    [("", False), ("--max-model-len 1", False), ("-pp 2", True), ("-dp=2", True), ("--config /c.yaml", True), ("-ep", False)],
)
def test_arguments_that_say_how_the_cards_are_used(line: str, states: bool) -> None:
    assert states_parallelism(read_settings("vllm", shlex.split(line))) is states
