"""The engines and the templates of their command lines."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import find_flag
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engine_options import OPTIONS
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import ENGINES
from conftest import REPO


def test_each_engine_has_the_template_of_its_command_line_and_a_table_of_options() -> None:
    assert {path.stem for path in (REPO / "templates" / "engines").glob("*.j2")} == set(ENGINES) == set(OPTIONS)


@pytest.mark.parametrize(
    ("word", "abbreviates", "flag"),
    [
        ("--served-model-name", True, "--served-model-name"),
        ("--served_model", True, "--served-model-name"),
        ("--served=x", True, "--served-model-name"),
        ("--po", True, "--port"),
        ("--p", True, ""),
        ("--port-range", True, ""),
        ("-p", True, ""),
        ("--served", False, ""),
        ("x", True, ""),
    ],
)
def test_the_beginning_of_a_flag_is_enough_for_some_engines(word: str, abbreviates: bool, flag: str) -> None:
    assert find_flag(word, ("--served-model-name", "--port"), abbreviates) == flag


def test_a_flag_has_one_meaning_in_its_engine() -> None:
    for options in OPTIONS.values():
        flags = [flag for option in options.values() for flag in (*option.flags, *option.off)]
        variables = [name for option in options.values() for name in (*option.variables, *option.off_variables)]
        assert len(flags) == len(set(flags)) and len(variables) == len(set(variables))
