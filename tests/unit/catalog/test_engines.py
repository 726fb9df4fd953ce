"""Flags and values are read from the command lines of the engines."""

from __future__ import annotations

from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import ENGINES, flag_of, read_flag, read_token_flag
from conftest import REPO


def test_each_engine_has_the_template_of_its_command_line() -> None:
    assert {path.stem for path in (REPO / "templates" / "engines").glob("*.j2")} == set(ENGINES)


def test_the_last_flag_with_a_value_counts_with_dashes_or_underscores() -> None:
    assert read_flag(["--a", "1", "--a=2"], "--a") == "2"
    assert read_flag(["--a_b", "1", "--a-b=2_c"], "--a-b") == "2_c"
    assert read_flag(["--a", "1", "-b", "2"], "--a", "-b") == "2"
    assert read_flag(["--a", "1", "--a"], "--a") == "1"
    assert read_flag(["--a"], "--a") is None and read_flag(["--b", "--c"], "--a") is None


def test_a_last_value_that_is_no_number_of_tokens_is_none() -> None:
    assert read_token_flag(["--max-model-len", "32k"], "--max-model-len") == 32000
    assert read_token_flag(["-c", "4096", "--ctx-size=8192"], "-c", "--ctx-size") == 8192
    assert read_token_flag(["--max-model-len=4096", "--max-model-len", "auto"], "--max-model-len") is None


def test_an_argument_with_leading_dashes_is_a_flag() -> None:
    assert [flag_of(word) for word in ("--max_model_len=5", "-c", "-1", "model", "")] == ["--max-model-len", "-c", "", "", ""]
