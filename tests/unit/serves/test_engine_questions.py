# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions to an image's program about a command line, and the meaning of its answers. The texts come from real programs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.serves.engine_questions import (
    ACCEPTED,
    DOUBTFUL,
    NO_SUCH_MODEL,
    REFUSED,
    UNKNOWN,
    Question,
    build_question,
    describe_change,
    read_llama_answer,
    read_python_answer,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import ObservedImage

IMAGE = ObservedImage("sha256:1", entrypoint=("llama-server",))
SERVE = ("serve", "m", "--port", "30002")


def service(engine: str, command: tuple[str, ...], entrypoint: tuple[str, ...] | None = None) -> Service:
    made = Service(name="heavy", container="anvil-heavy", image="i", command=command, entrypoint=entrypoint)
    return replace(made, anvil={"engine": engine})


@pytest.mark.parametrize(
    ("engine", "entrypoint", "command", "style", "argv"),
    [
        ("vllm", ("vllm",), SERVE, "vllm", SERVE),
        ("vllm", ("/opt/nvidia/nvidia_entrypoint.sh", "/usr/local/bin/vllm"), SERVE, "vllm", SERVE),
        ("vllm", ("python3", "-m", "vllm.entrypoints.openai.api_server"), ("--model", "m"), "vllm_server", ("--model", "m")),
        ("vllm", ("sh", "-c", "vllm serve m"), (), "", ()),
        ("vllm", ("llama-server",), ("--model", "m"), "", ()),
        ("sglang", (), ("python3", "-m", "sglang.launch_server", "--model-path", "m"), "sglang", ("--model-path", "m")),
        ("sglang", ("sglang",), ("serve", "m", "--tp", "2"), "sglang_serve", ("m", "--tp", "2")),
        ("vllm", (), ("python3", "-m", "vllm.entrypoints.cli.main", *SERVE), "vllm", SERVE),
        ("trtllm", ("trtllm-serve",), ("m", "--tp_size", "2"), "trtllm", ("m", "--tp_size", "2")),
        ("trtllm", ("trtllm-llmapi-launch", "trtllm-serve"), ("m",), "trtllm", ("m",)),
        ("trtllm", (), ("python3", "-m", "tensorrt_llm.commands.serve", "m"), "trtllm", ("m",)),
        ("llama_cpp", None, ("--model", "/m", "-c", "1"), "llama", ("--model", "/m", "-c", "1")),
        ("llama_cpp", ("/app/tools.sh",), ("--server", "-m", "/m"), "", ()),
        ("", None, ("--model", "/m"), "", ()),
    ],
)
def test_the_program_is_found_in_the_whole_command_line(
    engine: str, entrypoint: tuple[str, ...] | None, command: tuple[str, ...], style: str, argv: tuple[str, ...]
) -> None:
    question = build_question(service(engine, command, entrypoint), IMAGE)
    assert (question.style, question.argv) == (style, argv) if question else (style, argv) == ("", ())


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        (("--model", "/m", "-c", "1"), ("--model", NO_SUCH_MODEL, "-c", "1")),
        (("-m", "/m"), ("-m", NO_SUCH_MODEL)),
        (("--models-preset", "/p.ini"), ("--models-preset", "/p.ini", "--version")),
        (("--model", "/m", "--api-key", "abc"), ("--model", NO_SUCH_MODEL, "--api-key", "<hidden>")),
    ],
)
def test_llama_server_is_asked_without_its_model_and_without_secrets(command: tuple[str, ...], asked: tuple[str, ...]) -> None:
    question = build_question(service("llama_cpp", command), IMAGE)
    assert question is not None and question.command == asked and question.entrypoint == ("llama-server",)


def test_a_command_with_a_secret_inside_an_argument_is_never_sent() -> None:
    words = ("--model", "/m", "--x", '{"api_key": "abcdefgh"}')
    assert build_question(service("llama_cpp", words), IMAGE) is None


def test_a_model_that_a_variable_names_is_never_downloaded() -> None:
    made = replace(service("llama_cpp", ("--model", "/m")), environment={"LLAMA_ARG_HF_REPO": "a/b"})
    question = build_question(made, IMAGE)
    assert question is not None and question.command[-1] == "--version"


def llama(*argv: str, **environment: str) -> Question:
    return Question("heavy", "llama", argv, environment, ("llama-server",), argv)


USAGE = """

usage:
-c,    --ctx-size N   size of the prompt context
                (env: LLAMA_ARG_CTX_SIZE)


to show complete usage, run with -h"""


@pytest.mark.parametrize(
    ("question", "output", "outcome", "argument", "words"),
    [
        (llama("--bogus"), "error: invalid argument: --bogus", REFUSED, "--bogus", "invalid argument: --bogus"),
        (llama("--bogus"), "error: unknown argument: --bogus\nusage: llama-server", REFUSED, "--bogus", "unknown argument"),
        (llama("-c", "abc"), 'error while handling argument "-c": stoi' + USAGE, REFUSED, "-c", "stoi (value: abc)"),
        (
            llama(LLAMA_ARG_CTX_SIZE="abc"),
            'error while handling environment variable "LLAMA_ARG_CTX_SIZE": stoi\n\n',
            REFUSED,
            "LLAMA_ARG_CTX_SIZE",
            "stoi (value: abc)",
        ),
        (
            llama("--embedding", "--reranking"),
            "error: either --embedding or --reranking can be specified, but not both",
            REFUSED,
            "",
            "but not both",
        ),
        (llama("-dev", "CUDA0"), 'error while handling argument "-dev": invalid device: CUDA0', UNKNOWN, "", "names cards"),
        (llama("--rpc", "h:1"), 'error while handling argument "--rpc": failed to find RPC backend', UNKNOWN, "", "names cards"),
        (
            llama("--chat-template-file", "/t"),
            "error while handling argument \"--chat-template-file\": error: failed to open file '/t'",
            DOUBTFUL,
            "--chat-template-file",
            "failed to open",
        ),
        (llama("-c", "1"), "E llama_model_load: failed to load model from " + NO_SUCH_MODEL, ACCEPTED, "", ""),
        (llama("--version"), "version: 0.7.0 (build 11669)\nbuilt with GNU", ACCEPTED, "", ""),
        # August 2024: usage on the other stream, and no name of the argument
        (llama("-c", "abc"), "usage: llama-server [options]\n\nstoi", REFUSED, "", "needs a number"),
        (
            llama(LLAMA_ARG_CTX_SIZE="abc"),
            "terminate called after throwing an instance of 'std::invalid_argument'\n  what():  stoi",
            REFUSED,
            "",
            "needs a number",
        ),
        (
            llama("-m", "/m", "-fa", "on"),
            "error: unknown argument: on\nusage: llama-server",
            REFUSED,
            "-fa",
            "value for -fa",
        ),
        (llama("-c"), "error: invalid parameter for argument: -c", REFUSED, "-c", "invalid parameter"),
        (llama("--jinja"), "usage: llama-server [options]\n\nerror: unknown argument: --jinja", REFUSED, "--jinja", "unknown"),
        (
            llama("--grammar-file", "/g"),
            "error: failed to open file '/g'\nerror: invalid parameter for argument: --grammar-file",
            DOUBTFUL,
            "",
            "failed to open",
        ),
        (
            llama("-c", "1"),
            "llama_model_load: error loading model: llama_model_loader: failed to load model from " + NO_SUCH_MODEL,
            ACCEPTED,
            "",
            "",
        ),
        (llama("--version"), "version: 1 (1d1ccce)\nbuilt with cc", ACCEPTED, "", ""),
        # August 2025 takes no value for -fa, and has --no-mmap
        (llama("-fa", "on"), "register_backend: registered backend CPU\nerror: invalid argument: on", REFUSED, "-fa", "for -fa"),
        (llama("-ot", "x=CPU"), "error: invalid argument: -ot", REFUSED, "-ot", "invalid argument"),  # no card would help
        (llama("--load-mode", "none"), "error: invalid argument: --load-mode", REFUSED, "--load-mode", "invalid argument"),
        # b11669 (2026) wants a value for -fa, has lost --no-mmap, and names the successor of what was removed
        (llama("--no-mmap"), "error: invalid argument: --no-mmap", REFUSED, "--no-mmap", "invalid argument"),
        (
            llama("-fa", "--jinja"),
            "error while handling argument \"-fa\": error: unknown value for --flash-attn: '--jinja'" + USAGE,
            REFUSED,
            "-fa",
            "unknown value for --flash-attn",
        ),
        (
            llama("--draft", "3"),
            'error while handling argument "--draft": the argument has been removed. use --spec-draft-n-max' + USAGE,
            REFUSED,
            "--draft",
            "use --spec-draft-n-max",
        ),
        (
            llama("--defrag-thold", "0.1"),
            "0.00.008.893 W DEPRECATED: --defrag-thold is deprecated and no longer necessary to specify\n"
            "0.00.022.808 I srv    load_model: loading model '" + NO_SUCH_MODEL + "'",
            ACCEPTED,
            "",
            "--defrag-thold is deprecated",
        ),
        (llama("-c", "1"), "llama-server: error while loading shared libraries: libcuda.so.1", UNKNOWN, "", "libcuda"),
        (llama("-c", "1"), "", UNKNOWN, "", "no output"),
    ],
)
def test_the_output_of_llama_server_is_classified(
    question: Question, output: str, outcome: str, argument: str, words: str
) -> None:
    answer = read_llama_answer(question, output)
    assert (answer.outcome, answer.argument) == (outcome, argument) and words in answer.words, answer


def test_the_usage_of_the_option_is_shown() -> None:
    answer = read_llama_answer(llama("-c", "abc"), 'error while handling argument "-c": stoi' + USAGE)
    assert any("--ctx-size N" in line for line in answer.log) and not any("to show" in line for line in answer.log)


@pytest.mark.parametrize(
    ("argv", "raw", "outcome", "argument", "words"),
    [
        ((), {"outcome": "accepted"}, ACCEPTED, "", ""),
        (
            ("--bogus", "1"),
            {"outcome": "refused", "words": "unrecognized arguments: --bogus 1"},
            REFUSED,
            "--bogus",
            "unrecognized",
        ),
        (
            ("--speculative_config", "{bad"),
            {"outcome": "refused", "words": "argument --speculative-config/-sc: Value {bad cannot be converted"},
            REFUSED,
            "--speculative_config",
            "cannot be converted",
        ),
        (
            ("--enable-auto-tool-choice",),
            {"outcome": "refused", "words": "Error: --enable-auto-tool-choice requires --tool-call-parser"},
            REFUSED,
            "--enable-auto-tool-choice",
            "requires",
        ),
        (
            ("--max-model-len", "abc"),
            {"outcome": "refused", "words": "argument --max-model-len: invalid human_readable_int value: 'abc'"},
            REFUSED,
            "--max-model-len",
            "'abc'",
        ),
        (
            ("--max-num-seqs", "4", "--tool-call-parser", "nope"),
            {"outcome": "refused", "words": "invalid tool call parser: nope (chose from { hermes })"},
            REFUSED,
            "--tool-call-parser",
            "nope",
        ),
        (("--config", "/x"), {"outcome": "missing_file", "words": "No such file: '/x'"}, DOUBTFUL, "", "No such file"),
        (
            ("--chat-template", "/x.jinja"),
            {"outcome": "refused", "words": "The supplied chat template string (/x.jinja) appears path-like, but doesn't exist!"},
            DOUBTFUL,
            "--chat-template",
            "doesn't exist",
        ),
        ((), {"outcome": "unknown", "words": "ImportError: libcuda"}, UNKNOWN, "", "libcuda"),
        ((), {}, UNKNOWN, "", ""),
    ],
)
def test_the_answers_of_python_parsers_are_classified(
    argv: tuple[str, ...], raw: dict[str, str], outcome: str, argument: str, words: str
) -> None:
    answer = read_python_answer(Question("heavy", "vllm", argv, {}), raw)
    assert (answer.outcome, answer.argument) == (outcome, argument) and words in answer.words, answer


RECORDED = json.loads((Path(__file__).parents[1] / "data/sglang-0.5.23-answers.json").read_text())


@pytest.mark.parametrize("row", RECORDED["answers"], ids=lambda row: " ".join(row["argv"]) or "none")
def test_what_the_real_sglang_answered_names_the_argument(row: dict[str, Any]) -> None:
    """Recorded by parse_command_lines in a venv with SGLang, whose import takes too long, and too much room, for a test."""
    answer = read_python_answer(Question("heavy", "sglang", tuple(row["argv"]), {}), row)
    assert (answer.outcome, answer.argument) == (row["outcome"], row["argument"]), answer


def test_the_remedy_names_the_key_of_the_inventory() -> None:
    assert describe_change(llama("-c", "x"), "-c") == "correct or remove -c in anvil_serves.heavy.args"
    assert describe_change(llama(A="x"), "A") == "correct or remove A in anvil_serves.heavy.environment"
