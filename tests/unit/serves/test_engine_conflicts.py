# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Refusals of an engine's own objects: which are about the command line. The texts are those of vLLM 0.32.0 and SGLang 0.5.23."""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.serves.programs.parse_command_lines import (
    Refused,
    check_sglang_settings,
    describe_conflict,
    list_given,
)


class ValidationError(ValueError):
    """An error as pydantic raises it."""

    def __init__(self, *rows: tuple[tuple[str, ...], str]) -> None:
        super().__init__("validation error")
        self.rows = rows

    def errors(self) -> list[dict[str, Any]]:
        return [{"loc": loc, "msg": words} for loc, words in self.rows]


BALANCERS = "`--data-parallel-hybrid-lb` and `--data-parallel-external-lb` cannot be enabled together."
COLON = (
    "served_model_name cannot contain a colon (':') character. The colon is reserved for the 'model:adapter' syntax used in LoRA "
    "adapter specification. Invalid value: 'a:b'"
)
BATCH = "max_num_batched_tokens (128) must be greater than or equal to max_num_seqs (256)."


@pytest.mark.parametrize(
    ("error", "given", "unset", "words"),
    [
        (ValidationError(((), "Value error, " + BATCH)), {"max_num_batched_tokens", "max_num_seqs"}, set(), BATCH),
        # the number of tokens of a step is the engine's own, and depends on the card
        (ValidationError(((), BATCH)), {"max_num_seqs"}, {"max_num_batched_tokens"}, ""),
        (
            ValidationError((("gpu_memory_utilization",), "Input should be less than or equal to 1"), (("dtype",), "wrong")),
            {"gpu_memory_utilization"},
            set(),
            "gpu_memory_utilization: Input should be less than or equal to 1",
        ),
        (
            ValueError(BALANCERS),
            {"x_y"},
            set(),
            "",
        ),
        (
            ValueError(BALANCERS),
            {"data_parallel_hybrid_lb", "data_parallel_external_lb"},
            set(),
            "cannot be enabled together",
        ),
        # what a side container lacks
        (ValueError("enable_eplb: Expert parallelism is only supported on CUDA devices"), {"enable_eplb"}, set(), ""),
        (ValueError("enable_elastic_ep requires the NIXL package"), {"enable_elastic_ep"}, set(), ""),
        (AssertionError("Pipeline parallelism is not compatible with overlap schedule"), {"pp_size"}, set(), ""),
        (AssertionError("chunked_prefill_size must be divisible by page_size"), {"chunked_prefill_size"}, {"page_size"}, ""),
        (AssertionError("chunked_prefill_size must be divisible by page_size"), {"chunked_prefill_size"}, set(), "divisible"),
        (AssertionError(COLON), {"served_model_name"}, set(), "colon"),  # what is quoted is no word about the machine
    ],
)
def test_a_refusal_counts_only_where_it_is_about_given_settings(
    error: Exception, given: set[str], unset: set[str], words: str
) -> None:
    found = describe_conflict(error, given, unset)
    assert (words in found) if words else found == "", found


def test_the_given_settings_are_those_that_differ_from_the_defaults() -> None:
    plain = SimpleNamespace(a=None, b=[1], c=1)
    assert list_given(SimpleNamespace(a=2, b=[1], c=1, d=3), plain) == {"a", "d"}


class ServerArgs:
    """SGLang's class: checks come after the arguments were resolved."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments

    @classmethod
    def from_cli_args(cls, arguments: argparse.Namespace) -> ServerArgs:
        return cls(arguments)

    def check_server_args(self) -> None:
        given = self.arguments
        if given.model_path != "dummy" or given.device != "cuda":
            raise AssertionError("a model that is not a dummy is loaded")
        if given.chunked_prefill_size > 0 and given.chunked_prefill_size % given.page_size:
            raise AssertionError("chunked_prefill_size must be divisible by page_size")
        if ":" in given.served_model_name:
            raise AssertionError("served_model_name cannot contain a colon (':') character.")


@pytest.mark.parametrize(
    ("argv", "refused"),
    [
        ([], ""),
        (["--served-model-name", "a"], ""),
        (["--served-model-name", "a:b"], "colon"),
        (["--chunked-prefill-size", "100"], ""),
        (["--chunked-prefill-size", "100", "--page-size", "64"], "divisible"),
    ],
)
def test_sglang_checks_its_arguments_for_a_dummy_model(argv: list[str], refused: str) -> None:
    parser = argparse.ArgumentParser()
    for flag, kind in (("model-path", str), ("device", str), ("served-model-name", str)):
        parser.add_argument("--" + flag, type=kind)
    for flag in ("chunked-prefill-size", "page-size"):
        parser.add_argument("--" + flag, type=int)
    arguments = parser.parse_args(["--model-path", "/models/m", *argv])
    if refused:
        with pytest.raises(Refused, match=refused):
            check_sglang_settings(ServerArgs, arguments, parser)
    else:
        check_sglang_settings(ServerArgs, arguments, parser)
